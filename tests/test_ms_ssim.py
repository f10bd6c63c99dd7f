"""Multi-scale SSIM: against the oracle and its peers, where scales are negative, at every size."""

from __future__ import annotations

import pytest
import pytorch_msssim
import torch
from torch.autograd import gradcheck, gradgradcheck
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

import oracle
from fused_ssim import MS_SSIM, ms_ssim
from images import noise, noise_pair, pair
from measure import leaf, max_error, relative_error

SMALL = {"window_size": 3, "sigma": 0.8, "weights": (0.2, 0.5, 0.3)}
SIZES = {1: [(40,), (43,)], 2: [(16, 24), (17, 19), (23, 18)], 3: [(12, 13, 16), (15, 12, 13)]}


def images(device, *shape, dtype=torch.float32):
    return tuple(leaf(image.to(device).to(dtype)) for image in noise_pair(*shape))


def check(x, y, bound=1e-5, gradient_bound=1e-4, **form):
    truth = oracle.ms_ssim(x.detach(), y.detach(), reduction="channel", **form)
    for reduction in ("mean", "sum", "image", "channel"):
        found = ms_ssim(x, y, reduction=reduction, **form)
        expected = {
            "mean": truth.mean(),
            "sum": truth.sum(),
            "image": truth.mean(1),
            "channel": truth,
        }
        assert max_error(found, expected[reduction]) <= bound
    gradients = torch.autograd.grad(ms_ssim(x, y, **form), (x, y))
    truth = oracle.gradients(lambda a, b: oracle.ms_ssim(a, b, **form), x, y)
    for gradient, by in zip(gradients, truth, strict=True):
        assert relative_error(gradient, by) <= gradient_bound


@pytest.mark.parametrize("odd_sizes", ["pad", "crop"])
@pytest.mark.parametrize("negative", ["relu", "smooth"])
@pytest.mark.parametrize("padding", ["same", "valid", "reflect", "replicate"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_against_the_oracle(device, way, dims, padding, negative, odd_sizes):
    for sizes in SIZES[dims]:
        x, y = images(device, 2, 2, *sizes)
        form = {"padding": padding, "negative": negative, "odd_sizes": odd_sizes}
        check(x, y, spatial_dims=dims, **SMALL, **form)


@pytest.mark.parametrize("name", ["photo_noise", "photo_blur", "two_photos", "uniform_noise"])
def test_pictures(device, way, name):
    x, y = (leaf(image[:, :1].to(device).clone()) for image in pair(name))
    check(x, y)


@pytest.mark.parametrize("odd_sizes", ["pad", "crop"])
@pytest.mark.parametrize("data_range", [255.0, torch.tensor([0.5, 2.0])])
def test_data_range(device, way, data_range, odd_sizes):
    x, y = images(device, 2, 1, 20, 21)
    scale = 1 if torch.is_tensor(data_range) else data_range
    x, y = leaf((scale * x).detach()), leaf((scale * y).detach())
    check(x, y, data_range=data_range, odd_sizes=odd_sizes, **SMALL)


def test_types(device, way):
    a, b = ((255 * image).byte().to(device) for image in noise_pair(2, 2, 20, 21))
    expected = oracle.ms_ssim(a.double() / 255, b.double() / 255, **SMALL)
    assert max_error(ms_ssim(a, b, **SMALL), expected) <= 1e-5
    assert max_error(ms_ssim(a, b, data_range=255, **SMALL), expected) <= 1e-5
    x = leaf((b.float() / 255).half())
    value = ms_ssim(x, a, **SMALL)
    assert value.dtype == torch.float32
    assert max_error(value, oracle.ms_ssim(x.detach(), a.double() / 255, **SMALL)) <= 1e-5
    (gradient,) = torch.autograd.grad(1000 * value, x)
    truth, _ = oracle.gradients(
        lambda p, q: 1000 * oracle.ms_ssim(p, q, **SMALL), x, a.double() / 255
    )
    assert gradient.dtype == torch.float16
    assert relative_error(gradient, truth) <= 2**-9
    exact = x.detach().double()
    assert ms_ssim(exact, exact, **SMALL).dtype == torch.float64


@pytest.mark.parametrize("size", [(161, 170), (176, 200), (257, 193)])
def test_pytorch_msssim(device, way, size):
    x, y = images(device, 2, 3, *size)
    a, b = leaf(x.detach().double()), leaf(y.detach().double())
    theirs = pytorch_msssim.ms_ssim(a, b, data_range=1, size_average=False)
    assert max_error(ms_ssim(x, y, reduction="image"), theirs) <= 1e-5
    truth = torch.autograd.grad(theirs.mean(), (a, b))
    found = torch.autograd.grad(MS_SSIM()(x, y), (x, y))
    for gradient, by in zip(found, truth, strict=True):
        assert relative_error(gradient, by) <= 1e-4


def test_pytorch_msssim_where_it_is_negative(device, way):
    # Theirs is 0 there by a relu; so is ours.
    x = noise(1, 1, 180, 180).to(device)
    theirs = pytorch_msssim.ms_ssim(x.double(), 1 - x.double(), data_range=1)
    assert theirs == 0
    assert ms_ssim(x, 1 - x) == 0


def test_torchmetrics(device, way):
    # It averages the contrast over the channels before the power, so one channel compares; and it
    # reflects and crops, which is "valid", except at the coarsest scale.
    x, y = (image.detach() for image in images(device, 2, 1, 192, 208))
    weights = (0.4, 0.6, 0.0)
    theirs = multiscale_structural_similarity_index_measure(
        x.double(), y.double(), data_range=1.0, betas=weights, normalize="relu"
    )
    assert max_error(ms_ssim(x, y, weights=weights), theirs) <= 1e-5


@pytest.mark.parametrize("negative", ["relu", "smooth"])
def test_negative_contrast(device, way, negative):
    x, _ = images(device, 1, 1, 40, 41)
    y = leaf(1 - x.detach())
    value = ms_ssim(x, y, negative=negative, **SMALL)
    truth = oracle.ms_ssim(x.detach(), y.detach(), negative=negative, **SMALL)
    assert max_error(value, truth) <= 1e-6
    gradients = torch.autograd.grad(value, (x, y))
    assert all(gradient.isfinite().all() for gradient in gradients)
    if negative == "relu":
        assert value == 0
        assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients)
    else:
        assert 0 < value < 1
        assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_smooth_power_is_once_differentiable_and_monotone():
    from fused_ssim._scales import power

    for weight in (0.05, 0.3, 1.0, 2.5):
        c = leaf(torch.linspace(-1, 1, 4001, dtype=torch.float64))
        factor = power(c, weight, "smooth")
        (slope,) = torch.autograd.grad(factor.sum(), c)
        assert (factor > 0).all()
        assert factor.max() <= 1
        assert (slope > 0).all()
        assert (factor.diff() > 0).all()
        at = torch.tensor([0.01 - 1e-9, 0.01 + 1e-9], dtype=torch.float64)
        at = leaf(at)
        below, above = torch.autograd.grad(power(at, weight, "smooth").sum(), at)[0]
        assert abs(below - above) <= 1e-5 * above


def test_means_of_exactly_zero_and_weights_of_zero(device, way):
    from fused_ssim._scales import power

    c = leaf(torch.tensor([0.0, -0.0, -0.5, 0.25], device=device))
    for weight in (0.0, 0.3, 1.0, 2.0):
        factor = power(c, weight, "relu")
        expected = torch.tensor([0.0, 0.0, 0.0, 0.25**weight]) if weight else torch.ones(4)
        assert max_error(factor, expected) <= 1e-7
        (slope,) = torch.autograd.grad(factor.sum(), c)
        assert torch.equal(slope[:3], torch.zeros(3, device=device))
    x, y = images(device, 1, 1, 40, 41)
    form = {"window_size": 3}
    alone = ms_ssim(x, y, weights=(1.0,), **form)
    assert max_error(ms_ssim(x, y, weights=(0.0, 1.0), **form), alone) > 1e-3
    for padding, create_graph in (("valid", False), ("valid", True), ("reflect", False)):
        value = ms_ssim(x, y, weights=(0.0, 0.0), padding=padding, **form)
        assert value == 1
        (gradient,) = torch.autograd.grad(value, x, create_graph=create_graph)
        assert (gradient == 0).all()


@pytest.mark.parametrize("negative", ["relu", "smooth"])
def test_identical_images(device, way, negative):
    x, _ = images(device, 2, 3, 161, 170)
    y = leaf(x.detach().clone())
    value = ms_ssim(x, y, negative=negative)
    assert value == 1
    for gradient in torch.autograd.grad(value, (x, y)):
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_flat_and_black_images(device, way):
    for level in (0.0, 0.4, 1.0):
        x = leaf(torch.full((1, 1, 161, 161), level, device=device))
        y = leaf(torch.full((1, 1, 161, 161), 1 - level, device=device))
        value = ms_ssim(x, y)
        assert value.isfinite()
        assert all(g.isfinite().all() for g in torch.autograd.grad(value, (x, y)))


def test_images_with_nan_have_no_score(device, way):
    x, y = (image.detach().clone() for image in images(device, 2, 1, 40, 41))
    x[0, 0, 20, 20] = torch.nan
    found = ms_ssim(x, y, reduction="image", **SMALL)
    assert found.isnan().tolist() == [True, False]


@pytest.mark.parametrize("negative", ["relu", "smooth"])
@pytest.mark.parametrize("odd_sizes", ["pad", "crop"])
def test_finite_differences(device, way, negative, odd_sizes):
    x, y = images(device, 1, 2, 7, 9, dtype=torch.float64)
    form = {"window_size": 3, "weights": (0.4, 0.6), "negative": negative, "odd_sizes": odd_sizes}
    assert gradcheck(lambda a, b: ms_ssim(a, b, **form), (x, y), fast_mode=True)


def test_second_derivatives(device):
    from fused_ssim import _route

    x, y = images(device, 1, 1, 6, 7, dtype=torch.float64)
    form = {"window_size": 3, "weights": (0.4, 0.6)}
    with _route.by_torch_operations():
        assert gradgradcheck(lambda a, b: ms_ssim(a, b, **form), (x, y), fast_mode=True)


@pytest.mark.parametrize(
    ("form", "least"),
    [
        ({}, 161),
        ({"odd_sizes": "crop"}, 176),
        ({"window_size": 7}, 97),
        ({"window_size": 3, "weights": (0.5, 0.5), "odd_sizes": "crop"}, 6),
        ({"padding": "reflect", "weights": (0.5, 0.5)}, 11),
        ({"padding": "same", "odd_sizes": "crop"}, 16),
        ({"padding": "replicate"}, 1),
    ],
)
def test_least_size(device, way, form, least):
    x, y = images(device, 1, 1, least, least + 1)
    assert ms_ssim(x, y, **form).isfinite()
    if least > 1:
        with pytest.raises(ValueError, match=rf"at least {least}\b.*\[1, 1, {least - 1}, "):
            ms_ssim(x[:, :, 1:], y[:, :, 1:], **form)


@pytest.mark.parametrize("odd_sizes", ["pad", "crop"])
@pytest.mark.parametrize("negative", ["relu", "smooth"])
@pytest.mark.parametrize("scales", range(1, 9))
def test_one_to_eight_scales(device, way, scales, negative, odd_sizes):
    weights = torch.linspace(0.1, 0.5, scales).tolist()
    size = 2 ** (scales - 1)
    for padding, least in (("same", 1), ("valid", 3)):
        x, y = images(device, 1, 1, least * size + 3, least * size)
        form = {"weights": weights, "padding": padding, "negative": negative}
        if scales < 7:  # the oracle's time
            check(x, y, window_size=3, odd_sizes=odd_sizes, **form)
        else:
            value = ms_ssim(x, y, window_size=3, odd_sizes=odd_sizes, **form)
            truth = oracle.ms_ssim(
                x.detach(), y.detach(), window_size=3, odd_sizes=odd_sizes, **form
            )
            assert max_error(value, truth) <= 1e-5


LAYOUTS = {
    "channels_last": lambda image: image.contiguous(memory_format=torch.channels_last),
    "transposed": lambda image: image.mT.contiguous().mT,
    "expanded": lambda image: image[:1, :1].expand(image.shape),
    "gaps": lambda image: torch.stack([image, image], -1)[..., 0],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_strides(device, way, layout):
    x, y = (image.detach() for image in images(device, 2, 3, 21, 30))
    x, y = leaf(layout(x)), leaf(y)
    check(x, y, **SMALL)
    (gradient,) = torch.autograd.grad(ms_ssim(x, y, **SMALL), x)
    if layout is LAYOUTS["channels_last"] and way == "default":
        assert gradient.stride() == x.stride()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("other", [torch.float32, torch.uint8, None], ids=str)
def test_half_precision(device, way, dtype, other):
    # A million pixels and an incoming gradient as GradScaler has it: nothing under- or overflows.
    x, y = noise_pair(1, 1, 700, 701)
    y = (255 * y).byte() if other == torch.uint8 else y.to(other or dtype)
    x, y = leaf(x.to(dtype).to(device)), y.to(device)
    (found,) = torch.autograd.grad(ms_ssim(x, y) * 2.0**16, x)
    assert found.dtype == dtype
    exact = y.double() / 255 if other == torch.uint8 else y
    truth, _ = oracle.gradients(oracle.ms_ssim, x, exact)
    assert relative_error(found.double() / 2.0**16, truth) <= torch.finfo(dtype).eps


def test_one_gradient_alone_or_both(device, way):
    x, y = images(device, 2, 2, 20, 23)
    both = torch.autograd.grad(ms_ssim(x, y, **SMALL), (x, y))
    (first,) = torch.autograd.grad(ms_ssim(x, y.detach(), **SMALL), x)
    (second,) = torch.autograd.grad(ms_ssim(x.detach(), y, **SMALL), y)
    for alone, together in zip((first, second), both, strict=True):
        assert relative_error(alone, together) <= 1e-6
    with torch.no_grad():
        assert not ms_ssim(x, y, **SMALL).requires_grad


def test_a_graph_that_is_kept(device, way):
    x, y = images(device, 2, 2, 20, 23)
    value = ms_ssim(x, y, reduction="channel", **SMALL)
    upstream = noise(2, 2).to(device)
    first = torch.autograd.grad(value, (x, y), upstream, retain_graph=True)
    twice = torch.autograd.grad(value, (x, y), 2 * upstream, retain_graph=True)
    last = torch.autograd.grad(value, (x, y), upstream)
    for a, b, c in zip(first, twice, last, strict=True):
        assert torch.equal(a, c)
        assert relative_error(b, 2 * a) <= 1e-6


def test_gradients_of_torch_func():
    x, y = (image.detach() for image in images("cpu", 1, 1, 20, 23, dtype=torch.float64))
    gradient = torch.func.grad(lambda a: ms_ssim(a, y, **SMALL))(x)
    truth, _ = oracle.gradients(lambda a, b: oracle.ms_ssim(a, b, **SMALL), x, y)
    assert relative_error(gradient, truth) <= 1e-9


@pytest.mark.parametrize("negative", ["relu", "smooth"])
def test_a_factor_of_zero(device, way, negative):
    # Opposite planes have negative contrast, the others must not notice.
    x, y = (image.detach().clone() for image in images(device, 1, 2, 40, 41))
    y[:, 0] = 1 - x[:, 0]
    x, y = leaf(x), leaf(y)
    value = ms_ssim(x, y, reduction="channel", negative=negative, **SMALL)
    truth = oracle.ms_ssim(x.detach(), y.detach(), reduction="channel", negative=negative, **SMALL)
    assert max_error(value, truth) <= 1e-5
    found = torch.autograd.grad(value.sum(), (x, y))
    truth = oracle.gradients(
        lambda a, b: oracle.ms_ssim(a, b, reduction="channel", negative=negative, **SMALL), x, y
    )
    for gradient, by in zip(found, truth, strict=True):
        assert (gradient[:, 0].abs().max() > 0) == (negative == "smooth")
        assert relative_error(gradient[:, 1], by[:, 1]) <= 1e-4
        assert negative == "relu" or relative_error(gradient[:, 0], by[:, 0]) <= 1e-4


@pytest.mark.parametrize("weights", [(0.0, 1.0, 0.0), (1e-3, 40.0, 2.0), (1e300, 1e-300, 0.5)])
@pytest.mark.parametrize("negative", ["relu", "smooth"])
def test_extreme_weights_give_numbers(device, negative, weights):
    x, y = images(device, 1, 1, 40, 41)
    for a, b in ((x, y), (x, leaf(1 - x.detach())), (x, leaf(x.detach().clone()))):
        value = ms_ssim(a, b, negative=negative, **{**SMALL, "weights": weights})
        assert value.isfinite()
        assert all(g.isfinite().all() for g in torch.autograd.grad(value, (a, b)))


def test_more_scales_than_a_kernel_takes(device):
    # From the fourth on they are single pixels, a quarter of the one before.
    x, y = images(device, 1, 1, 4, 5)
    form = {"window_size": 1, "weights": [1 / 40] * 40}
    value = ms_ssim(x, y, **form)
    assert max_error(value, oracle.ms_ssim(x.detach(), y.detach(), **form)) <= 1e-5
    assert all(g.isfinite().all() for g in torch.autograd.grad(value, (x, y)))


@pytest.mark.parametrize("threads", [1, 3])
def test_the_same_bits_for_any_number_of_threads(restore_threads, threads):
    x, y = images("cpu", 1, 3, 301, 407)
    torch.set_num_threads(2)
    expected = ms_ssim(x, y)
    gradients = torch.autograd.grad(expected, (x, y))
    torch.set_num_threads(threads)
    value = ms_ssim(x, y)
    assert torch.equal(value, expected)
    assert all(map(torch.equal, torch.autograd.grad(value, (x, y)), gradients))
