"""Second opinions: pytorch-msssim, torchmetrics and scikit-image on real photographs."""

from __future__ import annotations

import pytest
import pytorch_msssim
import torch
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

from fused_ssim import fused_ssim, ssim
from images import BY_NAME, pair
from measure import leaf, max_error, relative_error

PICTURES = [p.name for p in BY_NAME.values() if p.kind == "photograph"]
NAMES = [*PICTURES, "uniform_noise", "bright_low_texture", "saturated", "ramp"]


def on(device, name):
    x, y = pair(name)
    return x.to(device), y.to(device)


@pytest.mark.parametrize("name", NAMES)
def test_pytorch_msssim(device, name):
    x, y = on(device, name)
    # In float64: its float32 arithmetic is the thing that is off by up to 1e-5 here. What its
    # float32 taps alone cost remains.
    theirs = pytorch_msssim.ssim(x.double(), y.double(), data_range=1, size_average=False)
    assert max_error(ssim(x, y, padding="valid", reduction="image"), theirs) <= 5e-5
    assert max_error(fused_ssim(x, y, padding="valid"), theirs.mean()) <= 5e-5


@pytest.mark.parametrize("data_range", [1, 255])
def test_pytorch_msssim_other_window(device, data_range):
    x, y = (data_range * image for image in on(device, "photo_noise"))
    theirs = pytorch_msssim.ssim(
        x.double(), y.double(), data_range=data_range, win_size=7, win_sigma=1.0, K=(0.02, 0.05)
    )
    ours = ssim(
        x, y, data_range=data_range, window_size=7, sigma=1.0, k1=0.02, k2=0.05, padding="valid"
    )
    assert max_error(ours, theirs) <= 5e-5


@pytest.mark.parametrize("name", ["photo_noise", "two_photos", "uniform_noise"])
def test_pytorch_msssim_gradient(device, name):
    x, y = on(device, name)
    a, b = leaf(x.double()), leaf(y.double())
    theirs = torch.autograd.grad(pytorch_msssim.ssim(a, b, data_range=1), (a, b))
    x, y = leaf(x.clone()), leaf(y.clone())
    ours = torch.autograd.grad(fused_ssim(x, y, padding="valid"), (x, y))
    for found, expected in zip(ours, theirs, strict=True):
        assert relative_error(found, expected) <= 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_torchmetrics(device, name):
    # It reflects at the border, so the maps agree where whole windows fit.
    x, y = on(device, name)
    _, theirs = structural_similarity_index_measure(
        x.double(), y.double(), data_range=1.0, return_full_image=True
    )
    ours = ssim(x, y, padding="valid", reduction="none")
    bound = 1e-4 if BY_NAME[name].kind == "photograph" else 5e-6
    assert max_error(ours, theirs[..., 5:-5, 5:-5]) <= bound
    assert max_error(ours.double().mean(), theirs[..., 5:-5, 5:-5].mean()) <= 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_scikit_image(device, name):
    x, y = on(device, name)
    value, values = structural_similarity(
        x[0].cpu().double().numpy(),
        y[0].cpu().double().numpy(),
        data_range=1.0,
        channel_axis=0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    assert abs(fused_ssim(x, y, padding="valid").item() - value) <= 1e-6
    bound = 1e-4 if BY_NAME[name].kind == "photograph" else 5e-6
    ours = ssim(x, y, padding="valid", reduction="none")[0]
    assert max_error(ours, torch.from_numpy(values)[:, 5:-5, 5:-5]) <= bound


def test_scikit_image_other_sigma(device):
    # It cuts the window at 3.5 sigma: 15 taps at sigma 2.
    x, y = on(device, "photo_blur")
    value = structural_similarity(
        x[0].cpu().double().numpy(),
        y[0].cpu().double().numpy(),
        data_range=1.0,
        channel_axis=0,
        gaussian_weights=True,
        sigma=2.0,
        use_sample_covariance=False,
    )
    ours = ssim(x, y, window_size=15, sigma=2.0, padding="valid")
    assert abs(ours.item() - value) <= 1e-6
