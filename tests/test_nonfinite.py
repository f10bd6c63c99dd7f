"""NaN and infinity poison the windows that see them, and no others."""

from __future__ import annotations

import pytest
import torch

import oracle
from fused_ssim import fused_ssim, l1_ssim_loss, ssim
from images import noise_pair
from measure import leaf, max_error

BAD = {"nan": torch.nan, "inf": torch.inf, "-inf": -torch.inf}
HEIGHT, WIDTH = 61, 87
# Corners, edges, centres of images, tiles and bands, and places that are none of these.
PLACES = [
    (0, 0),
    (0, 43),
    (60, 86),
    (30, 43),
    (15, 15),
    (16, 16),
    (31, 32),
    (7, 64),
    (32, 63),
    (44, 5),
    (53, 70),
]


def near(device, row, column, distance, crop=0):
    """Pixels at most `distance` rows and columns away."""
    rows = (torch.arange(crop, HEIGHT - crop) - row).abs() <= distance
    columns = (torch.arange(crop, WIDTH - crop) - column).abs() <= distance
    return (rows[:, None] & columns[None, :]).to(device)


@pytest.mark.reduced
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_map(device, place, bad, padding):
    x, y = (image.to(device) for image in noise_pair(1, 2, HEIGHT, WIDTH))
    expected = oracle.ssim_map(x, y, padding=padding)
    poisoned = x.clone()
    poisoned[0, 1, place[0], place[1]] = bad
    reach = near(device, *place, 5, 5 if padding == "valid" else 0)
    for a, b in ((poisoned, y), (y, poisoned), (poisoned, poisoned)):
        values = ssim(a, b, padding=padding, reduction="none")
        truth = oracle.ssim_map(a, b, padding=padding) if a is b else expected
        assert not values[0, 1][reach].isfinite().any()
        assert max_error(values[0, 1][~reach], truth[0, 1][~reach]) <= 5e-6
        assert max_error(values[0, 0], truth[0, 0]) <= 5e-6


@pytest.mark.reduced
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_gradient(device, place, bad):
    x, y = (image.to(device) for image in noise_pair(1, 2, HEIGHT, WIDTH))
    expected = oracle.gradients(lambda a, b: oracle.ssim(a, b, reduction="sum"), x, y)
    largest = max(by.abs().max() for by in expected)
    poisoned = x.clone()
    poisoned[0, 1, place[0], place[1]] = bad
    # Two windows away: a pixel's gradient is made of the windows that it is in.
    reach = near(device, *place, 10)
    a, b = leaf(poisoned), leaf(y.clone())
    for value in (ssim(a, b, reduction="sum"), ssim(a, b, reduction="none").sum()):
        for gradient, truth in zip(torch.autograd.grad(value, (a, b)), expected, strict=True):
            assert not gradient[0, 1][reach].isfinite().any()
            assert max_error(gradient[0, 1][~reach], truth[0, 1][~reach]) <= 1e-5 * largest
            assert max_error(gradient[0, 0], truth[0, 0]) <= 1e-5 * largest


@pytest.mark.parametrize("window", ["gaussian", "uniform"])
@pytest.mark.parametrize("size", [1, 3, 5, 7, 9, 11, 33])
def test_other_windows(device, size, window):
    x, y = (image.to(device) for image in noise_pair(1, 1, HEIGHT, WIDTH))
    definition = {"window": window, "window_size": size, "sigma": size / 5}
    expected = oracle.ssim_map(x, y, **definition)
    for place in PLACES[::3]:
        poisoned = x.clone()
        poisoned[0, 0, place[0], place[1]] = torch.nan
        values = ssim(poisoned, y, **definition, reduction="none")
        reach = near(device, *place, size // 2)
        assert not values[0, 0][reach].isfinite().any()
        assert max_error(values[0, 0][~reach], expected[0, 0][~reach]) <= 5e-6


def test_every_place(device):
    # Wherever a kernel takes its samples for the shift from: no place may reach beyond its windows.
    x, y = (image.to(device) for image in noise_pair(1, 1, 29, 43))
    expected = ssim(x, y, reduction="none")
    rows, columns = torch.arange(29, device=device), torch.arange(43, device=device)
    for row in range(29):
        for column in range(43):
            poisoned = x.clone()
            poisoned[0, 0, row, column] = torch.nan
            values = ssim(poisoned, y, reduction="none")[0, 0]
            reach = ((rows - row).abs() <= 5)[:, None] & ((columns - column).abs() <= 5)[None, :]
            assert torch.equal(values.isnan(), reach)
            assert ((values - expected[0, 0]).abs()[~reach] <= 5e-6).all()


def test_reductions_keep_it_in_its_plane(device):
    x, y = (image.to(device).clone() for image in noise_pair(3, 2, 30, 31))
    x[1, 0, 4, 5] = torch.nan
    assert fused_ssim(x, y).isnan()
    assert l1_ssim_loss(x, y).isnan()
    assert ssim(x, y, reduction="image").isnan().tolist() == [False, True, False]
    channels = ssim(x, y, reduction="channel")
    assert channels.isnan().nonzero().tolist() == [[1, 0]]
    x = leaf(x)
    (gradient,) = torch.autograd.grad(ssim(x, y, reduction="channel").sum(), x)
    assert gradient[1, 0].isnan().any()
    gradient[1, 0] = 0
    assert gradient.isfinite().all()


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_loss_gradient(device, padding):
    x, y = (image.to(device).clone() for image in noise_pair(1, 1, HEIGHT, WIDTH))
    truth, _ = oracle.gradients(lambda a, b: oracle.l1_ssim_loss(a, b, padding=padding), x, y)
    x[0, 0, 30, 43] = torch.nan
    x = leaf(x)
    loss = l1_ssim_loss(x, y, padding=padding)
    assert loss.isnan()
    (found,) = torch.autograd.grad(loss, x)
    reach = near(device, 30, 43, 10)
    assert found[0, 0][reach].isnan().all()
    assert max_error(found[0, 0][~reach], truth[0, 0][~reach]) <= 1e-5 * truth.abs().max()


def test_bright_outlier_harms_only_its_windows(device):
    # A firefly of a renderer: finite, but far larger than anything else. Taken into the shift, it
    # would cost the windows around it all their digits.
    x, y = (0.9 + 1e-2 * image.to(device) for image in noise_pair(1, 1, 29, 43))
    rows, columns = torch.arange(29, device=device), torch.arange(43, device=device)
    expected = oracle.ssim_map(x, y)[0, 0]
    for row in range(29):
        for column in range(43):
            outlier = x.clone()
            outlier[0, 0, row, column] = 1e4
            values = ssim(outlier, y, reduction="none")[0, 0]
            reach = ((rows - row).abs() <= 5)[:, None] & ((columns - column).abs() <= 5)[None, :]
            assert max_error(values[~reach], expected[~reach]) <= 5e-6


@pytest.mark.parametrize(("height", "width"), [(61, 87), (1100, 1204)])
def test_nothing_stays_behind(device, height, width):
    # Blocks of a GPU add up one value together: one that has no number takes the value, and no later one.
    x, y = (image.to(device) for image in noise_pair(1, 1, height, width))
    before = ssim(x, y)
    everywhere = torch.full_like(x, torch.nan)
    somewhere = x.clone()
    somewhere[0, 0, height // 2, width - 1] = torch.inf
    for poisoned in (everywhere, somewhere):
        assert ssim(poisoned, y).isnan()
        assert l1_ssim_loss(poisoned, y).item() != l1_ssim_loss(x, y).item()
        assert torch.equal(ssim(x, y), before)


def test_means_add_up(device):
    # A mean of all, and the mean of means by image, are summed in different ways.
    x, y = (image.to(device) for image in noise_pair(4, 2, 301, 508))
    for weight in (1.0, -1.0):
        b = weight * y
        assert abs(ssim(x, b).item() - ssim(x, b, reduction="image").mean().item()) <= 1e-7
    negative = ssim(x, 1 - x)  # every covariance below zero
    assert negative < 0
    assert abs(negative.item() - oracle.ssim(x, 1 - x).item()) <= 1e-6
