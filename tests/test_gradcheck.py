"""Gradients against finite differences, in float64: independent of any formula, the oracle's too."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from fused_ssim import FusedSSIMMap, fused_ssim, l1_ssim_loss, ms_ssim, ssim
from images import noise_pair
from measure import leaf

WINDOWS = [(3, 0.8), (7, 1.5), (11, 1.5), (13, 2.5)]


def images(device, *shape):
    return tuple(leaf(image.to(device).double()) for image in noise_pair(*shape))


@pytest.mark.reduced
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("size", "sigma"), WINDOWS)
def test_mean(device, size, sigma, padding):
    x, y = images(device, 1, 2, size + 1, size + 3)
    assert gradcheck(
        lambda a, b: ssim(a, b, window_size=size, sigma=sigma, padding=padding), (x, y)
    )


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("size", "sigma"), WINDOWS)
def test_map(device, size, sigma, padding):
    x, y = images(device, 1, 1, size + 1, size + 2)
    assert gradcheck(
        lambda a, b: ssim(a, b, window_size=size, sigma=sigma, padding=padding, reduction="none"),
        (x, y),
    )


@pytest.mark.parametrize("reduction", ["sum", "image", "channel"])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_reductions(device, reduction, padding):
    x, y = images(device, 2, 2, 12, 11)
    assert gradcheck(lambda a, b: ssim(a, b, reduction=reduction, padding=padding), (x, y))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_drop_ins(device, padding):
    x, y = images(device, 1, 2, 13, 12)
    assert gradcheck(lambda a, b: fused_ssim(a, b, padding), (x, y))
    assert gradcheck(lambda a, b: FusedSSIMMap.apply(1e-4, 9e-4, a, b, padding), (x, y))


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
def test_loss(device, weight, padding):
    # No two pixels are within the step of one another, so |x - y| has a derivative.
    x, y = images(device, 1, 2, 13, 12)
    assert (x - y).abs().min() > 1e-5
    assert gradcheck(lambda a, b: l1_ssim_loss(a, b, weight, padding), (x, y))


def test_one_image_at_a_time(device):
    x, y = images(device, 1, 2, 13, 12)
    assert gradcheck(lambda a: fused_ssim(a, y.detach()), (x,))
    assert gradcheck(lambda b: fused_ssim(x.detach(), b), (y,))
    assert gradcheck(lambda b: ssim(x.detach(), b, reduction="none"), (y,))
    assert gradcheck(lambda b: l1_ssim_loss(x.detach(), b), (y,))


def test_channels_last(device):
    x, y = (
        leaf(image.detach().contiguous(memory_format=torch.channels_last))
        for image in images(device, 2, 3, 6, 7)
    )
    assert gradcheck(fused_ssim, (x, y))


def test_tiny_images(device):
    for height, width in [(1, 1), (1, 5), (4, 1), (3, 3)]:
        x, y = images(device, 1, 2, height, width)
        assert gradcheck(fused_ssim, (x, y))


@pytest.mark.parametrize("data_range", [255.0, 0.01])
def test_data_range(device, data_range):
    x, y = (leaf((data_range * image).detach()) for image in images(device, 1, 1, 7, 8))
    assert gradcheck(
        lambda a, b: ssim(a, b, data_range=data_range),
        (x, y),
        eps=1e-6 * data_range,
        atol=1e-6 / data_range,
    )


SECOND = {
    "mean": ssim,
    "valid": lambda a, b: ssim(a, b, window_size=3, padding="valid", reduction="image"),
    "reflect": lambda a, b: ssim(a, b, window_size=3, padding="reflect", reduction="channel"),
    "map": lambda a, b: ssim(a, b, window_size=3, reduction="none"),
    "masked": lambda a, b: ssim(
        a, b, window_size=3, mask=b.detach() > 0.3, mask_mode="normalized", reduction="sum"
    ),
    "masked map": lambda a, b: ssim(
        a, b, window_size=3, mask=b.detach() > 0.3, reduction="none", padding="valid"
    ),
    "loss": l1_ssim_loss,
    "ms_ssim": lambda a, b: ms_ssim(a, b, window_size=3, weights=(0.4, 0.6), negative="smooth"),
}


@pytest.mark.parametrize("function", SECOND.values(), ids=SECOND.keys())
def test_second_derivatives(device, function):
    # Kernels and the composite take turns: the one gives the gradient, the other its derivative.
    x, y = images(device, 1, 2, 5, 6)
    assert gradgradcheck(function, (x, y), fast_mode=True)
    assert gradgradcheck(lambda a: function(a, y.detach()), (x,), fast_mode=True)
