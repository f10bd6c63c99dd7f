"""What kernels serve on every device: windows, components and types, without the composite.

Small images and, on a GPU, some that are large enough for the kernels of large images.
"""

from __future__ import annotations

import types

import pytest
import torch

import oracle
from fused_ssim import _route, l1_ssim_loss, ssim, ssim_and_mse
from images import noise, noise_pair
from measure import leaf, max_error, relative_error

ASYMMETRIC = [0.1, 0.25, 0.4, 0.15, 0.1]
WINDOWS = {
    **{f"gaussian {size}": {"window_size": size} for size in range(3, 17, 2)},
    "gaussian 11, sigma 1": {"sigma": 1.0},
    "gaussian 11, sigma 1.6": {"sigma": 1.6},
    **{f"uniform {size}": {"window": "uniform", "window_size": size} for size in (3, 5, 7, 9, 11)},
    "symmetric": {"window": [0.05, 0.25, 0.4, 0.25, 0.05]},
    "asymmetric": {"window": ASYMMETRIC},
    "for each axis": {"window": [ASYMMETRIC, [0.25, 0.5, 0.25]]},
    "short and long": {"window": [[0.2, 0.6, 0.2], oracle.gaussian_taps(13, 2.0)]},
    "long": {"window_size": 41, "sigma": 7.0},
}
SOME_WINDOWS = ["gaussian 11", "gaussian 7", "gaussian 11, sigma 1.6", "asymmetric", "long"]
COMPONENTS = ["ssim", "contrast", "luminance"]
FLOATS = [torch.float16, torch.bfloat16, torch.float32]
# A gradient is rounded to its image's type, at most twice.
BOUNDS = {torch.float16: 2**-10, torch.bfloat16: 2**-7, torch.float32: 1e-5, torch.float64: 1e-11}
SMALL, LARGE = (2, 3, 47, 58), (1, 3, 611, 704)

each_window = pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS.keys())
some_windows = pytest.mark.parametrize(
    "window", [WINDOWS[name] for name in SOME_WINDOWS], ids=SOME_WINDOWS
)
each_component = pytest.mark.parametrize("component", COMPONENTS)
each_padding = pytest.mark.parametrize("padding", ["same", "valid"])


@pytest.fixture(autouse=True)
def _kernels_alone(monkeypatch):
    """What would go to the composite fails, whatever the environment says."""
    monkeypatch.setattr(_route, "composite_is_forced", False)
    monkeypatch.setattr(_route, "_composite", types.SimpleNamespace())


def images(device, *shape, dtype=torch.float32, other=None):
    """Leaves of two types; bytes stand for their 255th part, and have no gradient."""
    pair = []
    for image, of_type in zip(noise_pair(*shape), (dtype, other or dtype), strict=True):
        if of_type == torch.uint8:
            pair.append((255 * image).round().to(device, torch.uint8))
        else:
            pair.append(leaf(image.to(device, of_type)))
    return pair


def exact(image):
    return image.detach().double() / (255 if image.dtype == torch.uint8 else 1)


def check(x, y, **form):
    """Value, map, loss and all gradients that there are."""
    a, b = exact(x), exact(y)
    in_double = torch.float64 in (x.dtype, y.dtype)
    expected = oracle.ssim_map(a, b, **form)
    values = ssim(x, y, reduction="none", **form)
    assert values.dtype == (torch.float64 if in_double else torch.float32)
    # Of nine pixels some variances are the small difference of two large squares.
    assert max_error(values, expected) <= (1e-12 if in_double else 2e-5)
    for reduction in ("mean", "image", "channel"):
        found = ssim(x, y, reduction=reduction, **form)
        assert max_error(found, oracle.reduce_map(expected, reduction)) <= 1e-6
    # A mean's gradient is too small for float16: it is multiplied by the number of pixels.
    upstream = noise(*expected.shape, seed=3).to(values) - 0.3
    weight = expected.numel()
    leaves = [image for image in (x, y) if image.requires_grad]
    if not leaves:
        return
    for ours, truth in (
        (weight * ssim(x, y, **form), lambda p, q: weight * oracle.ssim(p, q, **form)),
        ((values * upstream).sum(), lambda p, q: (oracle.ssim_map(p, q, **form) * upstream).sum()),
    ):
        by_both = oracle.gradients(truth, a, b)
        wanted = [by for by, image in zip(by_both, (x, y), strict=True) if image.requires_grad]
        for found, by, image in zip(torch.autograd.grad(ours, leaves), wanted, leaves, strict=True):
            assert found.dtype == image.dtype
            assert relative_error(found, by) <= BOUNDS[image.dtype]


@pytest.mark.reduced
@each_window
@each_padding
def test_windows(device, window, padding):
    check(*images(device, *SMALL), padding=padding, **window)


@each_window
def test_windows_in_double_precision(device, window):
    check(*images(device, *SMALL, dtype=torch.float64), **window)


@pytest.mark.reduced
@some_windows
@each_component
@pytest.mark.parametrize("unbiased", [False, True])
def test_components(device, window, component, unbiased):
    form = {"component": component, "unbiased": unbiased, **window}
    check(*images(device, *SMALL), **form)
    check(*images(device, *SMALL, dtype=torch.float32, other=torch.uint8), padding="valid", **form)


@some_windows
@pytest.mark.parametrize("first", [torch.uint8, *FLOATS], ids=str)
@pytest.mark.parametrize("second", [torch.uint8, *FLOATS], ids=str)
def test_types(device, window, first, second):
    x, y = images(device, *SMALL, dtype=first, other=second)
    check(x, y, **window)
    # Rows that are aligned to less, or to no more than an element.
    check(*(leaf_of(image[..., 1:-3]) for image in (x, y)), **window)


def leaf_of(view):
    return leaf(view) if view.is_floating_point() else view


@some_windows
@pytest.mark.parametrize("first", [torch.uint8, torch.float64], ids=str)
def test_float64_beside_bytes(device, window, first):
    second = torch.float64 if first == torch.uint8 else torch.uint8
    check(*images(device, *SMALL, dtype=first, other=second), **window)


@some_windows
@each_component
@pytest.mark.parametrize(
    "other", [torch.float32, torch.uint8, torch.bfloat16, torch.float64], ids=str
)
def test_layouts(device, window, component, other):
    dtype = torch.float64 if other == torch.float64 else torch.float32
    x, y = images(device, *SMALL, dtype=dtype, other=other)
    for first, second in (
        (x.contiguous(memory_format=torch.channels_last), y),
        (x, y.contiguous(memory_format=torch.channels_last)),
        (x.transpose(2, 3).contiguous().transpose(2, 3), y[:1, :1].expand(y.shape)),
    ):
        check(leaf_of(first), leaf_of(second), component=component, **window)


@pytest.mark.parametrize("other", [torch.uint8, torch.float16, torch.bfloat16], ids=str)
@each_padding
def test_loss_of_two_types(device, other, padding):
    x, y = images(device, *SMALL, dtype=torch.float32, other=other)
    loss = l1_ssim_loss(x, y, padding=padding)
    assert max_error(loss, oracle.l1_ssim_loss(exact(x), exact(y), padding=padding)) <= 1e-6
    truth, _ = oracle.gradients(
        lambda p, q: oracle.l1_ssim_loss(p, q, padding=padding), exact(x), exact(y)
    )
    assert relative_error(torch.autograd.grad(loss, x)[0], truth) <= 1e-5


def check_ssim_and_mse(x, y, **form):
    value, mse = ssim_and_mse(x, y, **form)
    expected = oracle.ssim(exact(x), exact(y), reduction="channel", **form)
    assert max_error(value, expected) <= 1e-6
    assert max_error(mse, oracle.mse(exact(x), exact(y), **form)) <= 1e-6


@some_windows
@each_padding
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (torch.float32, torch.float32),
        (torch.uint8, torch.uint8),
        (torch.float16, torch.uint8),
        (torch.float64, torch.float64),
    ],
    ids=str,
)
def test_ssim_and_mse(device, window, padding, first, second):
    x, y = images(device, *SMALL, dtype=first, other=second)
    check_ssim_and_mse(x, y, padding=padding, **window)


@pytest.mark.gpu
@some_windows
@each_component
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (torch.float32, torch.float32),
        (torch.float32, torch.uint8),
        (torch.uint8, torch.uint8),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float16),
    ],
    ids=str,
)
def test_large_images(window, component, first, second):
    x, y = images("cuda", *LARGE, dtype=first, other=second)
    check(x, y, component=component, **window)
    check_ssim_and_mse(x, y, **window)
