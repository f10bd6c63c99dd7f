"""One large plane, many planes, and more elements than 32 bits count."""

from __future__ import annotations

import gc

import pytest
import torch

import oracle
from fused_ssim import _route, fused_ssim, ssim
from images import noise, noise_pair
from measure import leaf, max_error, relative_error


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_large_plane(device, padding):
    height, width = 2100, 2050
    x, y = (image.to(device) for image in noise_pair(1, 1, height, width))
    # Smooth and bright: here a careless sum over four million values would show.
    ramp = torch.linspace(0, 1, width, device=device)
    x, y = leaf(0.02 * x + 0.9 * ramp), leaf(0.02 * y + 0.9 * ramp)
    with torch.no_grad():
        expected = oracle.ssim_map(x, y, padding=padding)
        assert max_error(ssim(x, y, padding=padding, reduction="none"), expected) <= 5e-6
        assert max_error(fused_ssim(x, y, padding), expected.mean()) <= 1e-6
    value = ssim(x, y, padding=padding, reduction="sum")
    assert abs(value.item() / expected.numel() - expected.mean().item()) <= 1e-6
    gradients = torch.autograd.grad(value, (x, y))
    # The gradient at corners and in the middle; each from the part of the image that it depends on.
    reach = 20
    for rows in ((0, 90), (1000, 1090), (height - 90, height)):
        for columns in ((0, 90), (1020, 1110), (width - 90, width)):
            top, left = max(0, rows[0] - reach), max(0, columns[0] - reach)
            part = (..., slice(top, rows[1] + reach), slice(left, columns[1] + reach))
            truth = oracle.gradients(
                lambda a, b: oracle.ssim(a, b, padding=padding, reduction="sum"),
                x.detach()[part],
                y.detach()[part],
            )
            inner = (
                ...,
                slice(rows[0] - top, rows[1] - top),
                slice(columns[0] - left, columns[1] - left),
            )
            for gradient, by in zip(gradients, truth, strict=True):
                found = gradient[..., slice(*rows), slice(*columns)]
                assert relative_error(found, by[inner]) <= 1e-4


def test_seventy_thousand_planes(device):
    # More than a GPU's grid has in y or z.
    x, y = (image.to(device) for image in noise_pair(70_000, 1, 12, 13))
    x = leaf(x.clone())
    found = ssim(x, y, reduction="image")
    upstream = noise(70_000, seed=1).to(device)
    (gradient,) = torch.autograd.grad(found, x, upstream)
    values = ssim(x.detach(), y, reduction="none")
    for first in (0, 32_700, 65_500, 69_800):
        part = slice(first, first + 200)
        a, b = x.detach()[part], y[part]
        assert max_error(found[part], oracle.ssim(a, b, reduction="image")) <= 1e-6
        assert max_error(values[part], oracle.ssim_map(a, b)) <= 5e-6
        truth, _ = oracle.gradients(
            lambda u, v: oracle.ssim(u, v, reduction="image"), a, b, upstream[part]
        )
        assert relative_error(gradient[part], truth) <= 5e-6


def test_seventy_thousand_channels(device):
    x, y = (image.to(device) for image in noise_pair(1, 70_000, 4, 5))
    found = ssim(x, y, reduction="channel")
    for first in (0, 32_700, 65_500, 69_800):
        part = (slice(None), slice(first, first + 200))
        assert max_error(found[part], oracle.ssim(x[part], y[part], reduction="channel")) <= 1e-6


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
        # Not to the bit: the number of planes decides which kernel runs.
        assert max_error(values[part], alone) <= 1e-6
        assert relative_error(y.grad[part], gradient) <= 2**-10


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


MIB = 2**20


def peak(call):
    """Bytes beside what was there before, at most."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    return result, torch.cuda.max_memory_allocated() - before


@pytest.mark.gpu
def test_a_large_square():
    x = torch.empty(1, 1, 16384, 16384, device="cuda").uniform_()
    y = torch.empty_like(x).uniform_().requires_grad_()
    loss, used = peak(lambda: fused_ssim(x, y))
    _, of_backward = peak(loss.backward)
    image = 4 * x.numel()
    assert max(used, of_backward) <= image + 32 * MIB
    with torch.no_grad():
        values = ssim(x, y, reduction="none")
        assert max_error(loss, values.double().mean()) <= 1e-6
        corner = (..., slice(-300, None), slice(-300, None))
        alone = oracle.ssim_map(x[corner], y[corner])[..., 5:, 5:]
        assert max_error(values[..., -295:, -295:], alone) <= 5e-6


@pytest.mark.gpu
def test_many_small_images():
    x = torch.empty(70_000, 3, 16, 16, device="cuda").uniform_()
    y = torch.empty_like(x).uniform_().requires_grad_()
    loss, used = peak(lambda: ssim(x, y, reduction="image"))
    _, of_backward = peak(loss.sum().backward)
    assert max(used, of_backward) <= 4 * x.numel() + 32 * MIB
    assert max_error(loss[-5:], oracle.ssim(x[-5:], y[-5:].detach(), reduction="image")) <= 1e-6


@pytest.mark.gpu
def test_a_volume_beyond_32_bits():
    sides = (1290, 1295, 1300)
    assert sides[0] * sides[1] * sides[2] > 2**31
    x = torch.empty(1, 1, *sides, dtype=torch.float16, device="cuda").uniform_()
    y = torch.empty_like(x).uniform_().requires_grad_()
    total, used = peak(lambda: ssim(x, y, reduction="sum", spatial_dims=3))
    _, of_backward = peak(total.backward)
    assert max(used, of_backward) <= 2 * x.numel() + 260 * MIB
    # The last corner, computed alone, agrees wherever the cut is out of reach.
    corner = (..., *[slice(-60, None)] * 3)
    a, b = x[corner], leaf(y.detach()[corner].clone())
    alone = ssim(a, b, reduction="sum", spatial_dims=3)
    (gradient,) = torch.autograd.grad(alone, b)
    inner = (..., *[slice(10, None)] * 3)
    assert relative_error(y.grad[corner][inner], gradient[inner]) <= 2e-3


@pytest.mark.gpu
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_volume_of_large_slices(padding):
    # Not even a slab of 8 slices fits 256 MB: bands of rows, each around its own.
    shape = (1, 2, 13, 2203, 1201)
    generator = torch.Generator("cuda").manual_seed(0)
    x, y = (leaf(torch.rand(shape, generator=generator, device="cuda")) for _ in range(2))
    mask = torch.rand(shape, generator=generator, device="cuda") > 0.3

    def step(x, y, **options):
        value = ssim(x, y, padding=padding, spatial_dims=3, **options)
        weight = torch.linspace(0.5, 1.5, value.numel(), device="cuda").view(value.shape)
        value.backward(weight.to(value))
        return value.detach(), x.grad, y.grad

    for options in ({"reduction": "channel"}, {"reduction": "none"}, {"mask": mask}):
        x.grad = y.grad = None
        gc.collect()
        torch.cuda.empty_cache()
        found, used = peak(lambda options=options: step(x, y, **options))
        results = (3 if options == {"reduction": "none"} else 2) * 4 * x.numel()
        assert used <= results + x.numel() * 4 + 260 * MIB
        with _route.by_torch_operations():
            expected = step(leaf(x.detach().double()), leaf(y.detach().double()), **options)
        for ours, reference in zip(found, expected, strict=True):
            assert relative_error(ours, reference) <= 1e-5
        assert max_error(found[0], expected[0]) <= 5e-6
