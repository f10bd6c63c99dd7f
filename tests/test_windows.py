"""Other windows, sigmas, stabilisers and data ranges than the standard ones."""

from __future__ import annotations

import pytest
import torch

import oracle
from fused_ssim import SSIM, FusedSSIMMap, ssim
from images import noise, noise_pair, pair
from measure import leaf, max_error, relative_error

SIZES = list(range(3, 34, 2))
SIGMAS = [0.3, 0.5, 1.0, 1.5, 2.0, 3.7, 10.0, 1000.0]
LOPSIDED = [0.45, 0.25, 0.15, 0.1, 0.05]
FLAT_WINDOWS = {
    **{f"{size} taps": {"window_size": size, "sigma": size / 5} for size in (3, 5, 7, 9, 11, 13)},
    **{f"uniform {n}": {"window": "uniform", "window_size": n} for n in (3, 5, 7, 9, 11, 13, 33)},
    "lopsided": {"window": LOPSIDED},
    "lopsided, long": {"window": [0.3, 0.3, 0.1, *[0.03] * 10]},
    "nearly one pixel": {"window": [0.9, 0.1, *[0.0] * 11]},
}


def check(device, x, y, padding="same", map_bound=5e-6, gradient_bound=1e-5, **definition):
    x, y = (leaf(image.to(device).clone()) for image in (x, y))
    expected = oracle.ssim_map(x.detach(), y.detach(), padding=padding, **definition)
    values = ssim(x, y, padding=padding, reduction="none", **definition)
    assert max_error(values, expected) <= map_bound
    mean = ssim(x, y, padding=padding, **definition)
    assert max_error(mean, expected.mean()) <= 1e-6
    truth = oracle.gradients(lambda a, b: oracle.ssim(a, b, padding=padding, **definition), x, y)
    for gradient, by in zip(torch.autograd.grad(mean, (x, y)), truth, strict=True):
        assert relative_error(gradient, by) <= gradient_bound
    upstream = noise(*expected.shape, seed=3).to(device) - 0.5
    truth = oracle.gradients(
        lambda a, b: oracle.ssim_map(a, b, padding=padding, **definition), x, y, upstream
    )
    for gradient, by in zip(torch.autograd.grad(values, (x, y), upstream), truth, strict=True):
        assert relative_error(gradient, by) <= gradient_bound


@pytest.mark.reduced
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", SIZES)
def test_sizes(device, size, padding):
    check(device, *noise_pair(1, 2, 45, 67), padding, window_size=size)
    check(device, *noise_pair(1, 1, size + 1, size), padding, window_size=size, sigma=size / 5)


@pytest.mark.reduced
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", [1, 3, 5, 7, 9, 11, 13, 33])
def test_uniform(device, size, padding):
    # Of one pixel there is the luminance alone, whose derivative vanishes where the images agree.
    bound = 2e-5 if size == 1 else 1e-5
    definition = {"window": "uniform", "window_size": size}
    check(device, *noise_pair(1, 2, 45, 67), padding, gradient_bound=bound, **definition)


@pytest.mark.reduced
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("size", [5, 9])
def test_uniform_of_other_types(device, size, dtype):
    x, y = (image.to(device, dtype) for image in noise_pair(1, 2, 45, 67))
    definition = {"window": "uniform", "window_size": size}
    values = ssim(x, y, reduction="none", **definition)
    bound = 1e-12 if dtype == torch.float64 else 5e-6
    assert max_error(values, oracle.ssim_map(x, y, **definition)) <= bound


@pytest.mark.reduced
@pytest.mark.parametrize("size", [1, 3, 5, 7, 9, 11])
def test_another_size_for_each_axis(device, size):
    for other in ([1 / 7] * 7, oracle.gaussian_taps(11, 1.5), LOPSIDED):
        for taps in (oracle.gaussian_taps(size, 0.3 + size / 6), [1 / size] * size):
            check(device, *noise_pair(1, 1, 41, 38), window=[taps, other])
            check(device, *noise_pair(1, 1, 41, 38), window=[other, taps])


def blocks(seed: int) -> torch.Tensor:
    """Flat areas far from the mean of the image."""
    levels = 0.1 + 0.8 * noise(1, 1, 5, 6, seed=seed).round()
    return levels.repeat_interleave(24, 2).repeat_interleave(24, 3)


@pytest.mark.reduced
@pytest.mark.parametrize("component", ["ssim", "contrast"])
@pytest.mark.parametrize("window", FLAT_WINDOWS.values(), ids=FLAT_WINDOWS.keys())
def test_flat_areas(way, component, window):
    # There the rounding of squares stands beside C2 alone. The composite has one shift for a plane.
    bound = {"ssim": 1e-6, "contrast": 3e-6}[component] * (10 if way == "composite" else 1)
    x, y = blocks(0), 0.1 + 0.7 * blocks(1)
    definition = {"component": component, **window}
    expected = oracle.ssim(x, y, **definition)
    assert max_error(ssim(x, y, **definition), expected) <= bound
    assert max_error(ssim(leaf(x), y, **definition), expected) <= bound


@pytest.mark.parametrize("size", [3, 11, 13, 33])
@pytest.mark.parametrize("sigma", SIGMAS)
def test_sigmas(device, size, sigma):
    check(device, *noise_pair(1, 2, 41, 38), window_size=size, sigma=sigma)


@pytest.mark.parametrize("sigma", [0.4, 0.7, 0.92, 1.1, 1.5])
@pytest.mark.parametrize("size", [3, 9, 11, 17])
def test_images_that_vary_along_one_axis(device, size, sigma):
    # A window sees a few different pixels, whose variance may be far smaller than what its
    # neighbours see.
    for shape in ((1, 3, 64, 1), (1, 3, 1, 64)):
        x, y = (image.expand(1, 3, 64, 64) for image in noise_pair(*shape))
        check(device, x, y, gradient_bound=1e-4, window_size=size, sigma=sigma)


@pytest.mark.parametrize("shape", [(1, 4, 2, 1), (1, 4, 1, 6), (1, 4, 11, 1), (2, 3, 5, 7)])
def test_images_that_are_smaller_than_the_window(device, shape):
    # Most of a window is zeros: its variance is a small part of the pixels' squares.
    for size, sigma in ((13, 1.5), (17, 20.0), (33, 1.5), (33, 13.0)):
        check(device, *noise_pair(*shape), map_bound=2e-6, window_size=size, sigma=sigma)


@pytest.mark.parametrize("size", [7, 11, 21, 33])
@pytest.mark.parametrize("name", ["photo_noise", "photo_blur", "bright_low_texture", "two_halves"])
def test_on_pictures(device, size, name):
    x, y = (image[..., 30:150, 100:230] for image in pair(name))
    bound = 1e-4 if name.startswith("photo") else 5e-6
    check(device, x, y, map_bound=bound, gradient_bound=1e-4, window_size=size, sigma=size / 6)


@pytest.mark.parametrize("window", [{}, {"window_size": 7}])
@pytest.mark.parametrize(("k1", "k2"), [(0.02, 0.03), (0.01, 0.1), (0.5, 1.0), (1e-3, 1e-2)])
def test_stabilisers(device, k1, k2, window):
    check(device, *noise_pair(1, 2, 41, 38), k1=k1, k2=k2, **window)


@pytest.mark.parametrize("data_range", [2.0, 255.0, 65535.0, 1e-3])
def test_data_range(device, data_range):
    # SSIM doesn't change where images and data range are scaled alike.
    x, y = noise_pair(1, 3, 41, 38)
    check(device, data_range * x, data_range * y, data_range=data_range)


def test_negative_pixels(device):
    # [-1, 1], as generative models have it.
    x, y = noise_pair(1, 3, 41, 38)
    check(device, 2 * x - 1, 2 * y - 1, data_range=2.0)


@pytest.mark.parametrize("k", [1e-2, 1e-4, 1e-6, 1e-9])
@pytest.mark.parametrize("kind", ["flat patches", "two_halves", "page", "blown_out", "opposite"])
def test_values_stay_in_range(device, kind, k):
    # A variance that rounding made negative counts for nothing beside C2 = 9e-4, and for everything
    # beside a tiny one: then the quotient has no bounds.
    if kind == "flat patches":
        x = noise(1, 1, 8, 8).repeat_interleave(16, 2).repeat_interleave(16, 3)
        y = noise(1, 1, 8, 8, seed=1).repeat_interleave(16, 2).repeat_interleave(16, 3)
    else:
        x, y = pair(kind)
    x, y = leaf(x.to(device).clone()), leaf(y.to(device).clone())
    values = ssim(x, y, k1=k, k2=k, reduction="none")
    assert values.isfinite().all()
    assert values.max() <= 1
    assert values.min() >= -1
    for gradient in torch.autograd.grad(values.mean(), (x, y)):
        assert gradient.isfinite().all()


def test_explicit_default_is_the_default(device):
    x, y = (image.to(device) for image in noise_pair(1, 3, 41, 38))
    explicit = ssim(
        x,
        y,
        data_range=1.0,
        window_size=11,
        sigma=1.5,
        k1=0.01,
        k2=0.03,
        padding="same",
        reduction="mean",
    )
    assert torch.equal(explicit, ssim(x, y))
    assert torch.equal(SSIM()(x, y), ssim(x, y))


@pytest.mark.parametrize(("c1", "c2"), [(1e-4, 9e-4), (0.02**2, 0.05**2), (1.0, 2.0)])
def test_map_takes_c1_and_c2(device, c1, c2):
    x, y = (image.to(device) for image in noise_pair(1, 3, 41, 38))
    values = FusedSSIMMap.apply(c1, c2, x, y)
    assert max_error(values, oracle.ssim_map(x, y, k1=c1**0.5, k2=c2**0.5)) <= 5e-6


def test_integers_serve_as_numbers(device):
    x, y = (image.to(device) for image in noise_pair(1, 1, 20, 20))
    found = ssim(255 * x, 255 * y, data_range=255, sigma=2)
    assert max_error(found, oracle.ssim(x, y, sigma=2.0)) <= 2e-6
