"""Sizes at which kernels change their ways: smaller than the window, and around every tile."""

from __future__ import annotations

import pytest
import torch

import oracle
from fused_ssim import fused_ssim, ssim
from images import noise, noise_pair
from measure import leaf, max_error, relative_error

SMALL = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
# Around the widths of vectors, tiles and bands (16 to 512 and their halos), and primes.
EDGES = [15, 16, 17, 21, 23, 26, 31, 32, 33, 37, 53, 63, 64, 65, 74, 75, 97, 118, 127, 128, 129]
LONG = [139, 191, 255, 257, 384, 385, 511, 512, 513, 641]

# Around the widest strips of columns that a kernel keeps in its cache, twice and thrice.
WIDE = [959, 960, 961, 1279, 1280, 1281, 1921]

MAP_BOUND = 5e-6
GRADIENT_BOUND = 5e-6


def check(device, channels, height, width, padding):
    x, y = (
        leaf(image.to(device).clone())
        for image in noise_pair(1, channels, height, width, seed=height + width)
    )
    expected = oracle.ssim_map(x.detach(), y.detach(), padding=padding)
    values = ssim(x, y, padding=padding, reduction="none")
    assert values.shape == expected.shape
    assert max_error(values, expected) <= MAP_BOUND

    mean = fused_ssim(x, y, padding)
    assert max_error(mean, expected.mean()) <= 1e-6
    assert max_error(fused_ssim(x.detach(), y.detach(), padding), expected.mean()) <= 1e-6

    truth = oracle.gradients(lambda a, b: oracle.ssim(a, b, padding=padding), x, y)
    for gradient, by in zip(torch.autograd.grad(mean, (x, y)), truth, strict=True):
        assert relative_error(gradient, by) <= GRADIENT_BOUND
        # A norm over the image could hide one wrong pixel at its border.
        assert max_error(gradient, by) <= 1e-4 * by.abs().max()

    upstream = noise(*expected.shape, seed=3).to(device) - 0.5
    truth = oracle.gradients(lambda a, b: oracle.ssim_map(a, b, padding=padding), x, y, upstream)
    for gradient, by in zip(torch.autograd.grad(values, (x, y), upstream), truth, strict=True):
        assert relative_error(gradient, by) <= GRADIENT_BOUND
        assert max_error(gradient, by) <= 1e-4 * by.abs().max()


@pytest.mark.reduced
@pytest.mark.parametrize("height", SMALL)
def test_small(device, height):
    for width in SMALL:
        check(device, 2, height, width, "same")


@pytest.mark.parametrize("height", [11, 12, 13, 16, 21])
def test_small_valid(device, height):
    for width in [11, 12, 13, 16, 17, 21, 22]:
        check(device, 2, height, width, "valid")


@pytest.mark.reduced
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", EDGES)
def test_edges(device, size, padding):
    for other in (11, 37):
        check(device, 1, size, other, padding)
        check(device, 1, other, size, padding)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", LONG)
def test_long(device, size, padding):
    check(device, 1, size, 19, padding)
    check(device, 1, 19, size, padding)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("width", WIDE)
def test_wide(device, width, padding):
    check(device, 1, 23, width, padding)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("height", "width"), [(127, 129), (513, 131), (131, 513), (257, 385)])
def test_both_sides_long(device, height, width, padding):
    check(device, 1, height, width, padding)


@pytest.mark.parametrize(("height", "width"), [(1, 2000), (2000, 1), (1, 1), (2, 3001)])
def test_thin(device, height, width):
    check(device, 1, height, width, "same")


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 17])
def test_batch_and_channels(device, batch, channels):
    # Every plane its own content, so that none can stand in for another.
    x, y = (image.to(device) for image in noise_pair(batch, channels, 23, 29))
    x = leaf(x * torch.linspace(0.2, 1, batch * channels).view(batch, channels, 1, 1).to(device))
    values = ssim(x, y, reduction="channel")
    expected = oracle.ssim(x.detach(), y, reduction="channel")
    assert max_error(values, expected) <= 1e-6
    upstream = noise(batch, channels, seed=1).to(device)
    (found,) = torch.autograd.grad(values, x, upstream)
    truth, _ = oracle.gradients(lambda a, b: oracle.ssim(a, b, reduction="channel"), x, y, upstream)
    assert relative_error(found, truth) <= GRADIENT_BOUND
