"""The operator that extends images, and SSIM with reflected and repeated borders."""

from __future__ import annotations

import numpy
import pytest
import torch
from skimage.metrics import structural_similarity
from torch.autograd import gradcheck, gradgradcheck

from fused_ssim import _borders, ssim
from images import noise, noise_pair
from measure import leaf, max_error, relative_error

# What NumPy calls them.
NAMES = {"reflect": "reflect", "replicate": "edge"}
each_border = pytest.mark.parametrize("border", NAMES)
DTYPES = [torch.uint8, torch.bool, torch.float16, torch.bfloat16, torch.float32, torch.float64]


def expected_pad(image, radii, border):
    widths = [(0, 0)] * (image.dim() - len(radii)) + [(radius, radius) for radius in radii]
    return torch.from_numpy(numpy.pad(image.cpu().numpy(), widths, mode=NAMES[border]))


@each_border
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("shape", "radii"), [((2, 3, 9), (4,)), ((2, 3, 7, 6), (5, 3)), ((1, 2, 5, 6, 4), (1, 5, 0))]
)
def test_same_as_numpy(device, dtype, shape, radii, border):
    image = (200 * noise(*shape)).to(device).to(dtype)
    found = _borders.pad(image, radii, border)
    assert found.dtype == dtype
    comparable = image.float() if dtype == torch.bfloat16 else image
    assert torch.equal(found.cpu().to(comparable.dtype), expected_pad(comparable, radii, border))


@each_border
def test_any_strides(device, border):
    image = noise(2, 3, 8, 9).to(device)
    expected = _borders.pad(image, (3, 4), border)
    for view in (
        image.contiguous(memory_format=torch.channels_last),
        image.transpose(2, 3).contiguous().transpose(2, 3),
        torch.stack([image, image], -1)[..., 0],
    ):
        assert torch.equal(_borders.pad(view, (3, 4), border), expected)
    one = image[:1, :1].expand(2, 3, 8, 9)
    assert torch.equal(
        _borders.pad(one, (3, 4), border), _borders.pad(one.contiguous(), (3, 4), border)
    )


@each_border
def test_adjoint(device, border):
    x = leaf(noise(2, 2, 6, 7).to(device).double())
    y = _borders.pad(x, (5, 3), border)
    other = noise(*y.shape, seed=1).to(device).double()
    (adjoint,) = torch.autograd.grad(y, x, other)
    assert abs((y * other).sum() - (x * adjoint).sum()) <= 1e-10
    assert gradcheck(lambda a: _borders.pad(a, (5, 3), border).square(), (x,), fast_mode=True)
    assert gradgradcheck(lambda a: _borders.pad(a, (5, 3), border).square(), (x,), fast_mode=True)


@each_border
def test_gradient_is_the_same_every_time(device, border):
    x = leaf(noise(2, 3, 40, 50).to(device))
    y = _borders.pad(x, (16, 16), border)
    seed = noise(*y.shape, seed=2).to(device)
    first, *others = (torch.autograd.grad(y, x, seed, retain_graph=True)[0] for _ in range(5))
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 1, 9), (2, 1, 3, 2)])
def test_replicate_takes_any_size(device, way, shape):
    x, y = (leaf(image.to(device)) for image in noise_pair(*shape))
    padded = [_borders.pad(image.detach(), (5, 5), "replicate") for image in (x, y)]
    expected = ssim(*padded, padding="valid", reduction="none")
    values = ssim(x, y, padding="replicate", reduction="none")
    assert values.shape == shape
    assert torch.equal(values, expected)
    assert all(g.isfinite().all() for g in torch.autograd.grad(values.sum(), (x, y)))


def test_reflect_needs_more_than_the_radius(device, way):
    x, y = (image.to(device) for image in noise_pair(1, 1, 6, 6))
    assert ssim(x, y, padding="reflect", reduction="none").shape == x.shape
    with pytest.raises(ValueError, match=r"at least 6.*\[1, 1, 6, 5\]"):
        ssim(x[..., :5], y[..., :5], padding="reflect")


@each_border
def test_middle_is_that_of_valid(device, way, border):
    x, y = (image.to(device) for image in noise_pair(2, 3, 30, 31))
    inner = ssim(x, y, padding="valid", reduction="none")
    values = ssim(x, y, padding=border, reduction="none")
    assert max_error(values[..., 5:-5, 5:-5], inner) <= 2e-6


def test_scikit_image_symmetric_border_is_ours_of_the_extended_image(device, way):
    # Its border repeats the edge pixel, so its full map is ours only up to the radius.
    x, y = (image[0, 0].double().to(device) for image in noise_pair(1, 1, 32, 33))
    _, full = structural_similarity(
        x.cpu().numpy(), y.cpu().numpy(), data_range=1.0, win_size=7, full=True
    )
    form = {"window": "uniform", "window_size": 7, "unbiased": True, "reduction": "none"}
    ours = ssim(x[None, None], y[None, None], padding="reflect", **form)[0, 0]
    assert max_error(ours[3:-3, 3:-3], torch.from_numpy(full)[3:-3, 3:-3]) <= 1e-12
    symmetric = [
        torch.from_numpy(numpy.pad(image.cpu().numpy(), 3, mode="symmetric"))[None, None].to(device)
        for image in (x, y)
    ]
    ours = ssim(*symmetric, padding="valid", **form)[0, 0]
    assert max_error(ours, torch.from_numpy(full)) <= 1e-12


@each_border
def test_half_precision_gradients(device, way, border):
    x, y = (leaf(image.to(device).half()) for image in noise_pair(1, 2, 20, 21))
    a, b = leaf(x.detach().double()), leaf(y.detach().double())
    found = torch.autograd.grad(ssim(x, y, padding=border, reduction="sum"), (x, y))
    truth = torch.autograd.grad(ssim(a, b, padding=border, reduction="sum"), (a, b))
    for gradient, by in zip(found, truth, strict=True):
        assert gradient.dtype == torch.float16
        assert relative_error(gradient, by) <= 2**-9
