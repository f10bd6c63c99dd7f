"""What the map is reduced to, and how a gradient comes back through each reduction."""

from __future__ import annotations

import pytest
import torch

import oracle
from fused_ssim import fused_ssim, ssim
from images import noise, noise_pair
from measure import leaf, max_error, relative_error

REDUCTIONS = {"mean": (), "sum": (), "image": (3,), "channel": (3, 2), "none": (3, 2, 25, 38)}


def images(device):
    return tuple(leaf(image.to(device).clone()) for image in noise_pair(3, 2, 25, 38))


@pytest.mark.reduced
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_value_and_gradient(device, reduction, padding):
    x, y = images(device)
    found = ssim(x, y, padding=padding, reduction=reduction)
    expected = oracle.ssim(x.detach(), y.detach(), padding=padding, reduction=reduction)
    if padding == "same":
        assert found.shape == REDUCTIONS[reduction]
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    assert found.device == x.device
    scale = 1 if reduction != "sum" else 1000
    assert max_error(found, expected) <= (5e-6 if reduction == "none" else 1e-6 * scale)

    upstream = noise(*expected.shape, seed=7).to(device) - 0.4
    truth = oracle.gradients(
        lambda a, b: oracle.ssim(a, b, padding=padding, reduction=reduction), x, y, upstream
    )
    for gradient, by in zip(torch.autograd.grad(found, (x, y), upstream), truth, strict=True):
        assert gradient.shape == x.shape
        assert relative_error(gradient, by) <= 5e-6


def test_reductions_agree_with_one_another(device):
    x, y = (image.detach() for image in images(device))
    values = ssim(x, y, reduction="none").double()
    assert max_error(ssim(x, y, reduction="channel"), values.mean((2, 3))) <= 1e-6
    assert max_error(ssim(x, y, reduction="image"), values.mean((1, 2, 3))) <= 1e-6
    assert max_error(ssim(x, y, reduction="mean"), values.mean()) <= 1e-6
    assert max_error(ssim(x, y, reduction="sum") / values.numel(), values.mean()) <= 1e-6
    assert torch.equal(ssim(x, y), fused_ssim(x, y))


@pytest.mark.parametrize("reduction", ["image", "channel"])
def test_zero_upstream_stops_a_plane(device, reduction):
    x, y = images(device)
    value = ssim(x, y, reduction=reduction)
    value[0].sum().backward()
    assert x.grad[0].abs().max() > 0
    assert torch.equal(x.grad[1:], torch.zeros_like(x.grad[1:]))


@pytest.mark.parametrize("reduction", ["image", "channel", "none"])
def test_upstream_of_any_layout(device, reduction):
    x, y = images(device)
    value = ssim(x, y, reduction=reduction)
    dense = noise(*value.shape, seed=8).to(device)
    (expected,) = torch.autograd.grad(value, x, dense, retain_graph=True)

    every_other = torch.stack([dense, torch.full_like(dense, torch.nan)], dim=-1)[..., 0]
    assert not every_other.is_contiguous()
    (found,) = torch.autograd.grad(value, x, every_other, retain_graph=True)
    assert torch.equal(found, expected)

    reverse = list(range(value.ndim))[::-1]
    permuted = dense.permute(reverse).contiguous().permute(reverse)
    (found,) = torch.autograd.grad(value, x, permuted, retain_graph=True)
    assert torch.equal(found, expected)

    # One number for all, as sum() sends it back: all strides are zero.
    one = torch.full((), 0.75, device=device)
    (found,) = torch.autograd.grad(value, x, one.expand_as(value), retain_graph=True)
    (expected,) = torch.autograd.grad(value, x, torch.full_like(value, 0.75))
    assert torch.equal(found, expected)


def test_composed_with_other_operations(device):
    x, y = images(device)
    loss = (1 - ssim(x, y, reduction="image")).square().mean() + x.square().mean()
    (found,) = torch.autograd.grad(loss, x)
    truth, _ = oracle.gradients(
        lambda a, b: (1 - oracle.ssim(a, b, reduction="image")).square().mean() + a.square().mean(),
        x,
        y,
    )
    assert relative_error(found, truth) <= 5e-6


@pytest.mark.parametrize("reduction", ["image", "channel"])
def test_bad_upstream_stays_in_its_plane(device, reduction):
    x, y = images(device)
    value = ssim(x, y, reduction=reduction)
    upstream = torch.ones_like(value)
    upstream[1] = torch.nan
    (found,) = torch.autograd.grad(value, x, upstream)
    assert found[1].isnan().all()
    assert found[[0, 2]].isfinite().all()


def test_negative_zero_and_large_upstream(device):
    x, y = images(device)
    value = ssim(x, y)
    (unit,) = torch.autograd.grad(value, x, retain_graph=True)
    (found,) = torch.autograd.grad(value, x, torch.tensor(-0.0, device=device), retain_graph=True)
    assert torch.equal(found, torch.zeros_like(found))
    # A loss scaler's factor.
    (found,) = torch.autograd.grad(value, x, torch.tensor(65536.0, device=device))
    assert relative_error(found / 65536, unit) <= 1e-6
