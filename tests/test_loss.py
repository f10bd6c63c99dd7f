"""The photometric loss of Gaussian splatting: (1 - w) L1 + w (1 - SSIM)."""

from __future__ import annotations

import pytest
import torch

import oracle
from fused_ssim import L1SSIMLoss, fused_l1_ssim_loss, l1_ssim_loss
from images import noise_pair
from measure import leaf, max_error, relative_error


def images(device, *shape):
    return tuple(leaf(image.to(device).clone()) for image in noise_pair(*(shape or (2, 3, 33, 47))))


@pytest.mark.reduced
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("weight", [0.0, 0.2, 0.5, 0.85, 1.0])
def test_value_and_gradient(device, weight, padding):
    x, y = images(device)
    loss = l1_ssim_loss(x, y, weight, padding)
    assert loss.shape == ()
    assert max_error(loss, oracle.l1_ssim_loss(x.detach(), y.detach(), weight, padding)) <= 1e-6
    truth = oracle.gradients(lambda a, b: oracle.l1_ssim_loss(a, b, weight, padding), x, y)
    for gradient, by in zip(torch.autograd.grad(loss, (x, y)), truth, strict=True):
        assert relative_error(gradient, by) <= 5e-6


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (3, 5), (11, 11), (17, 130), (65, 33), (130, 19)]
)
def test_sizes(device, height, width):
    for padding in ("same", "valid") if min(height, width) >= 11 else ("same",):
        x, y = images(device, 2, 2, height, width)
        loss = l1_ssim_loss(x, y, padding=padding)
        expected = oracle.l1_ssim_loss(x.detach(), y.detach(), 0.2, padding)
        assert max_error(loss, expected) <= 1e-6
        truth = oracle.gradients(lambda a, b, p=padding: oracle.l1_ssim_loss(a, b, 0.2, p), x, y)
        for gradient, by in zip(torch.autograd.grad(loss, (x, y)), truth, strict=True):
            assert relative_error(gradient, by) <= 5e-6


def test_default_weight_and_other_name(device):
    x, y = images(device)
    for arguments in ((), (0.2,), (0.2, "same"), (0.2, "same", False), (0.2, True), (0.2, False)):
        assert torch.equal(fused_l1_ssim_loss(x, y, *arguments), l1_ssim_loss(x, y))
    # The fourth argument of the original's function is `train`.
    for arguments in ((0.2, False), (0.2, "valid", False)):
        with pytest.raises(RuntimeError, match="train=True"):
            fused_l1_ssim_loss(x, y, *arguments).backward()
    assert torch.equal(
        fused_l1_ssim_loss(x, y, 0.5, "valid"), l1_ssim_loss(x, y, 0.5, padding="valid")
    )
    assert torch.equal(l1_ssim_loss(x, y), l1_ssim_loss(x, y, ssim_weight=0.2, padding="same"))
    assert torch.equal(l1_ssim_loss(pred=x, target=y), l1_ssim_loss(x, y))
    assert torch.equal(L1SSIMLoss()(x, y), l1_ssim_loss(x, y))


def test_pure_l1(device):
    x, y = images(device)
    loss = l1_ssim_loss(x, y, 0.0)
    assert max_error(loss, (x.double() - y.double()).abs().mean()) <= 1e-6
    (found,) = torch.autograd.grad(loss, x)
    expected = (x - y).sign().double() / x.numel()
    assert relative_error(found, expected) <= 1e-6


def test_equal_pixels_have_no_l1_gradient(device):
    # sign(0) = 0: elsewhere the L1 gradient is +-1/N, here nothing.
    x, y = (image.detach() for image in images(device))
    equal = torch.zeros_like(x, dtype=torch.bool)
    equal[..., ::3, ::2] = True
    y = leaf(torch.where(equal, x, y))
    x = leaf(x.clone())
    by_x, by_y = torch.autograd.grad(l1_ssim_loss(x, y, 0.0), (x, y))
    for gradient in (by_x, by_y):
        assert torch.equal(gradient[equal], torch.zeros_like(gradient[equal]))
        assert (gradient[~equal] != 0).all()
    found = torch.autograd.grad(l1_ssim_loss(x, y, 0.3), (x, y))
    truth = oracle.gradients(lambda a, b: oracle.l1_ssim_loss(a, b, 0.3), x, y)
    for gradient, by in zip(found, truth, strict=True):
        assert relative_error(gradient, by) <= 5e-6


@pytest.mark.parametrize("shape", [(1, 2, 61, 75), (1, 1, 960, 1000), (1, 1, 961, 1001)])
def test_sign_of_differences_that_rounding_could_hide(device, shape):
    x, y = noise_pair(*shape)
    x = 0.25 * x.detach() + 0.75  # so that the difference of the means is far from zero
    y = 0.25 * y.detach()
    x[..., 20:30, 20:40] = 1e-9 * torch.randint(-1, 2, x[..., 20:30, 20:40].shape)
    y[..., 20:30, 20:40] = 0.0
    x, y = leaf(x.to(device)), leaf(y.to(device))
    expected = torch.sign(x.detach() - y.detach()) / x.numel()
    for wanted in ((x,), (y,), (x, y)):
        gradients = torch.autograd.grad(l1_ssim_loss(x, y, ssim_weight=0.0), wanted)
        for image, gradient in zip(wanted, gradients, strict=True):
            assert relative_error(gradient, expected if image is x else -expected) <= 1e-6
            assert torch.equal(
                torch.sign(gradient), torch.sign(expected if image is x else -expected)
            )


def test_equal_images(device):
    x, _ = images(device)
    y = leaf(x.detach().clone())
    loss = l1_ssim_loss(x, y)
    assert abs(loss.item()) <= 1e-15  # 0.2 - 0.2, summed in float64
    for gradient in torch.autograd.grad(loss, (x, y)):
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_valid_crops_the_l1_too(device):
    x, y = images(device)
    by_x, by_y = torch.autograd.grad(l1_ssim_loss(x, y, 0.0, "valid"), (x, y))
    inside = torch.zeros_like(x, dtype=torch.bool)
    inside[..., 5:-5, 5:-5] = True
    for gradient in (by_x, by_y):
        assert torch.equal(gradient[~inside], torch.zeros_like(gradient[~inside]))
        assert (gradient[inside] != 0).all()


def test_loss_falls(device):
    # What it is for: a few steps of gradient descent lead from noise towards a picture.
    target, image = (picture.detach() for picture in images(device, 1, 3, 24, 24))
    image = leaf(image.clone())
    optimiser = torch.optim.Adam([image], lr=0.02)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = l1_ssim_loss(image, target)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
