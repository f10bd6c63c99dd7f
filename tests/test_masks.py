"""Masks: as weights of the map, and inside windows, in every reduction, over nothing, with NaN."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.autograd import gradcheck

import oracle
from fused_ssim import L1SSIMLoss, _route, l1_ssim_loss, ssim
from images import BY_NAME, EQUAL_PAIRS, PAIRS, noise, noise_pair, pair
from measure import leaf, max_error, relative_error

SHAPE = (2, 3, 21, 18)
MODES = ["weighted", "normalized"]
REDUCTIONS = ["mean", "sum", "image", "channel", "none"]


@pytest.fixture
def by_kernels(monkeypatch):
    """Of what kernels alone promise, also where the suite runs by the composite."""
    monkeypatch.setattr(_route, "composite_is_forced", False)


def bools(*shape, seed=20):
    return noise(*shape, seed=seed) > 0.4


def floats(*shape, seed=21):
    return (2 * noise(*shape, seed=seed) - 0.8).clamp(0, 1)


MASKS = {
    "bool": bools(21, 18),
    "bool for each image": bools(2, 1, 21, 18),
    "float for each plane": floats(*SHAPE),
    "float for each channel": floats(1, 3, 21, 18),
    "half": floats(21, 18).half(),
    "an object": (torch.arange(21)[:, None] - 10) ** 2 + (torch.arange(18) - 8) ** 2 < 30,
}
each_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
each_mode = pytest.mark.parametrize("mode", MODES)


def images(device, *shape, dtype=torch.float32):
    return tuple(leaf(i.to(device).to(dtype)) for i in noise_pair(*(shape or SHAPE)))


def check_reductions(x, y, **form):
    """Values and gradients of every reduction against the oracle."""
    for reduction in REDUCTIONS:
        found = ssim(x, y, reduction=reduction, **form)
        expected = oracle.ssim(x.detach(), y.detach(), reduction=reduction, **form)
        bound = {"none": 5e-6, "sum": 1e-6 * x.numel()}.get(reduction, 1e-6)
        assert max_error(found, expected) <= bound
        upstream = noise(*expected.shape, seed=8).to(x.device) + 0.2
        truth = oracle.gradients(
            lambda a, b, r=reduction: oracle.ssim(a, b, reduction=r, **form), x, y, upstream
        )
        gradients = torch.autograd.grad(found, (x, y), upstream.to(found.dtype))
        for gradient, by in zip(gradients, truth, strict=True):
            assert relative_error(gradient, by) <= 2e-5


@each_mask
@each_mode
@pytest.mark.parametrize("padding", ["same", "valid", "reflect", "replicate"])
def test_against_the_oracle(device, way, mask, mode, padding):
    x, y = images(device)
    mask = mask.to(device)
    form = {"mask": mask, "mask_mode": mode, "padding": padding, "window_size": 7}
    check_reductions(x, y, **form)


@each_mask
@each_mode
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_loss(device, way, mask, mode, padding):
    x, y = images(device)
    form = {"mask": mask.to(device), "mask_mode": mode, "padding": padding}
    loss = l1_ssim_loss(x, y, 0.3, **form)
    expected = oracle.l1_ssim_loss(x.detach(), y.detach(), 0.3, **form)
    assert max_error(loss, expected) <= 1e-6
    assert torch.equal(L1SSIMLoss(0.3, padding, mask_mode=mode)(x, y, form["mask"]), loss)
    truth = oracle.gradients(lambda a, b: oracle.l1_ssim_loss(a, b, 0.3, **form), x, y)
    for gradient, by in zip(torch.autograd.grad(loss, (x, y)), truth, strict=True):
        assert relative_error(gradient, by) <= 1e-5


@each_mode
@pytest.mark.parametrize("padding", ["same", "valid", "reflect", "replicate"])
def test_mask_of_ones_changes_nothing(device, way, mode, padding):
    x, y = images(device)
    form = {"padding": padding, "window_size": 9}
    for mask in (torch.ones(21, 18, dtype=torch.bool), torch.ones(2, 1, 21, 18)):
        for reduction in REDUCTIONS:
            plain = ssim(x, y, reduction=reduction, **form)
            found = ssim(x, y, reduction=reduction, mask=mask.to(device), mask_mode=mode, **form)
            scale = x.numel() if reduction == "sum" else 1
            assert max_error(found, plain) <= 1e-6 * scale


@each_mode
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_nothing_to_compare(device, way, mode, dtype):
    x, y = images(device)
    mask = torch.zeros(21, 18, dtype=dtype, device=device)
    empty = {"mean": 1.0, "sum": 0.0, "image": 1.0, "channel": 1.0, "none": 1.0}
    for reduction, number in empty.items():
        found = ssim(x, y, reduction=reduction, mask=mask, mask_mode=mode)
        assert torch.equal(found, torch.full_like(found, number))
        for gradient in torch.autograd.grad(found.sum(), (x, y)):
            assert torch.equal(gradient, torch.zeros_like(gradient))
    loss = l1_ssim_loss(x, y, 0.3, mask=mask, mask_mode=mode)
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, (x, y)):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@each_mode
@pytest.mark.parametrize("bad", [torch.nan, -1.0, -torch.inf])
def test_what_is_no_weight_counts_as_zero(device, way, mode, bad):
    x, y = images(device)
    mask = MASKS["float for each plane"].to(device)
    other = mask.where(mask > 0, bad)
    assert not torch.equal(mask, other)
    for reduction in REDUCTIONS:
        found, expected = (
            ssim(x, y, mask=m, mask_mode=mode, reduction=reduction) for m in (other, mask)
        )
        assert torch.equal(found, expected)
    assert ssim(x, y, mask=torch.full_like(mask, bad), mask_mode=mode) == 1


@each_mode
def test_one_image_without_pixels(device, way, mode):
    # Means are each by their own weights, and that of everything is no mean of means.
    x, y = images(device)
    mask = bools(2, 1, 21, 18).to(device)
    mask[1] = False
    form = {"mask": mask, "mask_mode": mode}
    per_image = ssim(x, y, reduction="image", **form)
    assert per_image[1].item() == 1
    assert max_error(ssim(x, y, **form), per_image[0]) <= 1e-6
    assert torch.equal(ssim(x, y, reduction="channel", **form)[1], torch.ones(3, device=device))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("padding", ["same", "valid", "reflect", "replicate"])
def test_normalized_sees_nothing_under_the_mask(device, way, bad, padding):
    x, y = images(device)
    mask = MASKS["an object"].to(device)
    form = {"mask": mask, "mask_mode": "normalized", "padding": padding}
    whole = {"same": "same", "valid": "valid"}.get(padding)
    spoilt = [leaf(torch.where(mask, image.detach(), bad)) for image in (x, y)]
    for reduction in REDUCTIONS:
        found = ssim(*spoilt, reduction=reduction, **form)
        assert max_error(found, ssim(x, y, reduction=reduction, **form)) <= 1e-6 * x.numel()
        for gradient in torch.autograd.grad(found.sum(), spoilt):
            assert gradient.isfinite().all()
            assert torch.equal(gradient[:, :, ~mask], torch.zeros_like(gradient[:, :, ~mask]))
    if whole is None:
        return
    loss = l1_ssim_loss(*spoilt, mask=mask, mask_mode="normalized", padding=whole)
    expected = l1_ssim_loss(x, y, mask=mask, mask_mode="normalized", padding=whole)
    assert max_error(loss, expected) <= 1e-6
    for gradient in torch.autograd.grad(loss, spoilt):
        assert gradient.isfinite().all()
        assert torch.equal(gradient[:, :, ~mask], torch.zeros_like(gradient[:, :, ~mask]))


@each_mode
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("shape", [(37, 64), (1, 1, 37, 64), (2, 1, 37, 64), (1, 3, 37, 64)])
def test_rows_of_whole_quads(device, mode, padding, shape):
    # As CUDA's kernels for aligned rows have them, against float64.
    x, y = (leaf(image.to(device)) for image in noise_pair(2, 3, 37, 64))
    mask = bools(*shape).to(device)
    mask[..., 5:20, 10:50] = True
    hidden = (~mask).expand(x.shape)
    for reduction in ("mean", "sum", "image", "channel"):
        form = {"mask": mask, "mask_mode": mode, "padding": padding, "reduction": reduction}
        exact = [leaf(image.detach().double()) for image in (x, y)]
        expected = ssim(*exact, **form)
        found = ssim(x, y, **form)
        assert max_error(found, expected) <= 1e-6 * (x.numel() if reduction == "sum" else 1)
        pairs = zip(
            torch.autograd.grad(found.sum(), (x, y)),
            torch.autograd.grad(expected.sum(), exact),
            strict=True,
        )
        for gradient, reference in pairs:
            assert max_error(gradient, reference) <= 1e-4 * reference.abs().max()
            if mode == "normalized":
                assert (gradient[hidden] == 0).all()


@each_mode
def test_a_visible_nan_is_in_the_value(device, mode):
    x, y = (leaf(image.to(device)) for image in noise_pair(1, 3, 37, 64))
    mask = bools(37, 64).to(device)
    mask[20, 30] = True
    with torch.no_grad():
        x[0, 1, 20, 30] = torch.nan
    value = ssim(x, y, mask=mask, mask_mode=mode)
    assert value.isnan()
    for gradient in torch.autograd.grad(value, (x, y)):
        assert gradient[0, 0].isfinite().all()


def test_weighted_windows_see_masked_pixels(device, way):
    x, y = (image.detach().clone() for image in images(device))
    mask = torch.ones(21, 18, dtype=torch.bool, device=device)
    mask[10, 9] = False
    x[..., 10, 9] = torch.nan
    assert ssim(x, y, mask=mask).isnan()
    assert ssim(x, y, mask=mask, mask_mode="normalized").isfinite()
    # Where no window with a weight reaches it, it counts for nothing.
    mask[4:16, 3:] = False
    assert ssim(x, y, mask=mask).isfinite()


@each_mode
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_finite_differences(device, way, mode, dims):
    shape = {1: (2, 1, 8), 2: (1, 2, 5, 6), 3: (1, 1, 4, 5, 4)}[dims]
    x, y = images(device, *shape, dtype=torch.float64)
    form = {"mask_mode": mode, "spatial_dims": dims}
    for mask in (bools(*shape[2:]).to(device), floats(*shape).to(device)):
        assert gradcheck(
            lambda a, b, m=mask: ssim(a, b, mask=m, window_size=3, padding="replicate", **form),
            (x, y),
            fast_mode=True,
        )
        loss = lambda a, b, m=mask: l1_ssim_loss(a, b, mask=m, **form)
        assert gradcheck(loss, (x, y), fast_mode=True)


@each_mode
def test_sample_covariance(device, way, mode):
    x, y = images(device)
    form = {"mask": MASKS["bool"].to(device), "mask_mode": mode, "window": "uniform"}
    form |= {"window_size": 5, "unbiased": True, "padding": "reflect"}
    assert max_error(ssim(x, y, **form), oracle.ssim(x.detach(), y.detach(), **form)) <= 1e-6


def test_window_that_misses_all_valid_pixels(device, way):
    # A window may have a tap of 0 at its centre, so that a pixel with weight sees none.
    x, y = images(device)
    mask = torch.zeros(21, 18, dtype=torch.bool, device=device)
    mask[10, 9] = True
    values = ssim(x, y, window=[0.5, 0.0, 0.5], mask=mask, mask_mode="normalized", reduction="none")
    assert torch.equal(values, torch.ones_like(values))


# ---- what kernels do in ways of their own -------------------------------------------------------


def check(x, y, *, gradient_bound=2e-5, **form):
    """The map, the means of planes and their gradients by both images against the oracle."""
    for reduction, bound in (("none", 5e-6), ("channel", 1e-6)):
        found = ssim(x, y, reduction=reduction, **form)
        a, b = x.detach(), y.detach()
        assert max_error(found, oracle.ssim(a, b, reduction=reduction, **form)) <= bound
        upstream = noise(*found.shape, seed=8).to(found) + 0.2
        truth = oracle.gradients(
            lambda p, q, r=reduction: oracle.ssim(p, q, reduction=r, **form), a, b, upstream
        )
        gradients = torch.autograd.grad(found, (x, y), upstream)
        for gradient, by in zip(gradients, truth, strict=True):
            assert relative_error(gradient, by) <= gradient_bound
            # A norm over the image could hide one wrong pixel at a seam.
            assert max_error(gradient, by) <= 10 * gradient_bound * by.abs().max()


LEANING = [0.1, 0.1, 0.2, 0.2, 0.4]
WINDOWS = {
    "one tap": {"window_size": 1},
    "3 taps": {"window_size": 3},
    "uniform": {"window": "uniform", "window_size": 7},
    "33 taps": {"window_size": 33, "sigma": 4.0},
    "one for each axis": {"window": [LEANING, [0.25, 0.5, 0.25]]},
    "asymmetric": {"window": LEANING},
}


@each_mode
@pytest.mark.parametrize("component", ["ssim", "contrast", "luminance"])
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS.keys())
def test_windows_and_components(device, mode, component, window):
    x, y = images(device)
    mask = MASKS["float for each plane"].to(device)
    form = {"mask": mask, "mask_mode": mode, "component": component, **window}
    if component == "contrast" and window.get("window_size") == 1:
        # Of one pixel no variance is left, and so no gradient.
        assert torch.equal(ssim(x, y, reduction="none", **form), torch.ones_like(x))
        return
    check(x, y, **form)


@each_mode
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 13, 961), (1, 1, 13, 1921), (1, 1, 403, 17), (1, 2, 64, 65)], ids=str
)
def test_seams(device, mode, padding, shape):
    # Around strips of 960 columns and bands of rows; the mask leaves whole windows out.
    x, y = images(device, *shape)
    mask = noise(*shape[2:], seed=5).to(device) > 0.3
    mask[:, 300:330] = False
    mask[5, :] = False
    check(x, y, mask=mask, mask_mode=mode, padding=padding)


@pytest.mark.parametrize("window_size", [11, 33])
@pytest.mark.parametrize("kept", [0.05, 0.004])
@pytest.mark.parametrize("shape", [(1, 2, 90, 101), (1, 1, 20, 22, 24)], ids=str)
@pytest.mark.usefixtures("by_kernels")
def test_few_pixels_see_each_other(device, shape, kept, window_size):
    # Of a window's one or two pixels the variance is the difference of large squares, or none.
    x, y = images(device, *shape)
    mask = (noise(*shape[2:], seed=6) < kept).to(device)
    form = {"window_size": window_size, "sigma": window_size / 7, "spatial_dims": len(shape) - 2}
    form |= {"gradient_bound": 1e-4, "mask_mode": "normalized"}
    check(x, y, mask=mask, **form)


VOLUME_WINDOWS = {
    "standard": {},
    "uniform": {"window": "uniform", "window_size": 5},
    "one for each axis": {"window": [LEANING, [0.25, 0.5, 0.25], [1.0]]},
}


@each_mode
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("window", VOLUME_WINDOWS.values(), ids=VOLUME_WINDOWS.keys())
def test_volumes(device, mode, padding, window):
    shape = (1, 2, 19, 28, 37)  # several chunks of slices, groups of rows, and lanes
    x, y = images(device, *shape)
    form = {"mask_mode": mode, "padding": padding, "spatial_dims": 3, **window}
    holes = bools(*shape[2:]).to(device)
    holes[:, 3:15, 20:] = False
    for mask in (holes, floats(*shape).to(device).double()):
        check(x, y, mask=mask, **form)


@each_mode
def test_types_of_volumes(device, mode):
    shape = (2, 1, 13, 12, 18)
    x, y = images(device, *shape)
    form = {"mask": floats(*shape).half().to(device), "mask_mode": mode, "spatial_dims": 3}
    u = (255 * y.detach()).round().byte()
    for image in (x.detach().half(), x.detach().bfloat16(), x.detach().double()):
        given = leaf(image)
        loss = l1_ssim_loss(given, u, 0.3, **form)
        expected = partial(oracle.l1_ssim_loss, ssim_weight=0.3, **form)
        assert max_error(loss, expected(image, u / 255)) <= 1e-6
        truth, _ = oracle.gradients(expected, image, u.double() / 255)
        gradient = torch.autograd.grad(x.numel() * loss, given)[0]
        bound = max(2e-5, torch.finfo(image.dtype).eps)
        assert relative_error(gradient, x.numel() * truth) <= bound
    assert max_error(
        ssim(u, u.flip(-1), **form), oracle.ssim(u / 255, u.flip(-1) / 255, **form)
    ) <= (1e-6)


def test_volumes_see_nothing_under_a_normalized_mask(device):
    x, y = images(device, 1, 2, 19, 20, 21)
    mask = bools(19, 20, 21).to(device)
    form = {"mask": mask, "mask_mode": "normalized", "spatial_dims": 3}
    spoilt = [leaf(torch.where(mask, image.detach(), torch.nan)) for image in (x, y)]
    for function in (ssim, l1_ssim_loss, partial(ssim, reduction="none")):
        found, expected = function(*spoilt, **form), function(x, y, **form)
        assert torch.equal(found, expected)
        for gradient, truth in zip(
            torch.autograd.grad(found.sum(), spoilt),
            torch.autograd.grad(expected.sum(), (x, y)),
            strict=True,
        ):
            assert torch.equal(gradient, truth)
            assert torch.equal(gradient[:, :, ~mask], torch.zeros_like(gradient[:, :, ~mask]))
    form["mask"] = torch.zeros_like(mask)
    loss = l1_ssim_loss(*spoilt, **form)
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, spoilt):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@each_mode
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 1, 30), (2, 2, 30, 1), (1, 3, 3, 5)])
def test_small_images(device, mode, shape):
    x, y = images(device, *shape)
    check(x, y, mask=floats(*shape).to(device) + 0.01, mask_mode=mode)


@each_mode
@pytest.mark.usefixtures("by_kernels")
def test_any_strides(device, mode):
    x, y = images(device)
    mask = MASKS["float for each plane"].to(device)
    stored = {
        "channels_last": mask.to(memory_format=torch.channels_last),
        "columns first": mask.transpose(-1, -2).contiguous().transpose(-1, -2),
        "every other": torch.stack([mask, mask - 9], dim=-1)[..., 0],
        "float64": mask.double(),
    }
    for reduction in ("mean", "none"):
        form = {"mask_mode": mode, "reduction": reduction}
        expected = ssim(x, y, mask=mask, **form)
        for given in stored.values():
            found = ssim(x, y, mask=given, **form)
            # On CUDA strides and types choose the kernel, and so the order of sums.
            assert max_error(found, expected) <= (1e-6 if device == "cuda" else 0.0)
    interleaved = [leaf(i.detach().to(memory_format=torch.channels_last)) for i in (x, y)]
    check(*interleaved, mask=mask, mask_mode=mode)


@each_mode
def test_uint8(device, mode):
    x, y = images(device)
    u, v = ((255 * image.detach()).round().byte() for image in (x, y))
    form = {"mask": MASKS["bool"].to(device), "mask_mode": mode}
    for window in ({}, {"window": "uniform", "window_size": 7}):
        expected = oracle.ssim(u / 255, v / 255, **form, **window)
        assert max_error(ssim(u, v, **form, **window), expected) <= 1e-6
        assert max_error(ssim(u / 255, v, **form, **window), expected) <= 1e-6
    loss = l1_ssim_loss(x, v, **form)
    assert max_error(loss, oracle.l1_ssim_loss(x.detach(), v / 255, **form)) <= 1e-6


@each_mode
@pytest.mark.parametrize("reduction", ["mean", "sum", "image", "channel"])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_half_precision_under_a_scaler(device, way, mode, reduction, padding):
    # Gradients of a mean are too small for float16 until a GradScaler's factor has met them.
    scale = 1.0 if reduction == "sum" else 2.0**12
    x, y = images(device, dtype=torch.float16)
    for mask in (MASKS["bool for each image"].to(device), MASKS["half"].to(device)):
        form = {"mask": mask, "mask_mode": mode, "reduction": reduction, "padding": padding}
        found = torch.autograd.grad(scale * ssim(x, y.float(), **form).sum(), x)[0]
        truth, _ = oracle.gradients(
            lambda a, b, f=form: scale * oracle.ssim(a, b, **f).sum(), x.detach(), y.detach()
        )
        assert found.dtype == torch.float16
        assert relative_error(found, truth) <= 2e-3


@each_mode
@pytest.mark.parametrize("name", [p.name for p in PAIRS])
@pytest.mark.usefixtures("by_kernels")
def test_accuracy(device, mode, name):
    # The bounds of images without a mask.
    x, y = (leaf(image.to(device).clone()) for image in pair(name))
    size = x.shape[-2:]
    near = (torch.arange(size[0])[:, None] - 60) ** 2 + (torch.arange(size[1]) - 70) ** 2 < 40**2
    for mask in (bools(*size).to(device), near.to(device)):
        form = {"mask": mask, "mask_mode": mode}
        a, b = x.detach(), y.detach()
        values = ssim(x, y, reduction="none", **form)
        bound = {"photograph": 1e-4, "synthetic": 5e-6}[BY_NAME[name].kind]
        assert max_error(values, oracle.ssim_map(a, b, **form)) <= bound
        mean = ssim(x, y, **form)
        assert max_error(mean, oracle.ssim(a, b, **form)) <= 1e-6
        if name in EQUAL_PAIRS:
            assert torch.equal(values, torch.ones_like(values))
            assert mean.item() == 1
            continue
        truth = oracle.gradients(lambda p, q, f=form: oracle.ssim(p, q, **f), a, b)
        for gradient, by in zip(torch.autograd.grad(mean, (x, y)), truth, strict=True):
            assert relative_error(gradient, by) <= 1e-4


@each_mode
def test_equal_images_under_any_mask(device, way, mode):
    x, _ = images(device)
    for mask in MASKS.values():
        form = {"mask": mask.to(device), "mask_mode": mode}
        for reduction in ("mean", "image", "channel", "none"):
            values = ssim(x, x.detach(), reduction=reduction, **form)
            assert torch.equal(values, torch.ones_like(values))
        assert l1_ssim_loss(x, x.detach(), **form).item() == 0


@each_mode
@pytest.mark.parametrize("shape", [(1, 3, 211, 283), (2, 1, 64, 1931), (1, 1, 40, 37, 21)], ids=str)
@pytest.mark.usefixtures("by_kernels")
def test_any_number_of_threads(restore_threads, mode, shape):
    x, y = images("cpu", *shape)
    form = {"mask": floats(*shape[2:]), "mask_mode": mode, "spatial_dims": len(shape) - 2}

    def everything():
        results = []
        for value in (
            ssim(x, y, reduction="none", **form),
            ssim(x, y, reduction="image", **form),
            l1_ssim_loss(x, y, **form),
        ):
            results += [value.detach(), *torch.autograd.grad(value.sum(), (x, y))]
        return results

    torch.set_num_threads(1)
    reference = everything()
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        for found, expected in zip(everything(), reference, strict=True):
            assert torch.equal(found, expected)


@each_mode
def test_without_a_gradient(device, way, mode):
    x, y = images(device)
    form = {"mask": MASKS["bool"].to(device), "mask_mode": mode}
    loss = l1_ssim_loss(x, y, train=False, **form)
    assert max_error(loss, l1_ssim_loss(x, y, **form)) <= 1e-6
    with pytest.raises(RuntimeError, match="computed without a gradient"):
        loss.backward()
    with torch.no_grad():
        assert not ssim(x, y, **form).requires_grad


@pytest.mark.compiles
@each_mode
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_compiled(device, mode, dtype):
    x, y = images(device, dtype=dtype)
    form = {"mask": MASKS["bool"].to(device), "mask_mode": mode}
    for function in (ssim, l1_ssim_loss):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        found, expected = compiled(x, y, **form), function(x, y, **form)
        assert torch.equal(found, expected)
        for gradient, truth in zip(
            torch.autograd.grad(1000 * found, (x, y)),
            torch.autograd.grad(1000 * expected, (x, y)),
            strict=True,
        ):
            assert torch.equal(gradient, truth)


@each_mode
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.usefixtures("by_kernels")
def test_one_pass(device, monkeypatch, mode, dims):
    # No composite: kernels serve both modes, and the loss, too.
    def fail(*arguments, **options):
        raise AssertionError("the composite was called")

    monkeypatch.setattr(_route._composite, "reduced", fail)
    monkeypatch.setattr(_route._composite, "mapped", fail)
    shape = (2, 3, 13, 12, 14)[: 2 + dims]
    x, y = images(device, *shape)
    for mask in (bools(*shape[2:]).to(device), floats(2, 1, *shape[2:]).to(device)):
        form = {"mask": mask, "mask_mode": mode, "spatial_dims": dims}
        for padding in ("same", "valid"):
            check_reductions(x, y, padding=padding, **form)
        ssim(x, y, reduction="none", padding="reflect", **form).sum().backward()
        loss = l1_ssim_loss(x, y, 0.3, **form)
        assert max_error(loss, oracle.l1_ssim_loss(x.detach(), y.detach(), 0.3, **form)) <= 1e-6
        loss.backward()
        ssim(x, y, data_range=torch.tensor([1.0, 2.0]), **form).backward()
