"""FusedSSIMMap, which downstream code calls directly, and the map of `ssim`."""

from __future__ import annotations

import pytest
import torch

import oracle
from fused_ssim import FusedSSIMMap, allowed_padding, fused_ssim, ssim
from images import noise, noise_pair
from measure import leaf, max_error, relative_error

C1, C2 = 0.01**2, 0.03**2


def images(device, *shape):
    return tuple(leaf(image.to(device).clone()) for image in noise_pair(*(shape or (2, 3, 33, 47))))


def test_allowed_padding():
    assert list(allowed_padding) == ["same", "valid"]


@pytest.mark.reduced
@pytest.mark.parametrize("arguments", [(), ("same",), ("same", True), ("same", True, 2)])
def test_same(device, arguments):
    x, y = images(device)
    values = FusedSSIMMap.apply(C1, C2, x, y, *arguments)
    assert values.shape == x.shape
    assert values.is_contiguous()
    assert max_error(values, oracle.ssim_map(x.detach(), y.detach())) <= 5e-6


@pytest.mark.reduced
@pytest.mark.parametrize("arguments", [("valid",), ("valid", True), ("valid", True, 2)])
def test_valid_is_cropped_by_the_radius(device, arguments):
    x, y = images(device)
    values = FusedSSIMMap.apply(C1, C2, x, y, *arguments)
    assert values.shape == (2, 3, 23, 37)
    same = FusedSSIMMap.apply(C1, C2, x, y)
    assert max_error(values, same[..., 5:-5, 5:-5]) <= 5e-6


def test_map_of_ssim_is_the_same_map(device):
    x, y = images(device)
    for padding in allowed_padding:
        values = FusedSSIMMap.apply(C1, C2, x, y, padding)
        assert torch.equal(values, ssim(x, y, padding=padding, reduction="none"))
        assert max_error(values.double().mean(), fused_ssim(x, y, padding).double()) <= 1e-6


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_gradient_of_any_function_of_the_map(device, padding):
    x, y = images(device)

    def loss(values):
        return (1 - values).square().mean() + values[..., 3, 4].sum() - values.exp().mean()

    found = torch.autograd.grad(loss(FusedSSIMMap.apply(C1, C2, x, y, padding)), (x, y))
    truth = oracle.gradients(lambda a, b: loss(oracle.ssim_map(a, b, padding=padding)), x, y)
    for gradient, by in zip(found, truth, strict=True):
        assert relative_error(gradient, by) <= 5e-6


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_gradient_of_one_value_reaches_one_window(device, padding):
    x, y = images(device, 1, 1, 40, 41)
    values = ssim(x, y, padding=padding, reduction="none")
    (found,) = torch.autograd.grad(values[0, 0, 13, 17], x)
    crop = 5 if padding == "valid" else 0
    reach = torch.zeros(1, 1, 40, 41, dtype=torch.bool, device=device)
    reach[..., 13 + crop - 5 : 13 + crop + 6, 17 + crop - 5 : 17 + crop + 6] = True
    assert (found[reach] != 0).all()
    assert torch.equal(found[~reach], torch.zeros_like(found[~reach]))


def test_masked_mean(device):
    # The commonest reason to want a map.
    x, y = images(device)
    mask = (noise(2, 1, 33, 47, seed=5) > 0.4).to(device)

    def loss(values):
        return (values * mask).sum() / (mask.sum() * 3)

    found = torch.autograd.grad(loss(ssim(x, y, reduction="none")), (x, y))
    truth = oracle.gradients(lambda a, b: loss(oracle.ssim_map(a, b)), x, y)
    for gradient, by in zip(found, truth, strict=True):
        assert relative_error(gradient, by) <= 5e-6


def test_without_train(device):
    x, y = images(device)
    expected = FusedSSIMMap.apply(C1, C2, x, y, "same", True)
    values = FusedSSIMMap.apply(C1, C2, x, y, "same", False)
    assert torch.equal(values, expected)
    with pytest.raises(RuntimeError, match="train=True"):
        values.mean().backward()


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_volumes(device, padding):
    x, y = images(device, 1, 2, 12, 13, 14)
    values = FusedSSIMMap.apply(C1, C2, x, y, padding, True, 3)
    expected = oracle.ssim_map(x.detach(), y.detach(), padding=padding, spatial_dims=3)
    assert max_error(values, expected) <= 5e-6


@pytest.mark.parametrize("spatial_dims", [0, 1, 4, -2])
def test_unknown_spatial_dims(device, spatial_dims):
    x, y = images(device)
    with pytest.raises((ValueError, NotImplementedError), match=str(spatial_dims)):
        FusedSSIMMap.apply(C1, C2, x, y, "same", True, spatial_dims)
