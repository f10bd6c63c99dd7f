"""One large plane, many planes, and more elements than 32 bits count."""

from __future__ import annotations

import pytest
import torch

import oracle
from fused_ssim import fused_ssim, ssim
from images import noise, noise_pair
from measure import leaf, max_error, relative_error


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_large_plane(device, padding):
    x, y = (image.to(device) for image in noise_pair(1, 1, 2100, 2050))
    # Smooth and bright: here a careless sum over four million values would show.
    ramp = torch.linspace(0, 1, 2050, device=device)
    x, y = leaf(0.02 * x + 0.9 * ramp), leaf(0.02 * y + 0.9 * ramp)
    value = fused_ssim(x, y, padding)
    truth = oracle.gradients(lambda a, b: oracle.ssim(a, b, padding=padding), x, y)
    assert max_error(value, oracle.ssim(x.detach(), y.detach(), padding=padding)) <= 1e-6
    for found, expected in zip(torch.autograd.grad(value, (x, y)), truth, strict=True):
        assert relative_error(found, expected) <= 1e-4


def test_seventy_thousand_planes(device):
    # More than a GPU's grid has in y or z.
    x, y = (image.to(device) for image in noise_pair(70_000, 1, 12, 13))
    x = leaf(x.clone())
    found = ssim(x, y, reduction="image")
    expected = oracle.ssim(x.detach(), y, reduction="image")
    assert max_error(found, expected) <= 1e-6
    upstream = noise(70_000, seed=1).to(device)
    (gradient,) = torch.autograd.grad(found, x, upstream)
    truth, _ = oracle.gradients(lambda a, b: oracle.ssim(a, b, reduction="image"), x, y, upstream)
    assert relative_error(gradient, truth) <= 5e-6
    values = ssim(x.detach(), y, reduction="none")
    assert max_error(values, oracle.ssim_map(x.detach(), y)) <= 5e-6


def test_seventy_thousand_channels(device):
    x, y = (image.to(device) for image in noise_pair(1, 70_000, 4, 5))
    assert (
        max_error(ssim(x, y, reduction="channel"), oracle.ssim(x, y, reduction="channel")) <= 1e-6
    )


def test_more_than_32_bits_of_elements(device):
    # 2^31 pixels and some, all out of one picture: the memory is small, the indices are not.
    planes = 2**31 // (97 * 101) + 1
    x, y = (image.to(device) for image in noise_pair(1, 1, 97, 101))
    value = ssim(x.expand(planes, 1, 97, 101), y.expand(planes, 1, 97, 101), reduction="image")
    expected = oracle.ssim(x, y)
    assert planes * 97 * 101 > 2**31
    assert value.shape == (planes,)
    assert max_error(value, expected.expand(planes)) <= 1e-6


@pytest.mark.gpu
def test_a_dense_batch_beyond_32_bits():
    planes, height, width = 70_001, 175, 176
    assert planes * height * width > 2**31
    x = torch.empty(planes, 1, height, width, dtype=torch.float16, device="cuda").uniform_()
    y = torch.empty_like(x).uniform_().requires_grad_()
    values = ssim(x, y, reduction="image")
    values.sum().backward()
    for part in (slice(0, 2), slice(planes - 2, planes)):
        a, b = x[part], leaf(y.detach()[part].clone())
        alone = ssim(a, b, reduction="image")
        (gradient,) = torch.autograd.grad(alone.sum(), b)
        assert torch.equal(values[part], alone)
        assert torch.equal(y.grad[part], gradient)


@pytest.mark.gpu
def test_a_plane_beyond_32_bits():
    side = 46_400
    assert side * side > 2**31
    x = torch.empty(1, 1, side, side, dtype=torch.float16, device="cuda").uniform_()
    y = torch.empty_like(x).uniform_().requires_grad_()
    total = ssim(x, y, reduction="sum", window_size=11)
    total.backward()
    # The last corner, computed alone, agrees wherever the cut is out of reach.
    a, b = x[..., -300:, -300:], leaf(y.detach()[..., -300:, -300:].clone())
    (gradient,) = torch.autograd.grad(ssim(a, b, reduction="sum"), b)
    found = y.grad[..., -290:, -290:]
    assert relative_error(found, gradient[..., 10:, 10:]) <= 2e-3
    with torch.no_grad():
        values = ssim(x, y, reduction="none")
    corner = ssim(a, b.detach(), reduction="none")[..., 5:, 5:]
    assert max_error(values[..., -295:, -295:], corner) <= 1e-5
