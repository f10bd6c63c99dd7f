"""Volumes [B, C, D, H, W] and signals [B, C, W]: what test_forms.py leaves out.

Sizes around the window, chunks and tiles of every axis, strides, types, numbers on which rounding
shows, NaN, and the same bits however the work is divided.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.nn import functional

import oracle
from fused_ssim import (
    FusedSSIMMap,
    _composite,
    _route,
    fused_ssim3d,
    l1_ssim_loss,
    ms_ssim,
    ssim,
    ssim_and_mse,
)
from images import blurred, crop, gaussian, noise, noise_pair
from measure import leaf, max_error, relative_error

LOPSIDED = [0.1, 0.25, 0.4, 0.15, 0.1]
WINDOWS = {
    "standard": {},
    "9 taps": {"window_size": 9},
    "uniform": {"window": "uniform", "window_size": 7},
    "13 taps": {"window_size": 13, "sigma": 2.0},
    "lopsided": {"window": [LOPSIDED, [0.2, 0.5, 0.3], LOPSIDED[::-1]]},
}


def pair(device, *shape, dtype=torch.float32, seed=0):
    return tuple(leaf(i.to(device).to(dtype)) for i in noise_pair(*shape, seed=seed))


def check(x, y, bound=5e-6, gradient_bound=1e-5, **form):
    """Map, mean and the gradients of both against the oracle."""
    form = {"spatial_dims": x.dim() - 2, **form}
    expected = oracle.ssim_map(x.detach(), y.detach(), **form)
    values = ssim(x, y, reduction="none", **form)
    assert max_error(values, expected) <= bound
    mean = ssim(x, y, **form)
    assert max_error(mean, expected.mean()) <= 1e-6
    assert max_error(ssim(x.detach(), y.detach(), **form), expected.mean()) <= 1e-6
    weights = noise(*expected.shape, seed=3).to(x.device) - 0.3
    by_map = oracle.gradients(lambda a, b: oracle.ssim_map(a, b, **form), x, y, weights)
    by_mean = oracle.gradients(lambda a, b: oracle.ssim(a, b, **form), x, y)
    for found, truth in (
        (torch.autograd.grad(values, (x, y), weights), by_map),
        (torch.autograd.grad(mean, (x, y)), by_mean),
    ):
        for gradient, by in zip(found, truth, strict=True):
            assert relative_error(gradient, by) <= gradient_bound
            # A norm over all could hide one wrong pixel at a border.
            assert max_error(gradient, by) <= 1e-4 * by.abs().max()


# ---- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS.keys())
@pytest.mark.parametrize("size", [1, 2, 10, 11, 12])
@pytest.mark.parametrize("axis", [2, 3, 4])
def test_around_the_window(device, axis, size, window):
    shape = [1, 2, 14, 13, 15]
    shape[axis] = size
    x, y = pair(device, *shape, seed=size)
    check(x, y, **window)
    if size >= 11 and window is WINDOWS["standard"]:
        check(x, y, padding="valid")


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    "shape",
    [(17, 12, 11), (27, 11, 19), (40, 16, 12), (11, 33, 12), (12, 41, 16), (12, 11, 67)],
    ids=str,
)
def test_around_chunks_and_tiles(device, shape, padding):
    check(*pair(device, 1, 1, *shape), padding=padding)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 40), (1, 40, 1), (40, 1, 1)], ids=str)
def test_thin(device, shape):
    check(*pair(device, 2, 1, *shape))


@pytest.mark.parametrize("size", [1, 2, 5, 6, 10, 11, 12, 127, 961, 2000])
def test_signals(device, size):
    x, y = pair(device, 3, 2, size)
    check(x, y)
    check(x, y, window=LOPSIDED)
    if size >= 11:
        check(x, y, padding="valid")


def test_wide_slices_take_several_tiles(device):
    # More columns than one tile has, whatever the number of threads.
    check(*pair(device, 1, 1, 3, 190, 200))


@pytest.mark.gpu
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_slabs_of_slices(padding):
    # More than a GPU takes at a time: partial derivatives wait for the slab after theirs.
    images = pair("cuda", 1, 2, 70, 360, 400)
    on_cpu = [leaf(image.detach().cpu()) for image in images]
    for reduction in ("mean", "channel", "none"):
        form = {"padding": padding, "reduction": reduction, "spatial_dims": 3}
        found, expected = ssim(*images, **form), ssim(*on_cpu, **form)
        assert max_error(found, expected) <= (5e-6 if reduction == "none" else 1e-6)
        upstream = noise(*expected.shape, seed=5) + 0.5
        gradients = torch.autograd.grad(found, images, upstream.cuda())
        for gradient, by in zip(
            gradients, torch.autograd.grad(expected, on_cpu, upstream), strict=True
        ):
            assert relative_error(gradient, by) <= 1e-5
            assert max_error(gradient, by) <= 1e-4 * by.abs().max()


# ---- numbers ------------------------------------------------------------------------------------


def slices_of_a_photograph():
    """A volume that moves over a photograph, as frames of a film do."""
    photograph = crop("astronaut", 20, 100)[:, :1]
    return torch.stack([photograph[..., 3 * z : 40 + 3 * z, 50:95] for z in range(14)], 2)


CONTENTS = {
    "photograph": lambda: (
        (x := slices_of_a_photograph()),
        (x + 0.05 * gaussian(*x.shape, seed=1)).clamp(0, 1),
    ),
    "blurred photograph": lambda: (
        (x := slices_of_a_photograph()),
        torch.stack([blurred(slice_) for slice_ in x.unbind(2)], 2),
    ),
    "flat": lambda: (
        0.7 * torch.ones(1, 1, 14, 20, 33),
        0.7 + 1e-3 * gaussian(1, 1, 14, 20, 33, seed=2),
    ),
    "near-identical": lambda: (
        (x := noise(1, 1, 14, 20, 33)),
        x + 1e-4 * gaussian(*x.shape, seed=2),
    ),
    "saturated": lambda: (
        (1 + noise(1, 1, 14, 20, 33) / 2).clamp(max=1),
        (1 - 1e-2 * noise(1, 1, 14, 20, 33, seed=4)),
    ),
    "opposite": lambda: ((x := noise(1, 1, 14, 20, 33)), 1 - x),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_accuracy(device, name):
    bound = 1e-4 if "photograph" in name else 5e-6
    x, y = (leaf(image.to(device)) for image in CONTENTS[name]())
    check(x, y, bound, 1e-4)


# ---- layouts and types --------------------------------------------------------------------------

LAYOUTS = {
    "channels_last_3d": lambda x: x.contiguous(memory_format=torch.channels_last_3d),
    "columns first": lambda x: x.transpose(2, 4).contiguous().transpose(2, 4),
    "a slice expanded": lambda x: x[:, :, :1].expand(x.shape),
    "a column expanded": lambda x: x[..., :1].expand(x.shape),
    "gaps": lambda x: torch.stack([x, x], -1)[..., 0],
    "a part": lambda x: functional.pad(x, [1] * 6, value=torch.nan)[..., 1:-1, 1:-1, 1:-1],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_strides(device, layout):
    x, y = (image.detach() for image in pair(device, 2, 3, 12, 11, 13))
    x = layout(x)
    for a, b in ((x, y), (y, x)):
        dense = everything(leaf(a.contiguous()), leaf(b.contiguous()))
        a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
        for found, expected in zip(everything(a, b), dense, strict=True):
            assert torch.equal(found, expected)
    (gradient,) = torch.autograd.grad(fused_ssim3d(a, b), b)
    if layout is LAYOUTS["channels_last_3d"]:
        assert gradient.stride() == x.stride()


TYPES = [
    (torch.float16, torch.float16),
    (torch.bfloat16, torch.float32),
    (torch.float32, torch.uint8),
    (torch.float64, torch.float64),
    (torch.uint8, torch.float64),
]


@pytest.mark.parametrize("types", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 1, 13, 12, 18), (2, 2, 75)], ids=str)
def test_types(device, shape, types):
    images = [
        (255 * i).byte() if dtype == torch.uint8 else i.to(dtype)
        for i, dtype in zip(noise_pair(*shape), types, strict=True)
    ]
    x, y = (i.to(device).requires_grad_(i.is_floating_point()) for i in images)
    a, b = (i.double() / 255 if i.dtype == torch.uint8 else i.detach().double() for i in (x, y))
    form = {"spatial_dims": len(shape) - 2}
    value = l1_ssim_loss(x, y, 0.6, **form)
    assert value.dtype == (torch.float64 if torch.float64 in types else torch.float32)
    assert max_error(value, oracle.l1_ssim_loss(a, b, 0.6, **form)) <= 1e-6
    # float16 has no millionths.
    found = torch.autograd.grad(value * x.numel(), [i for i in (x, y) if i.requires_grad])
    truth = oracle.gradients(lambda p, q: oracle.l1_ssim_loss(p, q, 0.6, **form), a, b)
    wanted = [by for by, i in zip(truth, (x, y), strict=True) if i.requires_grad]
    for gradient, by in zip(found, wanted, strict=True):
        bound = max(2e-6, torch.finfo(gradient.dtype).eps)
        assert relative_error(gradient, by * x.numel()) <= bound


# ---- one way to compute it ----------------------------------------------------------------------


def everything(x, y, **form):
    """Every result there is of floating-point images, in one list."""
    form = {"spatial_dims": x.dim() - 2, **form}
    results = [ssim(x.detach(), y.detach(), **form)]
    for reduction in ("mean", "sum", "image", "channel", "none"):
        value = ssim(x, y, reduction=reduction, **form)
        results += [value.detach(), *torch.autograd.grad(value.sum(), (x, y))]
        results += torch.autograd.grad(ssim(x, y.detach(), reduction=reduction, **form).sum(), x)
    loss = l1_ssim_loss(x, y, padding=form.get("padding", "same"), spatial_dims=x.dim() - 2)
    return [*results, loss.detach(), *torch.autograd.grad(loss, (x, y))]


THREADED = [
    (1, 1, 40, 37, 21),
    (2, 3, 11, 90, 17),
    (1, 1, 3, 5, 7),
    (1, 1, 90, 12, 11),
    (3, 2, 401),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", THREADED, ids=str)
@pytest.mark.parametrize("window", ["standard", "lopsided"])
def test_the_same_bits_for_any_number_of_threads(restore_threads, shape, dtype, window):
    x, y = pair("cpu", *shape, dtype=dtype)
    form = {"window": LOPSIDED} if window == "lopsided" else {}
    torch.set_num_threads(1)
    expected = everything(x, y, **form)
    for threads in (2, 5):
        torch.set_num_threads(threads)
        for found, reference in zip(everything(x, y, **form), expected, strict=True):
            assert torch.equal(found, reference)


def test_a_volume_does_not_see_its_neighbours(device):
    x, y = (image.detach() for image in pair(device, 3, 2, 13, 25, 14))
    together = ssim(x, y, reduction="none", spatial_dims=3)
    for image in range(3):
        alone = ssim(
            x[image : image + 1, 1:], y[image : image + 1, 1:], reduction="none", spatial_dims=3
        )
        assert torch.equal(alone[0, 0], together[image, 1])


def test_a_volume_of_one_slice_is_an_image(device):
    x, y = pair(device, 2, 3, 25, 31)
    window = [[1.0], *oracle.axis_taps("gaussian", 11, 1.5, 2)]
    volume = ssim(x[:, :, None], y[:, :, None], window=window, spatial_dims=3)
    assert max_error(volume, ssim(x, y)) <= 1e-7


# ---- what is not a number -----------------------------------------------------------------------

# The middle of everything, where the first sample for the shift lies, corners, and others.
PLACES = [(9, 12, 6), (2, 4, 2), (0, 0, 0), (18, 24, 13), (7, 8, 9), (16, 15, 5)]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf], ids=str)
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_not_a_number_poisons_its_own_windows(device, place, bad):
    x, y = (image.detach() for image in pair(device, 1, 2, 19, 25, 14))
    form = {"spatial_dims": 3, "window": [oracle.gaussian_taps(5, 0.9), [0.2, 0.6, 0.2], LOPSIDED]}
    radii = (2, 1, 2)

    def near(times):
        reach = torch.ones((), dtype=torch.bool)
        for size, middle, radius in zip(x.shape[2:], place, radii, strict=True):
            reach = reach[..., None] & ((torch.arange(size) - middle).abs() <= times * radius)
        return reach.to(device)

    expected = oracle.ssim_map(x, y, **form)
    truth = oracle.gradients(lambda a, b: oracle.ssim(a, b, reduction="sum", **form), x, y)
    poisoned = x.clone()
    poisoned[(0, 1, *place)] = bad
    a, b = leaf(poisoned), leaf(y.clone())
    values = ssim(a, b, reduction="none", **form)
    assert not values[0, 1][near(1)].isfinite().any()
    assert max_error(values[0, 1][~near(1)], expected[0, 1][~near(1)]) <= 5e-6
    assert max_error(values[0, 0], expected[0, 0]) <= 5e-6
    for gradient, by in zip(torch.autograd.grad(values.sum(), (a, b)), truth, strict=True):
        assert not gradient[0, 1][near(2)].isfinite().any()
        assert max_error(gradient[0, 1][~near(2)], by[0, 1][~near(2)]) <= 1e-5 * by.abs().max()
        assert max_error(gradient[0, 0], by[0, 0]) <= 1e-5 * by.abs().max()


# ---- who computes -------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 3])
def test_kernels_compute_every_form(device, dims, monkeypatch):
    monkeypatch.setattr(_composite, "_said_so", False)
    monkeypatch.setattr(_route, "composite_is_forced", False)
    x, y = pair(device, 2, 2, *[12] * dims)
    form = {"spatial_dims": dims}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for padding in ("same", "valid", "reflect", "replicate"):
            for reduction in ("mean", "sum", "image", "channel", "none"):
                ssim(x, y, padding=padding, reduction=reduction, **form).sum().backward()
            ssim_and_mse(x, y, padding=padding, **form)
            weights = (0.4, 0.6)
            ms_ssim(x, y, padding=padding, window_size=5, weights=weights, **form).backward()
        if device == "cpu":
            ssim(x, y, data_range=torch.tensor([1.0, 2.0]), **form).backward()
        l1_ssim_loss(x, y, **form).backward()
        if dims == 3:
            fused_ssim3d(x, y).backward()
            FusedSSIMMap.apply(1e-4, 9e-4, x, y, "valid", True, 3).mean().backward()
