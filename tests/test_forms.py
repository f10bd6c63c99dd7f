"""Every form of SSIM against the oracle: windows, borders, statistics, dimensions, ranges, types."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import oracle
from fused_ssim import FusedSSIMMap, fused_ssim, fused_ssim3d, l1_ssim_loss, ssim, ssim_and_mse
from images import noise, noise_pair
from measure import leaf, max_error, relative_error

SHAPES = {1: (2, 3, 41), 2: (2, 3, 23, 19), 3: (1, 2, 12, 13, 14)}
SMALL = {1: (2, 1, 9), 2: (1, 2, 6, 7), 3: (1, 1, 5, 6, 5)}
PADDINGS = ["same", "valid", "reflect", "replicate"]
LOPSIDED = [0.1, 0.25, 0.4, 0.15, 0.1]
THREE = [0.2, 0.5, 0.3]
FORMS = {
    "gaussian": {},
    "small gaussian": {"window_size": 5, "sigma": 0.8},
    "uniform": {"window": "uniform", "window_size": 7},
    "lopsided": {"window": LOPSIDED},
    "a window for each axis": {"window": [[0.25, 0.5, 0.25], LOPSIDED, THREE]},
    "an axis alone": {"window": [[1.0], [1.0], LOPSIDED]},
    "sample covariance": {"window": "uniform", "window_size": 3, "unbiased": True},
    "contrast": {"component": "contrast", "window_size": 7},
    "luminance": {"component": "luminance", "window_size": 7},
    "data range": {"data_range": 2.0, "k1": 0.02, "k2": 0.05, "window_size": 5},
    "data range of each image": {"data_range": torch.tensor([0.7, 3.0]), "window_size": 3},
}
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
each_dimension = pytest.mark.parametrize("dims", [1, 2, 3])
each_padding = pytest.mark.parametrize("padding", PADDINGS)


def definition(form, dims, padding="same", batch=2):
    """The arguments for so many dimensions and images."""
    form = {"spatial_dims": dims, "padding": padding, **form}
    if isinstance(form.get("window"), list) and isinstance(form["window"][0], list):
        form["window"] = form["window"][-dims:]
    if torch.is_tensor(form.get("data_range")):
        form["data_range"] = form["data_range"][:batch]
    return form


def images(device, *shape, dtype=torch.float32):
    return tuple(leaf(image.to(device).to(dtype)) for image in noise_pair(*shape))


def check_gradients(found, truth, bound):
    for gradient, by in zip(found, truth, strict=True):
        assert relative_error(gradient, by) <= bound


@each_form
@each_dimension
@each_padding
def test_against_the_oracle(device, way, form, dims, padding):
    x, y = images(device, *SHAPES[dims])
    # Of few pixels in a row some variances are the small difference of two large squares.
    few = form is FORMS["an axis alone"] or (dims == 1 and form is FORMS["sample covariance"])
    bound = 2e-5 if few else 5e-6
    form = definition(form, dims, padding, x.shape[0])
    expected = oracle.ssim_map(x.detach(), y.detach(), **form)
    values = ssim(x, y, reduction="none", **form)
    assert values.dtype == torch.float32
    assert values.is_contiguous()
    assert max_error(values, expected) <= bound
    for reduction in ("mean", "image", "channel"):
        found = ssim(x, y, reduction=reduction, **form)
        assert max_error(found, oracle.reduce_map(expected, reduction)) <= 1e-6
    found = ssim(x, y, reduction="sum", **form)
    assert max_error(found, expected.sum()) <= 1e-6 * expected.numel()

    upstream = noise(*expected.shape, seed=8).to(device) - 0.3
    truth = oracle.gradients(lambda a, b: oracle.ssim_map(a, b, **form), x, y, upstream)
    check_gradients(torch.autograd.grad(values, (x, y), upstream), truth, 1e-5)
    upstream = noise(*expected.shape[:2], seed=9).to(device) - 0.3
    truth = oracle.gradients(
        lambda a, b: oracle.ssim(a, b, reduction="channel", **form), x, y, upstream
    )
    found = torch.autograd.grad(ssim(x, y, reduction="channel", **form), (x, y), upstream)
    check_gradients(found, truth, 1e-5)


@each_form
@each_dimension
def test_float64(device, way, form, dims):
    x, y = images(device, *SHAPES[dims], dtype=torch.float64)
    form = definition(form, dims, "reflect", x.shape[0])
    values = ssim(x, y, reduction="none", **form)
    assert values.dtype == torch.float64
    assert max_error(values, oracle.ssim_map(x, y, **form)) <= 1e-12
    truth = oracle.gradients(lambda a, b: oracle.ssim(a, b, **form), x, y)
    check_gradients(torch.autograd.grad(ssim(x, y, **form), (x, y)), truth, 1e-11)


# Of the smallest windows, for finite differences have two evaluations for each pixel.
CHECKED = {
    "lopsided": {"window": THREE},
    "uniform": {"window": "uniform", "window_size": 3, "unbiased": True},
    "contrast": {"component": "contrast", "window": THREE},
    "luminance": {"component": "luminance", "window": THREE},
}


@pytest.mark.parametrize("form", CHECKED.values(), ids=CHECKED.keys())
@each_dimension
@each_padding
def test_finite_differences(device, way, form, dims, padding):
    x, y = images(device, *SMALL[dims], dtype=torch.float64)
    form = definition(form, dims, padding)
    assert gradcheck(lambda a, b: ssim(a, b, **form), (x, y), fast_mode=True)
    assert gradcheck(lambda a, b: ssim(a, b, reduction="none", **form), (x, y), fast_mode=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # torch's own, on first use
@pytest.mark.parametrize("form", CHECKED.values(), ids=CHECKED.keys())
@pytest.mark.parametrize("padding", ["same", "reflect"])
def test_second_and_forward_derivatives(device, form, padding, monkeypatch):
    from fused_ssim import _route

    monkeypatch.setattr(_route, "composite_is_forced", True)
    x, y = images(device, 1, 1, 4, 5, dtype=torch.float64)
    form = definition(form, 2, padding)
    for function in (
        lambda a, b: ssim(a, b, **form),
        lambda a, b: ssim(a, b, reduction="none", **form),
    ):
        assert gradgradcheck(function, (x, y), fast_mode=True)
        assert gradcheck(
            function, (x, y), fast_mode=True, check_forward_ad=True, check_batched_grad=True
        )


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # torch's own, on first use
def test_transforms(device, way):
    x, y = (image.detach() for image in images(device, 4, 2, 12, 13))
    expected = torch.stack([ssim(a[None], b[None]) for a, b in zip(x, y, strict=True)])
    vmapped = torch.func.vmap(lambda a, b: ssim(a, b))(x[:, None], y[:, None])
    assert max_error(vmapped, expected) <= 1e-6
    by_x = torch.func.vmap(torch.func.grad(lambda a, b: ssim(a, b)))(x[:, None], y[:, None])[:, 0]
    z = leaf(x.clone())
    (expected,) = torch.autograd.grad(ssim(z, y, reduction="image").sum(), z)
    assert relative_error(by_x, expected) <= 1e-5
    direction = noise(*x.shape, seed=3).to(device)
    _, tangent = torch.func.jvp(lambda a: ssim(a, y, reduction="sum"), (x,), (direction,))
    assert relative_error(
        tangent, x.shape[0] / 4 * (expected * direction).sum() * x[0].numel()
    ) <= (1e-4)


@each_padding
@each_dimension
@pytest.mark.parametrize("component", ["ssim", "contrast", "luminance"])
def test_identical_images(device, way, component, dims, padding):
    x, _ = images(device, *SHAPES[dims])
    y = leaf(x.detach().clone())
    form = {"padding": padding, "spatial_dims": dims, "component": component}
    values = ssim(x, y, reduction="none", **form)
    assert torch.equal(values, torch.ones_like(values))
    for gradient in torch.autograd.grad(ssim(x, y, **form), (x, y)):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("component", ["ssim", "contrast", "luminance"])
def test_opposite_images_stay_in_range(device, way, component):
    x = (noise(2, 3, 40, 41) - 0.5).to(device)
    for scale in (1.0, 100.0):
        values = ssim(scale * x, -scale * x, component=component, reduction="none")
        assert values.max() <= 1
        assert values.min() >= -1


@each_dimension
def test_drop_ins(device, way, dims):
    x, y = images(device, *SHAPES[dims])
    for padding in ("same", "valid"):
        form = {"padding": padding, "spatial_dims": dims}
        expected = ssim(x, y, **form)
        if dims > 1:
            function = {2: fused_ssim, 3: fused_ssim3d}[dims]
            assert torch.equal(function(x, y, padding), expected)
            # By another kernel on CUDA.
            assert max_error(function(x, y, padding, train=False), expected) <= 1e-6
            values = FusedSSIMMap.apply(1e-4, 9e-4, x, y, padding, True, dims)
            assert max_error(values, ssim(x, y, reduction="none", **form)) <= 1e-6
        loss = l1_ssim_loss(x, y, 0.3, **form)
        assert max_error(loss, oracle.l1_ssim_loss(x.detach(), y.detach(), 0.3, **form)) <= 1e-6
        truth = oracle.gradients(lambda a, b, f=form: oracle.l1_ssim_loss(a, b, 0.3, **f), x, y)
        check_gradients(torch.autograd.grad(loss, (x, y)), truth, 5e-6)


@each_dimension
def test_train_false_refuses_backward(device, way, dims):
    x, y = images(device, *SHAPES[dims])
    results = [l1_ssim_loss(x, y, train=False, spatial_dims=dims)]
    if dims > 1:
        results.append({2: fused_ssim, 3: fused_ssim3d}[dims](x, y, train=False))
        results.append(FusedSSIMMap.apply(1e-4, 9e-4, x, y, "same", False, dims).mean())
    for result in results:
        with pytest.raises(RuntimeError, match="train=True"):
            result.backward()


def test_image_without_a_batch(device, way):
    x, y = images(device, 3, 20, 21)
    whole = {"x": x[None], "y": y[None]}
    mask = (noise(3, 20, 21, seed=4) > 0.5).to(device)
    for m, full in (
        (None, None),
        (mask, mask[None]),
        (mask[0], mask[0]),
        (mask[:1], mask[None, :1]),
    ):
        for reduction, rank in {"mean": 0, "sum": 0, "image": 0, "channel": 1, "none": 3}.items():
            found = ssim(x, y, reduction=reduction, mask=m, padding="valid")
            expected = ssim(whole["x"], whole["y"], reduction=reduction, mask=full, padding="valid")
            assert found.dim() == rank
            assert torch.equal(found, expected[0] if expected.dim() else expected)


# ---- types --------------------------------------------------------------------------------------


def bytes_pair(device, *shape):
    return tuple((image * 255).round().to(torch.uint8).to(device) for image in noise_pair(*shape))


@each_padding
@pytest.mark.parametrize("data_range", [1, 255])
def test_uint8(device, way, data_range, padding):
    a, b = bytes_pair(device, 2, 3, 20, 22)
    scale = 255 if data_range == 1 else 1
    form = {"data_range": data_range, "padding": padding}
    expected = oracle.ssim_map(a.double() / scale, b.double() / scale, **form)
    assert max_error(ssim(a, b, reduction="none", **form), expected) <= 5e-6
    assert torch.equal(ssim(a, a, **form), torch.ones((), device=device))
    # A uint8 target beside a prediction, in either place, and equal where the pixels are equal.
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        x = leaf((b.float() / scale).to(dtype))
        expected = oracle.ssim_map(x.detach(), a.double() / scale, **form)
        assert max_error(ssim(x, a, reduction="none", **form), expected) <= 5e-6
        truth, _ = oracle.gradients(
            lambda p, q, f=form: oracle.ssim(p, q, reduction="sum", **f), x, a.double() / scale
        )
        (by_x,) = torch.autograd.grad(ssim(a, x, reduction="sum", **form), x)
        assert by_x.dtype == dtype
        # Gradients of padded images are rounded once more, where they are added up.
        bound = {torch.float16: 2**-9, torch.bfloat16: 2**-6}.get(dtype, 1e-5)
        assert relative_error(by_x, truth) <= bound
    exact = a.float() / scale
    assert torch.equal(ssim(a, exact, **form), torch.ones((), device=device))


def test_uint8_in_drop_ins(device, way):
    a, b = bytes_pair(device, 2, 3, 20, 22)
    x, y = a.double() / 255, b.double() / 255
    assert max_error(fused_ssim(a, b), oracle.ssim(x, y)) <= 1e-6
    assert max_error(l1_ssim_loss(a, b), oracle.l1_ssim_loss(x, y)) <= 1e-6
    volume, other = bytes_pair(device, 1, 1, 8, 9, 10)
    expected = oracle.ssim(volume / 255, other / 255, spatial_dims=3)
    assert max_error(fused_ssim3d(volume, other), expected) <= 1e-6


@pytest.mark.parametrize("first", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("second", [torch.float16, torch.bfloat16, torch.float32])
def test_mixed_types(device, way, first, second):
    x, y = noise_pair(2, 3, 20, 22)
    x, y = leaf(x.to(device).to(first)), leaf(y.to(device).to(second))
    value = fused_ssim(x, y)
    assert value.dtype == torch.float32
    assert max_error(value, oracle.ssim(x.detach(), y.detach())) <= 1e-6
    scale = x.numel()
    truth = oracle.gradients(lambda a, b: scale * oracle.l1_ssim_loss(a, b), x, y)
    found = torch.autograd.grad(scale * l1_ssim_loss(x, y), (x, y))
    bounds = {torch.float16: 2**-10, torch.bfloat16: 2**-7, torch.float32: 5e-6}
    for gradient, by, image in zip(found, truth, (x, y), strict=True):
        assert gradient.dtype == image.dtype
        assert relative_error(gradient, by) <= bounds[image.dtype]


def test_float16_under_a_loss_scale(device, way):
    # A mean's gradient is a millionth here, which float16 does not have without the scale.
    x, y = (leaf(image.to(device).half()) for image in noise_pair(1, 3, 300, 310))
    scale = 2.0**16
    (found,) = torch.autograd.grad(scale * fused_ssim(x, y), x)
    truth, _ = oracle.gradients(lambda a, b: scale * oracle.ssim(a, b), x, y)
    assert relative_error(found, truth) <= 2e-3


# ---- the mean squared error beside it -----------------------------------------------------------


@pytest.mark.parametrize("form", [form for form in FORMS.values() if "component" not in form])
@pytest.mark.parametrize(
    ("dims", "padding"), [(1, "same"), (2, "same"), (2, "valid"), (2, "replicate"), (3, "reflect")]
)
def test_ssim_and_mse(device, way, form, dims, padding):
    x, y = images(device, *SHAPES[dims])
    form = definition(form, dims, padding, x.shape[0])
    value, mse = ssim_and_mse(x, y, **form)
    expected = oracle.ssim(x.detach(), y.detach(), reduction="channel", **form)
    assert max_error(value, expected) <= 1e-6
    assert max_error(mse, oracle.mse(x.detach(), y.detach(), **form)) <= 1e-6
    for result in (value, mse):
        with pytest.raises(RuntimeError, match="without a gradient"):
            result.sum().backward()


@pytest.mark.parametrize("data_range", [1, 255])
def test_ssim_and_mse_of_bytes(device, way, data_range):
    a, b = bytes_pair(device, 2, 3, 20, 22)
    scale = 255 if data_range == 1 else 1
    value, mse = ssim_and_mse(a, b, data_range=data_range)
    x, y = a.double() / scale, b.double() / scale
    expected = oracle.ssim(x, y, reduction="channel", data_range=data_range)
    assert max_error(value, expected) <= 1e-6
    assert max_error(mse, oracle.mse(x, y)) <= 1e-6 * data_range**2
    assert not mse.requires_grad
