"""The oracle against plain loops and against the peers: before it judges, it is judged."""

from __future__ import annotations

import math

import numpy as np
import pytest
import pytorch_msssim
import torch
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

import oracle
from images import noise, noise_pair, pair
from measure import max_error


def ssim_by_loops(x: np.ndarray, y: np.ndarray, size: int, sigma: float, padding: str):
    """One plane, pixel by pixel, with a two-dimensional window."""
    radius = size // 2
    window = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            window[i, j] = math.exp(-((i - radius) ** 2 + (j - radius) ** 2) / (2 * sigma**2))
    window /= window.sum()
    if padding == "same":
        x, y = np.pad(x, radius), np.pad(y, radius)
    height, width = x.shape[0] - 2 * radius, x.shape[1] - 2 * radius
    values = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            a = x[row : row + size, column : column + size]
            b = y[row : row + size, column : column + size]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            # Under zero padding the window always has the weight 1, so these are true moments.
            var_a = (window * (a - mean_a) ** 2).sum()
            var_b = (window * (b - mean_b) ** 2).sum()
            cov = (window * (a - mean_a) * (b - mean_b)).sum()
            values[row, column] = (
                (2 * mean_a * mean_b + 1e-4)
                * (2 * cov + 9e-4)
                / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))
            )
    return values


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("size", "sigma"), [(11, 1.5), (3, 0.7), (7, 4.0)])
def test_against_loops(size, sigma, padding):
    x, y = noise_pair(1, 2, 17, 14)
    values = oracle.ssim_map(x, y, window_size=size, sigma=sigma, padding=padding)
    for channel in range(2):
        expected = ssim_by_loops(
            x[0, channel].double().numpy(), y[0, channel].double().numpy(), size, sigma, padding
        )
        assert max_error(values[0, channel], torch.from_numpy(expected)) < 1e-13


@pytest.mark.parametrize("size", [3, 5, 11, 33])
@pytest.mark.parametrize("sigma", [0.3, 1.5, 1e6])
def test_taps(size, sigma):
    taps = oracle.gaussian_taps(size, sigma)
    assert len(taps) == size
    assert math.isclose(math.fsum(taps), 1, rel_tol=1e-15)
    assert taps == taps[::-1]
    centre = size // 2
    assert math.isclose(taps[centre - 1] / taps[centre], math.exp(-1 / (2 * sigma**2)))


PEER_PAIRS = ["photo_noise", "two_photos", "uniform_noise"]


@pytest.mark.parametrize("name", PEER_PAIRS)
def test_against_scikit_image(name):
    x, y = (image.double() for image in pair(name))
    value, values = structural_similarity(
        x[0].numpy(),
        y[0].numpy(),
        data_range=1.0,
        channel_axis=0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    ours = oracle.ssim_map(x, y, padding="valid")
    assert max_error(ours[0], torch.from_numpy(values)[:, 5:-5, 5:-5]) < 1e-10
    assert abs(ours.mean().item() - value) < 1e-10


@pytest.mark.parametrize("name", PEER_PAIRS)
def test_against_torchmetrics(name):
    x, y = (image.double() for image in pair(name))
    _, values = structural_similarity_index_measure(x, y, data_range=1.0, return_full_image=True)
    ours = oracle.ssim_map(x, y, padding="valid")
    assert max_error(ours, values[..., 5:-5, 5:-5]) < 1e-10


@pytest.mark.parametrize("name", PEER_PAIRS)
def test_against_pytorch_msssim(name):
    x, y = (image.double() for image in pair(name))
    # Its own taps are float32, which costs 5e-6 on these pictures; its `win` takes better ones.
    window = torch.tensor(oracle.gaussian_taps(), dtype=torch.float64).expand(x.shape[1], 1, 1, 11)
    value = pytorch_msssim.ssim(x, y, data_range=1, size_average=False, win=window)
    assert max_error(oracle.ssim(x, y, padding="valid", reduction="image"), value) < 1e-12


def test_gradient_against_differences():
    x, y = (image.double() for image in noise_pair(1, 1, 13, 12))
    weight = noise(1, 1, 13, 12, seed=1).double()

    def value(a, b):
        return (oracle.ssim_map(a, b) * weight).sum()

    by_x, by_y = oracle.gradients(value, x, y)
    step = 1e-6
    for row, column in [(0, 0), (5, 11), (12, 7)]:
        shift = torch.zeros_like(x)
        shift[0, 0, row, column] = step
        difference_x = (value(x + shift, y) - value(x - shift, y)) / (2 * step)
        difference_y = (value(x, y + shift) - value(x, y - shift)) / (2 * step)
        assert math.isclose(by_x[0, 0, row, column], difference_x, rel_tol=1e-6)
        assert math.isclose(by_y[0, 0, row, column], difference_y, rel_tol=1e-6)


def test_loss_is_its_definition():
    x, y = noise_pair(2, 3, 20, 19)
    l1 = (x.double() - y.double())[..., 5:-5, 5:-5].abs().mean()
    expected = 0.7 * l1 + 0.3 * (1 - oracle.ssim(x, y, padding="valid"))
    assert math.isclose(oracle.l1_ssim_loss(x, y, 0.3, "valid"), expected, rel_tol=1e-14)
