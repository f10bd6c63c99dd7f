"""float16, bfloat16, float32 and float64: arithmetic, results, gradients, autocast."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import oracle
from fused_ssim import (
    FusedSSIMMap,
    _route,
    fused_ssim,
    fused_ssim3d,
    l1_ssim_loss,
    ms_ssim,
    ssim,
    ssim_and_mse,
)
from images import noise, noise_pair, pair
from measure import gradient_scaler, leaf, max_error, relative_error

RESULT = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}
DTYPES = list(RESULT)
# The oracle reads the same rounded pixels, so a map differs only by the arithmetic.
MAP_BOUND = {
    torch.float16: 5e-6,
    torch.bfloat16: 5e-6,
    torch.float32: 5e-6,
    torch.float64: 1e-12,
}
MEAN_BOUND = dict.fromkeys(DTYPES, 1e-6) | {torch.float64: 1e-13}
# A gradient is rounded to the images' type, at most twice: unit gradient, then its factor.
GRADIENT_BOUND = {
    torch.float16: 2**-11,
    torch.bfloat16: 2**-8,
    torch.float32: 5e-6,
    torch.float64: 1e-11,
}


def images(device, dtype, *shape):
    return tuple(
        leaf(image.to(device).to(dtype)) for image in noise_pair(*(shape or (2, 3, 33, 47)))
    )


@pytest.mark.reduced
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_map(device, dtype, padding):
    x, y = images(device, dtype)
    expected = oracle.ssim_map(x.detach(), y.detach(), padding=padding)
    for values in (
        ssim(x, y, padding=padding, reduction="none"),
        FusedSSIMMap.apply(1e-4, 9e-4, x, y, padding),
    ):
        assert values.dtype == RESULT[dtype]
        assert max_error(values, expected) <= MAP_BOUND[dtype]


@pytest.mark.reduced
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_value(device, dtype, padding):
    x, y = images(device, dtype)
    expected = oracle.ssim(x.detach(), y.detach(), padding=padding)
    for value in (
        fused_ssim(x, y, padding),
        fused_ssim(x.detach(), y.detach(), padding),
        fused_ssim(x, y, padding, train=False),
    ):
        assert value.dtype == RESULT[dtype]
        assert max_error(value, expected) <= MEAN_BOUND[dtype]
    loss = l1_ssim_loss(x, y, padding=padding)
    assert loss.dtype == RESULT[dtype]
    expected = oracle.l1_ssim_loss(x.detach(), y.detach(), padding=padding)
    assert max_error(loss, expected) <= MEAN_BOUND[dtype]


@pytest.mark.reduced
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient(device, dtype, padding):
    x, y = images(device, dtype)
    # Of a mean over many pixels float16 has nothing left (see below), hence times their number.
    scale = x.numel()
    functions = {
        "mean": (
            lambda a, b: scale * ssim(a, b, padding=padding),
            lambda a, b: scale * oracle.ssim(a, b, padding=padding),
        ),
        "map": (
            lambda a, b: ssim(a, b, padding=padding, reduction="none").sum(),
            lambda a, b: oracle.ssim_map(a, b, padding=padding).sum(),
        ),
        "loss": (
            lambda a, b: scale * l1_ssim_loss(a, b, padding=padding),
            lambda a, b: scale * oracle.l1_ssim_loss(a, b, padding=padding),
        ),
    }
    for name, (ours, truth) in functions.items():
        found = torch.autograd.grad(ours(x, y), (x, y))
        for gradient, by in zip(found, oracle.gradients(truth, x, y), strict=True):
            assert gradient.dtype == dtype
            assert relative_error(gradient, by) <= GRADIENT_BOUND[dtype], name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["photo_noise", "two_photos", "bright_low_texture"])
def test_half_precision_on_pictures(device, dtype, name):
    # Accumulated in float32: no worse than float32 images of the same pixels.
    x, y = (image.to(device).to(dtype) for image in pair(name))
    values = ssim(x, y, reduction="none")
    assert max_error(values, oracle.ssim_map(x, y)) <= (1e-4 if "photo" in name else 5e-6)
    assert max_error(ssim(x, y), oracle.ssim(x, y)) <= 1e-6
    assert max_error(ssim(x, y), ssim(x.float(), y.float()).double()) <= 1e-6


def test_float64_on_pictures(device):
    x, y = (leaf(image.to(device).double()) for image in pair("photo_noise"))
    assert max_error(ssim(x, y, reduction="none"), oracle.ssim_map(x, y)) <= 1e-11
    found = torch.autograd.grad(ssim(x, y), (x, y))
    for gradient, by in zip(found, oracle.gradients(oracle.ssim, x, y), strict=True):
        assert relative_error(gradient, by) <= 1e-11


def test_float64_windows(device):
    x, y = (leaf(image.to(device).double()) for image in noise_pair(1, 2, 35, 39))
    for size in (3, 7, 33):
        definition = {"window_size": size, "sigma": size / 5}
        values = ssim(x, y, reduction="none", **definition)
        assert max_error(values, oracle.ssim_map(x, y, **definition)) <= 1e-12
        found = torch.autograd.grad(ssim(x, y, **definition), (x, y))
        truth = oracle.gradients(lambda a, b, d=definition: oracle.ssim(a, b, **d), x, y)
        for gradient, by in zip(found, truth, strict=True):
            assert relative_error(gradient, by) <= 1e-11


def test_float16_and_a_loss_scaler(device):
    # The mean's gradient is some 1e-5 here, where float16 has few digits; scaled up it has all.
    x, y = images(device, torch.float16)
    (found,) = torch.autograd.grad(4096 * fused_ssim(x, y), x)
    truth, _ = oracle.gradients(lambda a, b: 4096 * oracle.ssim(a, b), x, y)
    assert relative_error(found, truth) <= 2**-10


@pytest.mark.parametrize("dtype", DTYPES)
def test_offset_by_one_element(device, dtype):
    # Not aligned to more than the element's own size.
    x, y = (image.detach() for image in images(device, dtype))
    storage = torch.empty(x.numel() + 1, device=device, dtype=dtype)
    moved = storage[1:].view(x.shape).copy_(x)
    assert torch.equal(ssim(moved, y), ssim(x, y))
    assert torch.equal(ssim(y, moved, reduction="none"), ssim(y, x, reduction="none"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_upstream_of_the_result_s_type(device, dtype):
    x, y = images(device, dtype)
    values = ssim(x, y, reduction="none")
    upstream = noise(*values.shape, seed=1).to(device).to(values.dtype)
    (found,) = torch.autograd.grad(values, x, upstream)
    truth, _ = oracle.gradients(oracle.ssim_map, x, y, upstream)
    assert found.dtype == dtype
    assert relative_error(found, truth) <= GRADIENT_BOUND[dtype]


def test_float16_where_threads_flush_subnormals():
    """As they do once a library built with -ffast-math is loaded, a kernel of torch.compile's, say."""
    x, y = (image.mul(5e-5).half() for image in noise_pair(1, 2, 21, 38))
    expected = oracle.ssim_map(x, y, data_range=5e-5)
    kept = bool(torch.tensor(1e-40) * 1 != 0)
    torch.set_flush_denormal(True)
    try:
        values = ssim(x, y, data_range=5e-5, reduction="none")
    finally:
        torch.set_flush_denormal(not kept)
    assert max_error(values, expected) <= MAP_BOUND[torch.float16]


# Before torch 2.4 the CPU has autocast to bfloat16 alone.
@pytest.mark.parametrize(
    "autocast_dtype", [torch.bfloat16, torch.float16][: 1 if torch.__version__ < "2.4" else 2]
)
def test_autocast_leaves_the_arithmetic_alone(device, autocast_dtype):
    x, y = images(device, torch.float32)
    expected = [fused_ssim(x, y), l1_ssim_loss(x, y), ssim(x, y, reduction="none")]
    with torch.autocast(device, dtype=autocast_dtype):
        found = [fused_ssim(x, y), l1_ssim_loss(x, y), ssim(x, y, reduction="none")]
    for ours, reference in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, reference)
    (inside,) = torch.autograd.grad(found[0], x)
    (outside,) = torch.autograd.grad(expected[0], x)
    assert torch.equal(inside, outside)


def everything(x, y):
    """All public functions, as numbers."""
    small = {"window_size": 3, "weights": (0.5, 0.5)}
    return {
        "fused_ssim": fused_ssim(x, y),
        "map": FusedSSIMMap.apply(1e-4, 9e-4, x, y),
        "reflect": ssim(x, y, padding="reflect"),
        "image": ssim(x, y, reduction="image"),
        "ms_ssim": ms_ssim(x, y, **small),
        "ssim_and_mse": ssim_and_mse(x, y)[0],
        "volume": fused_ssim3d(x[:, None], y[:, None]),
        "loss": 1 - l1_ssim_loss(x, y),
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_equal_images_under_autocast(device, way, dtype):
    if device == "cpu" and torch.__version__ < "2.4" and dtype == torch.float16:
        pytest.skip("before torch 2.4 the CPU has autocast to bfloat16 alone")
    x, y = images(device, dtype)
    with torch.autocast(device, dtype=dtype):
        for name, value in everything(x, x.clone()).items():
            assert value.dtype == torch.float32, name
            assert torch.equal(value, torch.ones_like(value)), name
        found = everything(x, y)
    for name, value in everything(x.float(), y.float()).items():
        assert max_error(found[name], value) <= 1e-6, name


class Seen(TorchDispatchMode):
    """What operators are given."""

    def __init__(self):
        super().__init__()
        self.names = set()
        self.dtypes = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function._schema.name)
        self.dtypes.update(a.dtype for a in args if isinstance(a, torch.Tensor) and a.dim() == 4)
        return function(*args, **(kwargs or {}))


def test_autocast_copies_no_image(device):
    x, y = images(device, torch.bfloat16)
    with torch.autocast(device, dtype=torch.bfloat16), Seen() as seen:
        value = l1_ssim_loss(x, y)
    value.backward()
    assert x.grad.dtype == torch.bfloat16
    if not _route.composite_is_forced:
        assert seen.names == {"fused_ssim::ssim"}
        assert seen.dtypes == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_network_learns_under_autocast(device, dtype):
    if device == "cpu" and torch.__version__ < "2.4" and dtype == torch.float16:
        pytest.skip("before torch 2.4 the CPU has autocast to bfloat16 alone")
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 3, 3, padding=1).to(device)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.02)
    scaler = gradient_scaler(device, 2.0**16, enabled=dtype == torch.float16)
    _, y = images(device, torch.float32)
    y = y.detach()
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        with torch.autocast(device, dtype=dtype):
            loss = l1_ssim_loss(layer(y), y, 0.8)
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_behind_a_network_under_autocast(device):
    # The layer returns bfloat16, and so must the target be.
    layer = torch.nn.Conv2d(3, 3, 3, padding=1).to(device)
    x, y = images(device, torch.float32)
    with torch.autocast(device, dtype=torch.bfloat16):
        output = layer(x)
        assert output.dtype == torch.bfloat16
        loss = 1 - fused_ssim(output, y.to(output.dtype))
    assert loss.dtype == torch.float32
    loss.backward()
    assert layer.weight.grad.abs().sum() > 0
    assert layer.weight.grad.isfinite().all()
