"""Masks: as weights of the map, and inside windows, in every reduction, over nothing, with NaN."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

import oracle
from fused_ssim import L1SSIMLoss, l1_ssim_loss, ssim
from images import noise, noise_pair
from measure import leaf, max_error, relative_error

SHAPE = (2, 3, 21, 18)
MODES = ["weighted", "normalized"]
REDUCTIONS = ["mean", "sum", "image", "channel", "none"]


def bools(*shape, seed=20):
    return noise(*shape, seed=seed) > 0.4


def floats(*shape, seed=21):
    return (2 * noise(*shape, seed=seed) - 0.8).clamp(0, 1)


MASKS = {
    "bool": bools(21, 18),
    "bool for each image": bools(2, 1, 21, 18),
    "float for each plane": floats(*SHAPE),
    "float for each channel": floats(1, 3, 21, 18),
    "half": floats(21, 18).half(),
    "an object": (torch.arange(21)[:, None] - 10) ** 2 + (torch.arange(18) - 8) ** 2 < 30,
}
each_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
each_mode = pytest.mark.parametrize("mode", MODES)


def images(device, *shape, dtype=torch.float32):
    return tuple(leaf(i.to(device).to(dtype)) for i in noise_pair(*(shape or SHAPE)))


@each_mask
@each_mode
@pytest.mark.parametrize("padding", ["same", "valid", "reflect", "replicate"])
def test_against_the_oracle(device, way, mask, mode, padding):
    x, y = images(device)
    mask = mask.to(device)
    form = {"mask": mask, "mask_mode": mode, "padding": padding, "window_size": 7}
    for reduction in REDUCTIONS:
        found = ssim(x, y, reduction=reduction, **form)
        expected = oracle.ssim(x.detach(), y.detach(), reduction=reduction, **form)
        bound = {"none": 5e-6, "sum": 1e-6 * x.numel()}.get(reduction, 1e-6)
        assert max_error(found, expected) <= bound
        upstream = noise(*expected.shape, seed=8).to(device) + 0.2
        truth = oracle.gradients(
            lambda a, b, r=reduction: oracle.ssim(a, b, reduction=r, **form), x, y, upstream
        )
        gradients = torch.autograd.grad(found, (x, y), upstream.to(found.dtype))
        for gradient, by in zip(gradients, truth, strict=True):
            assert relative_error(gradient, by) <= 2e-5


@each_mask
@each_mode
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_loss(device, way, mask, mode, padding):
    x, y = images(device)
    form = {"mask": mask.to(device), "mask_mode": mode, "padding": padding}
    loss = l1_ssim_loss(x, y, 0.3, **form)
    expected = oracle.l1_ssim_loss(x.detach(), y.detach(), 0.3, **form)
    assert max_error(loss, expected) <= 1e-6
    assert torch.equal(L1SSIMLoss(0.3, padding, mask_mode=mode)(x, y, form["mask"]), loss)
    truth = oracle.gradients(lambda a, b: oracle.l1_ssim_loss(a, b, 0.3, **form), x, y)
    for gradient, by in zip(torch.autograd.grad(loss, (x, y)), truth, strict=True):
        assert relative_error(gradient, by) <= 1e-5


@each_mode
@pytest.mark.parametrize("padding", ["same", "valid", "reflect", "replicate"])
def test_mask_of_ones_changes_nothing(device, way, mode, padding):
    x, y = images(device)
    form = {"padding": padding, "window_size": 9}
    for mask in (torch.ones(21, 18, dtype=torch.bool), torch.ones(2, 1, 21, 18)):
        for reduction in REDUCTIONS:
            plain = ssim(x, y, reduction=reduction, **form)
            found = ssim(x, y, reduction=reduction, mask=mask.to(device), mask_mode=mode, **form)
            scale = x.numel() if reduction == "sum" else 1
            assert max_error(found, plain) <= 1e-6 * scale


@each_mode
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_nothing_to_compare(device, way, mode, dtype):
    x, y = images(device)
    mask = torch.zeros(21, 18, dtype=dtype, device=device)
    empty = {"mean": 1.0, "sum": 0.0, "image": 1.0, "channel": 1.0, "none": 1.0}
    for reduction, number in empty.items():
        found = ssim(x, y, reduction=reduction, mask=mask, mask_mode=mode)
        assert torch.equal(found, torch.full_like(found, number))
        for gradient in torch.autograd.grad(found.sum(), (x, y)):
            assert torch.equal(gradient, torch.zeros_like(gradient))
    loss = l1_ssim_loss(x, y, 0.3, mask=mask, mask_mode=mode)
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, (x, y)):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@each_mode
def test_one_image_without_pixels(device, way, mode):
    # Means are each by their own weights, and that of everything is no mean of means.
    x, y = images(device)
    mask = bools(2, 1, 21, 18).to(device)
    mask[1] = False
    form = {"mask": mask, "mask_mode": mode}
    per_image = ssim(x, y, reduction="image", **form)
    assert per_image[1].item() == 1
    assert max_error(ssim(x, y, **form), per_image[0]) <= 1e-6
    assert torch.equal(ssim(x, y, reduction="channel", **form)[1], torch.ones(3, device=device))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("padding", ["same", "valid", "reflect", "replicate"])
def test_normalized_sees_nothing_under_the_mask(device, way, bad, padding):
    x, y = images(device)
    mask = MASKS["an object"].to(device)
    form = {"mask": mask, "mask_mode": "normalized", "padding": padding}
    whole = {"same": "same", "valid": "valid"}.get(padding)
    spoilt = [leaf(torch.where(mask, image.detach(), bad)) for image in (x, y)]
    for reduction in REDUCTIONS:
        found = ssim(*spoilt, reduction=reduction, **form)
        assert max_error(found, ssim(x, y, reduction=reduction, **form)) <= 1e-6 * x.numel()
        for gradient in torch.autograd.grad(found.sum(), spoilt):
            assert gradient.isfinite().all()
            assert torch.equal(gradient[:, :, ~mask], torch.zeros_like(gradient[:, :, ~mask]))
    if whole is None:
        return
    loss = l1_ssim_loss(*spoilt, mask=mask, mask_mode="normalized", padding=whole)
    expected = l1_ssim_loss(x, y, mask=mask, mask_mode="normalized", padding=whole)
    assert max_error(loss, expected) <= 1e-6
    for gradient in torch.autograd.grad(loss, spoilt):
        assert gradient.isfinite().all()
        assert torch.equal(gradient[:, :, ~mask], torch.zeros_like(gradient[:, :, ~mask]))


def test_weighted_windows_see_masked_pixels(device, way):
    x, y = (image.detach().clone() for image in images(device))
    mask = torch.ones(21, 18, dtype=torch.bool, device=device)
    mask[10, 9] = False
    x[..., 10, 9] = torch.nan
    assert ssim(x, y, mask=mask).isnan()
    assert ssim(x, y, mask=mask, mask_mode="normalized").isfinite()
    # Where no window with a weight reaches it, it counts for nothing.
    mask[4:16, 3:] = False
    assert ssim(x, y, mask=mask).isfinite()


@each_mode
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_finite_differences(device, way, mode, dims):
    shape = {1: (2, 1, 8), 2: (1, 2, 5, 6), 3: (1, 1, 4, 5, 4)}[dims]
    x, y = images(device, *shape, dtype=torch.float64)
    form = {"mask_mode": mode, "spatial_dims": dims}
    for mask in (bools(*shape[2:]).to(device), floats(*shape).to(device)):
        assert gradcheck(
            lambda a, b, m=mask: ssim(a, b, mask=m, window_size=3, padding="replicate", **form),
            (x, y),
            fast_mode=True,
        )
        loss = lambda a, b, m=mask: l1_ssim_loss(a, b, mask=m, **form)
        assert gradcheck(loss, (x, y), fast_mode=True)


@each_mode
def test_sample_covariance(device, way, mode):
    x, y = images(device)
    form = {"mask": MASKS["bool"].to(device), "mask_mode": mode, "window": "uniform"}
    form |= {"window_size": 5, "unbiased": True, "padding": "reflect"}
    assert max_error(ssim(x, y, **form), oracle.ssim(x.detach(), y.detach(), **form)) <= 1e-6


def test_window_that_misses_all_valid_pixels(device, way):
    # A window may have a tap of 0 at its centre, so that a pixel with weight sees none.
    x, y = images(device)
    mask = torch.zeros(21, 18, dtype=torch.bool, device=device)
    mask[10, 9] = True
    values = ssim(x, y, window=[0.5, 0.0, 0.5], mask=mask, mask_mode="normalized", reduction="none")
    assert torch.equal(values, torch.ones_like(values))
