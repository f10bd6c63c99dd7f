"""The operators underneath: schemas, fakes and registration by torch's own checks, and bad calls.

Python's checks stand in front of them; these calls go past those.
"""

from __future__ import annotations

import pytest
import torch
from torch.library import opcheck

import fused_ssim as fused_ssim  # registers the operators
import oracle
from images import noise, noise_pair
from measure import max_error, relative_error

DEFINITION = (1e-4, 9e-4, 11, 1.5)
MEAN, SUM, IMAGE, CHANNEL = range(4)
ops = torch.ops.fused_ssim


def images(device, *shape, dtype=torch.float32):
    return tuple(image.to(device).to(dtype) for image in noise_pair(*(shape or (2, 3, 17, 23))))


def channels_last(image):
    return image.contiguous(memory_format=torch.channels_last)


def expanded(image):
    return image[:1, :1].expand(image.shape)


def gaps(image):
    return torch.stack([image, image], dim=-1)[..., 0]


LAYOUTS = [torch.Tensor.contiguous, channels_last, expanded, gaps]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_opcheck_ssim(device, layout, dtype):
    x, y = (layout(image) for image in images(device, dtype=dtype))
    for reduction in (MEAN, SUM, IMAGE, CHANNEL):
        for wants in ((True, True), (False, True), (False, False)):
            arguments = (*DEFINITION, reduction == SUM, reduction, 0.2, 0.8, 0.1, *wants)
            opcheck(ops.ssim, (x, y, *arguments))


@pytest.mark.parametrize("valid", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_opcheck_map(device, layout, dtype, valid):
    x, y = (layout(image) for image in images(device, dtype=dtype))
    opcheck(ops.ssim_map, (x, y, *DEFINITION, valid))
    upstream = noise(*ops.ssim_map(x, y, *DEFINITION, valid).shape).to(device)
    upstream = upstream.double() if dtype == torch.float64 else upstream
    for seed in (upstream, expanded(upstream), channels_last(upstream)):
        for wants in ((True, True), (True, False), (False, False)):
            opcheck(ops.ssim_map_backward, (seed, x, y, *DEFINITION, valid, *wants))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_opcheck_scale(device, layout, dtype):
    unit, _ = (layout(image) for image in images(device, dtype=dtype))
    accumulation = torch.float64 if dtype == torch.float64 else torch.float32
    for reduction, shape in ((MEAN, ()), (SUM, ()), (IMAGE, (2,)), (CHANNEL, (2, 3))):
        upstream = noise(*shape).to(device).to(accumulation)
        opcheck(ops.scale_gradient, (unit, upstream, reduction, 0.25))
        if layout is not expanded:  # writing to memory that is shared means nothing
            opcheck(ops.scale_gradient_, (unit.clone(), upstream, reduction, 0.25))


def test_scale(device):
    unit, _ = images(device)
    for reduction, shape in ((MEAN, ()), (IMAGE, (2,)), (CHANNEL, (2, 3))):
        upstream = noise(*shape).to(device)
        spread = upstream.view(*shape, *[1] * (4 - len(shape)))
        found = ops.scale_gradient(unit, upstream, reduction, 0.25)
        assert relative_error(found, 0.25 * unit.double() * spread) <= 1e-6
        in_place = unit.clone()
        assert ops.scale_gradient_(in_place, upstream, reduction, 0.25) is None
        assert torch.equal(in_place, found)


def test_combined_value(device):
    x, y = images(device)
    value, by_x, by_y = ops.ssim(x, y, *DEFINITION, False, MEAN, -0.2, 0.8, 0.2, True, True)
    assert max_error(value, oracle.l1_ssim_loss(x, y)) <= 1e-6
    truth = oracle.gradients(lambda a, b: a.numel() * oracle.l1_ssim_loss(a, b), x, y)
    assert relative_error(by_x, truth[0]) <= 5e-6
    assert relative_error(by_y, truth[1]) <= 5e-6


def test_unwanted_gradients_are_empty(device):
    x, y = images(device)
    _, by_x, by_y = ops.ssim(x, y, *DEFINITION, False, MEAN, 1, 0, 0, False, True)
    assert by_x.numel() == 0
    assert by_y.shape == y.shape


BAD_CALLS = {
    "rank": (lambda x: x[0], {}),
    "shape": (lambda x: x[..., :-1], {}),
    "dtype": (lambda x: x.double(), {}),
    "integers": (lambda x: x.to(torch.uint8), {}),
    "empty": (lambda x: x[:0], {}),
    "even window": (None, {2: 10}),
    "long window": (None, {2: 35}),
    "huge window": (None, {2: 2**40 + 1}),
    "negative window": (None, {2: -3}),
    "sigma": (None, {3: 0.0}),
    "c1": (None, {0: 0.0}),
    "c2": (None, {1: float("nan")}),
}


@pytest.mark.parametrize(("spoil", "arguments"), BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_bad_calls_are_refused(device, spoil, arguments):
    x, y = images(device)
    other = spoil(y) if spoil else y
    definition = [arguments.get(index, value) for index, value in enumerate(DEFINITION)]
    for valid in (False, True):
        for call in (
            lambda v=valid: ops.ssim(x, other, *definition, v, MEAN, 1, 0, 0, True, True),
            lambda v=valid: ops.ssim_map(x, other, *definition, v),
            lambda v=valid: ops.ssim_map_backward(x, x, other, *definition, v, True, True),
        ):
            with pytest.raises((RuntimeError, ValueError, TypeError), match="expected"):
                call()
    if spoil:
        # Both images bad alike: of one shape and dtype, but not [B, C, H, W] or not floating point.
        if other.shape != x.shape and other.ndim == 4 and other.numel():
            return
        if other.dtype == torch.float64:
            return
        with pytest.raises((RuntimeError, ValueError, TypeError), match="expected"):
            ops.ssim_map(other, other, *definition, False)


@pytest.mark.parametrize("reduction", [-1, 4, 2**40])
def test_unknown_reduction_is_refused(device, reduction):
    x, y = images(device)
    with pytest.raises((RuntimeError, ValueError), match="reduction"):
        ops.ssim(x, y, *DEFINITION, False, reduction, 1, 0, 0, True, True)
    with pytest.raises((RuntimeError, ValueError), match="reduction"):
        ops.scale_gradient(x, torch.ones((), device=device), reduction, 1.0)


def test_small_image_with_valid_is_refused(device):
    x, y = images(device, 1, 1, 10, 30)
    with pytest.raises((RuntimeError, ValueError), match="valid"):
        ops.ssim_map(x, y, *DEFINITION, True)


def test_wrong_upstream_is_refused(device):
    x, y = images(device)
    for bad in (
        torch.ones(2, 3, 17, 22, device=device),
        torch.ones(3, 17, 23, device=device),
        torch.ones(2, 3, 17, 23, device=device, dtype=torch.float64),
        torch.ones(2, 3, 7, 13, device=device),
    ):
        with pytest.raises((RuntimeError, ValueError), match="expected"):
            ops.ssim_map_backward(bad, x, y, *DEFINITION, False, True, True)
    for bad in (
        torch.ones(3, device=device),
        torch.ones(2, device=device, dtype=torch.float64),
        torch.ones(4, device=device)[::2],
    ):
        with pytest.raises((RuntimeError, ValueError), match="expected"):
            ops.scale_gradient(x, bad, IMAGE, 1.0)


@pytest.mark.parametrize("shape", [(2, 1, 14, 15), (1, 3, 1, 15), (1, 3, 14, 1)])
def test_opcheck_of_strides_that_do_not_matter(device, shape):
    # Contiguous and channels_last at once, or nearly: the gradient may have either's strides.
    x, y = images(device, *shape)
    x = x.to(memory_format=torch.channels_last)
    opcheck(ops.ssim, (x, y, *DEFINITION, False, MEAN, 1.0, 0.0, 0.0, True, False))
