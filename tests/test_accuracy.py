"""The accuracy that is promised, on every kind of image, against the float64 oracle.

Promised for float32 images: the map within 1e-4 on photographs and 5e-6 elsewhere, the mean within
1e-6, the gradient within 1e-4 relative in norm and never worse than the plain float32 code.
"""

from __future__ import annotations

import functools

import pytest
import torch

import oracle
from fused_ssim import fused_ssim, l1_ssim_loss, ssim
from images import BY_NAME, EQUAL_PAIRS, PAIRS, blurred, gaussian, noise, pair, photograph
from measure import leaf, max_error, relative_error

NAMES = [p.name for p in PAIRS]
DIFFERENT = [name for name in NAMES if name not in EQUAL_PAIRS]
MAP_BOUND = {"photograph": 1e-4, "synthetic": 5e-6}
LARGE_MAP_BOUND = 1.8e-4  # of photographs on a GPU: docs/limits.md
MEAN_BOUND = 1e-6
GRADIENT_BOUND = 1e-4


@functools.cache
def expected_map(name: str, padding: str) -> torch.Tensor:
    return oracle.ssim_map(*pair(name), padding=padding)


@functools.cache
def expected_gradients(name: str, padding: str, weighted: bool) -> tuple[torch.Tensor, ...]:
    def value(x, y):
        values = oracle.ssim_map(x, y, padding=padding)
        return (values * weights(values.shape)).sum() if weighted else values.mean()

    return oracle.gradients(value, *pair(name))


@functools.cache
def plain_gradient_errors(name: str, padding: str, weighted: bool) -> tuple[float, float]:
    # On the CPU whatever the device: a GPU's convolutions may round to TF32, an easy rival.
    x, y = (leaf(image.clone()) for image in pair(name))
    values = oracle.plain_float32_map(x, y, padding)
    value = (values * weights(values.shape)).sum() if weighted else values.mean()
    found = torch.autograd.grad(value, (x, y))
    expected = expected_gradients(name, padding, weighted)
    return tuple(relative_error(f, e) for f, e in zip(found, expected, strict=True))


@functools.cache
def weights(shape: torch.Size) -> torch.Tensor:
    return noise(*shape, seed=900) - 0.25


def on(device: str, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = pair(name)
    return x.to(device), y.to(device)


@pytest.mark.reduced
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("name", NAMES)
def test_map(device, name, padding):
    values = ssim(*on(device, name), padding=padding, reduction="none")
    expected = expected_map(name, padding)
    assert values.dtype == torch.float32
    assert max_error(values, expected) <= MAP_BOUND[BY_NAME[name].kind]
    assert values.max() <= 1
    assert values.min() >= -1


@pytest.mark.reduced
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("name", NAMES)
def test_mean(device, name, padding):
    expected = expected_map(name, padding).mean()
    assert max_error(fused_ssim(*on(device, name), padding), expected) <= MEAN_BOUND
    assert max_error(fused_ssim(*on(device, name), padding, train=False), expected) <= MEAN_BOUND


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("name", NAMES)
def test_mean_where_a_gradient_is_wanted(device, name, padding):
    # Another kernel computes it: the one that also writes the gradient.
    x, y = on(device, name)
    expected = expected_map(name, padding).mean()
    assert max_error(fused_ssim(leaf(x.clone()), y, padding), expected) <= MEAN_BOUND


@pytest.mark.reduced
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("name", DIFFERENT)
def test_gradient_of_mean(device, name, padding):
    x, y = (leaf(image.clone()) for image in on(device, name))
    found = torch.autograd.grad(fused_ssim(x, y, padding), (x, y))
    expected = expected_gradients(name, padding, False)
    plain = plain_gradient_errors(name, padding, False)
    for gradient, truth, plain_error in zip(found, expected, plain, strict=True):
        assert relative_error(gradient, truth) <= min(GRADIENT_BOUND, plain_error)


@pytest.mark.reduced
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("name", DIFFERENT)
def test_gradient_of_weighted_map(device, name, padding):
    x, y = (leaf(image.clone()) for image in on(device, name))
    values = ssim(x, y, padding=padding, reduction="none")
    found = torch.autograd.grad(values, (x, y), weights(values.shape).to(device))
    expected = expected_gradients(name, padding, True)
    plain = plain_gradient_errors(name, padding, True)
    for gradient, truth, plain_error in zip(found, expected, plain, strict=True):
        assert relative_error(gradient, truth) <= min(GRADIENT_BOUND, plain_error)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("name", sorted(EQUAL_PAIRS))
def test_equal_images(device, name, padding):
    x, y = (leaf(image.clone()) for image in on(device, name))
    values = ssim(x, y, padding=padding, reduction="none")
    assert torch.equal(values, torch.ones_like(values))
    mean = fused_ssim(x, y, padding)
    assert mean.item() == 1
    # Not merely small: a gradient away from the optimum would make an optimiser wander.
    for gradient in torch.autograd.grad(mean, (x, y)) + torch.autograd.grad(values.sum(), (x, y)):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("name", ["photo_noise", "photo_blur", "bright_low_texture", "saturated"])
def test_loss(device, name, padding):
    x, y = (leaf(image.clone()) for image in on(device, name))
    value = l1_ssim_loss(x, y, padding=padding)
    assert max_error(value, oracle.l1_ssim_loss(x, y, padding=padding)) <= MEAN_BOUND
    found = torch.autograd.grad(value, (x, y))
    expected = oracle.gradients(lambda a, b: oracle.l1_ssim_loss(a, b, padding=padding), x, y)
    for gradient, truth in zip(found, expected, strict=True):
        assert relative_error(gradient, truth) <= GRADIENT_BOUND


CHANGES = {
    "noise": lambda x: (x + 0.05 * gaussian(*x.shape, seed=1).to(x.device)).clamp(0, 1),
    "blur": blurred,
    "darker": lambda x: 0.6 * x,
    "posterised": lambda x: (x * 15).round() / 15,
}
each_change = pytest.mark.parametrize("change", CHANGES)
each_photograph = pytest.mark.parametrize(
    "name", ["astronaut", "camera", "chelsea", "coffee", "hubble_deep_field", "retina", "rocket"]
)


@each_change
@each_photograph
def test_map_of_whole_photographs(device, name, change):
    # Black skies, white shirts and everything between in one picture: no one shift suits it all.
    x = photograph(name)[..., :512, :640]
    y = CHANGES[change](x)
    expected = oracle.ssim_map(x, y)
    error = max_error(ssim(x.to(device), y.to(device), reduction="none"), expected)
    assert error <= MAP_BOUND["photograph"]
    assert error <= max_error(oracle.plain_float32_map(x, y), expected)
    assert max_error(fused_ssim(x.to(device), y.to(device)), expected.mean()) <= MEAN_BOUND


@pytest.mark.gpu
@each_change
@each_photograph
def test_map_of_large_photographs(name, change):
    # Of more than 3 million pixels: other kernels serve them.
    x = photograph(name)[..., :512, :640].repeat(1, 1, 3, 4).cuda()
    y = CHANGES[change](x)
    bytes1, bytes2 = ((255 * image).round().byte() for image in (x, y))
    for a, b, truth in ((x, y, (x, y)), (bytes1, bytes2, (bytes1 / 255, bytes2 / 255))):
        expected = oracle.ssim_map(*truth)
        assert max_error(ssim(a, b, reduction="none"), expected) <= LARGE_MAP_BOUND
        assert max_error(fused_ssim(a, b), expected.mean()) <= MEAN_BOUND


# The comparisons above must be able to fail: small mistakes in the definition, each far larger than
# the bounds on at least one kind of image.
MISTAKES = {
    "sigma": {"sigma": 1.51},
    "shorter window": {"window_size": 9},
    "longer window": {"window_size": 13},
    "k1": {"k1": 0.011},
    "k2": {"k2": 0.0301},
    "data_range": {"data_range": 1.01},
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_seen(device, mistake):
    x, y = on(device, "photo_noise")
    wrong = oracle.ssim_map(x, y, **MISTAKES[mistake])
    assert max_error(ssim(x, y, reduction="none"), wrong) > MAP_BOUND["photograph"]
    assert max_error(fused_ssim(x, y), wrong.mean()) > MEAN_BOUND
    x = leaf(x.clone())
    (found,) = torch.autograd.grad(fused_ssim(x, y), x)
    by_x, by_y = oracle.gradients(lambda a, b: oracle.ssim(a, b, **MISTAKES[mistake]), x, y)
    assert relative_error(found, by_x) > GRADIENT_BOUND
    assert relative_error(found, by_y) > 0.1


def test_covariance_is_biased(device):
    # N/(N-1), as for a uniform window of N samples, is the other convention.
    x, y = on(device, "photo_noise")
    taps = oracle.gaussian_taps()
    mx, my = (oracle.window_means(image.double(), taps, "same") for image in (x, y))
    vx, vy, cov = (
        121 / 120 * (oracle.window_means(a.double() * b.double(), taps, "same") - ma * mb)
        for a, b, ma, mb in ((x, x, mx, mx), (y, y, my, my), (x, y, mx, my))
    )
    unbiased = (2 * mx * my + 1e-4) * (2 * cov + 9e-4)
    unbiased = unbiased / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    assert max_error(fused_ssim(x, y), unbiased.mean()) > MEAN_BOUND
