"""The programs in examples/python: their formulas by plain torch operations, and that they work."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from fused_ssim import ssim
from images import noise_pair, photograph
from measure import leaf, max_error, relative_error

EXAMPLES = Path(__file__).parents[1] / "examples" / "python"


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain_photometric_error(prediction, target):
    """With average pooling of reflected images, as Monodepth2 computes it."""
    x, y = (functional.pad(image, (1, 1, 1, 1), mode="reflect") for image in (prediction, target))

    def mean(image):
        return functional.avg_pool2d(image, 3, 1)

    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    dissimilarity = ((1 - similarity) / 2).clamp(0, 1).mean(1, keepdim=True)
    return 0.85 * dissimilarity + 0.15 * (prediction - target).abs().mean(1, keepdim=True)


def neighbours():
    target = photograph("chelsea")[..., 50:147, 60:191]
    return target, [target.roll(shift, -1) * 0.9 + 0.05 for shift in (-2, 1, 5)]


def test_photometric_error(device):
    target, images = neighbours()
    module = load("photometric")
    for image in images:
        expected = plain_photometric_error(image.double(), target.double())
        error = module.photometric_error(image.to(device), target.to(device))
        assert error.shape == (1, 1, 97, 131)
        assert max_error(error, expected) <= 1e-5


def test_gradients_of_the_smallest_of_several_errors(device):
    target, images = neighbours()
    ours = [leaf(image.to(device)) for image in images]
    exact = [leaf(image.double()) for image in images]
    loss = load("photometric").reprojection_loss(ours, target.to(device))
    errors = [plain_photometric_error(image, target.double()) for image in exact]
    expected = torch.cat(errors, 1).amin(1).mean()
    assert max_error(loss, expected) <= 1e-6
    loss.backward()
    expected.backward()
    for image, truth in zip(ours, exact, strict=True):
        assert relative_error(image.grad, truth.grad) <= 1e-3  # which is smallest may be a tie


def test_photometric_error_finds_a_wall():
    true, found = load("photometric").fit_wall()
    assert found.tolist() == pytest.approx(true.tolist(), abs=0.1)


def test_tiles_add_up_to_the_whole(device):
    tiles = load("tiles")
    x, y = (leaf(image.to(device)) for image in noise_pair(2, 3, 41, 52))
    whole = ssim(x, y, padding="valid")
    expected = torch.autograd.grad(whole, (x, y))
    total = 0.0
    for rows in tiles.spans(41, 3):
        for columns in tiles.spans(52, 2):
            part = tiles.share(x[..., rows, columns], y[..., rows, columns], x.shape)
            part.backward()
            total += part.item()
    assert abs(total - whole.item()) <= 1e-6
    for image, reference in zip((x, y), expected, strict=True):
        assert relative_error(image.grad, reference) <= 1e-5
