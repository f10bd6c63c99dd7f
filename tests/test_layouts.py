"""Images wherever they lie: any strides, read in place; gradients in the images' own layout."""

from __future__ import annotations

import pytest
import torch

import oracle
from fused_ssim import _route, fused_ssim, l1_ssim_loss, ssim
from images import noise, noise_pair
from measure import leaf, max_error, relative_error

SHAPE = (2, 3, 37, 53)


def nchw(image):
    return image.contiguous()


def channels_last(image):
    return image.contiguous(memory_format=torch.channels_last)


def permuted_hwc(image):
    # What comes out of a renderer: [B, H, W, C], viewed as [B, C, H, W].
    return image.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def transposed(image):
    return image.transpose(2, 3).contiguous().transpose(2, 3)


def batch_innermost(image):
    return image.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


def channels_outermost(image):
    return image.transpose(0, 1).contiguous().transpose(0, 1)


DENSE = [nchw, channels_last, permuted_hwc, transposed, batch_innermost, channels_outermost]


def every_second(image):
    wide = torch.full((*image.shape[:2], 2 * image.shape[2], 3 * image.shape[3]), torch.nan)
    view = wide.to(image)[..., ::2, ::3]
    return view.copy_(image)


def inner_crop(image):
    frame = torch.full((image.shape[0] + 1, image.shape[1] + 2, 50, 70), torch.nan).to(image)
    view = frame[1:, 1:-1, 6 : 6 + image.shape[2], 7 : 7 + image.shape[3]]
    return view.copy_(image)


def padded_rows(image):
    rows = torch.full((*image.shape[:3], 64), torch.nan).to(image)
    return rows[..., : image.shape[3]].copy_(image)


def rgb_of_rgba(image):
    rgba = torch.full((image.shape[0], *image.shape[2:], 4), torch.nan).to(image)
    return rgba[..., :3].copy_(image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


SPARSE = [every_second, inner_crop, padded_rows, rgb_of_rgba]
LAYOUTS = DENSE + SPARSE


def name(layout):
    return layout.__name__


def check(x, y):
    for padding in ("same", "valid"):
        expected = oracle.ssim_map(x.detach(), y.detach(), padding=padding)
        values = ssim(x, y, padding=padding, reduction="none")
        assert max_error(values, expected) <= 5e-6
        assert max_error(fused_ssim(x.detach(), y.detach(), padding), expected.mean()) <= 1e-6
        mean = fused_ssim(x, y, padding)
        assert max_error(mean, expected.mean()) <= 1e-6
        loss = l1_ssim_loss(x, y, padding=padding)
        upstream = noise(*expected.shape, seed=2).to(values) - 0.5
        for result, seed, function in (
            (mean, None, lambda a, b, p=padding: oracle.ssim(a, b, padding=p)),
            (loss, None, lambda a, b, p=padding: oracle.l1_ssim_loss(a, b, padding=p)),
            (values, upstream, lambda a, b, p=padding: oracle.ssim_map(a, b, padding=p)),
        ):
            inputs = [image for image in (x, y) if image.requires_grad]
            found = torch.autograd.grad(result, inputs, seed)
            truth = oracle.gradients(function, x, y, seed)
            truth = [by for by, image in zip(truth, (x, y), strict=True) if image.requires_grad]
            for gradient, by in zip(found, truth, strict=True):
                assert relative_error(gradient, by) <= 5e-6


@pytest.mark.reduced
@pytest.mark.parametrize("second", [nchw, channels_last, every_second], ids=name)
@pytest.mark.parametrize("first", LAYOUTS, ids=name)
def test_layouts(device, first, second):
    x, y = (image.to(device) for image in noise_pair(*SHAPE))
    check(leaf(first(x)), leaf(second(y)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=name)
def test_layouts_of_other_types(device, layout, dtype):
    x, y = (image.to(device).to(dtype) for image in noise_pair(*SHAPE))
    a, b = leaf(layout(x)), leaf(channels_last(y))
    expected = oracle.ssim_map(x, y)
    bound = 1e-12 if dtype == torch.float64 else 5e-6
    assert max_error(ssim(a, b, reduction="none"), expected) <= bound
    found = torch.autograd.grad(ssim(a, b, reduction="sum"), (a, b))
    truth = oracle.gradients(lambda u, v: oracle.ssim(u, v, reduction="sum"), x, y)
    bound = {torch.float16: 2**-11, torch.bfloat16: 2**-8, torch.float64: 1e-11}[dtype]
    for gradient, by in zip(found, truth, strict=True):
        assert relative_error(gradient, by) <= bound


@pytest.mark.parametrize("shape", [SHAPE, (1, 1, 12, 17), (1, 3, 16, 1), (3, 1, 1, 9)], ids=str)
@pytest.mark.parametrize("layout", DENSE, ids=name)
def test_gradient_lies_as_its_image(device, layout, shape):
    x, y = (image.to(device) for image in noise_pair(*shape))
    x, y = leaf(layout(x)), leaf(nchw(y))
    for result in (fused_ssim(x, y), l1_ssim_loss(x, y), ssim(x, y, reduction="none").sum()):
        by_x, by_y = torch.autograd.grad(result, (x, y))
        # Strides of sides of length 1 mean nothing.
        for gradient, image in ((by_x, x), (by_y, y)):
            for side, found, expected in zip(
                image.shape, gradient.stride(), image.stride(), strict=True
            ):
                # The composite's are where torch puts them.
                assert found == expected or side == 1 or _route.composite_is_forced


@pytest.mark.parametrize("layout", SPARSE, ids=name)
def test_gradient_of_a_view_with_gaps_is_sound(device, layout):
    x, y = (image.to(device) for image in noise_pair(*SHAPE))
    x = leaf(layout(x))
    (gradient,) = torch.autograd.grad(fused_ssim(x, y), x)
    assert gradient.shape == x.shape
    gradient.zero_()  # not an alias of anything
    (again,) = torch.autograd.grad(fused_ssim(x, y), x)
    assert again.abs().sum() > 0


@pytest.mark.parametrize("sides", [(0,), (1,), (0, 1), (2,), (3,), (2, 3), (0, 1, 2, 3)], ids=str)
def test_expanded(device, sides):
    shape = [1 if side in sides else size for side, size in enumerate(SHAPE)]
    base_x, base_y = (image.to(device) for image in noise_pair(*shape))
    _, y = (image.to(device) for image in noise_pair(*SHAPE))
    for second in (y, base_y.expand(SHAPE)):
        base = leaf(base_x.clone())
        x = base.expand(SHAPE)
        values = ssim(x, second, reduction="none")
        assert max_error(values, oracle.ssim_map(x.detach(), second)) <= 5e-6
        (found,) = torch.autograd.grad(fused_ssim(x, second), base)
        truth, _ = oracle.gradients(lambda a, b: oracle.ssim(a.expand(SHAPE), b), base_x, second)
        assert relative_error(found, truth) <= 1e-5


def test_gradient_reaches_an_expanded_leaf(device):
    # The leaf itself is the expanded tensor: each pixel of the gradient needs its own place.
    x = leaf(noise(1, 1, 37, 53).to(device).expand(SHAPE))
    y = noise(*SHAPE, seed=1).to(device)
    (found,) = torch.autograd.grad(fused_ssim(x, y), x)
    truth, _ = oracle.gradients(oracle.ssim, x, y)
    assert relative_error(found, truth) <= 5e-6


def test_overlapping_windows(device):
    # Every row begins one pixel after the one before: memory is shared between pixels.
    line = noise(37 + 53).to(device)
    x = line.as_strided((1, 1, 37, 53), (0, 0, 1, 1))
    y = noise(1, 1, 37, 53, seed=1).to(device)
    assert max_error(ssim(x, y, reduction="none"), oracle.ssim_map(x, y)) <= 5e-6
    x = leaf(x)
    (found,) = torch.autograd.grad(fused_ssim(x, y), x)
    truth, _ = oracle.gradients(oracle.ssim, x.detach().contiguous(), y)
    assert relative_error(found, truth) <= 5e-6


def test_same_memory_twice(device):
    # img2 is img1, shifted by one pixel in the same storage.
    frame = noise(1, 3, 37, 54).to(device)
    x, y = leaf(frame[..., :-1]), leaf(frame[..., 1:])
    check(x, y)


def test_inputs_are_left_alone(device):
    x, y = (image.to(device) for image in noise_pair(*SHAPE))
    x, y = leaf(channels_last(x)), leaf(permuted_hwc(y))
    before = x.detach().clone(), y.detach().clone()
    (fused_ssim(x, y) + l1_ssim_loss(x, y) + ssim(x, y, reduction="none").mean()).backward()
    assert torch.equal(x.detach(), before[0])
    assert torch.equal(y.detach(), before[1])


def test_strides_beyond_32_bits():
    # Half a dozen pages of 4.5 GiB are ever touched; the offsets of all rows but the first need more
    # than 31 bits.
    stride = 2**31 // 20 + 77
    memory = torch.empty(23 * stride, dtype=torch.float16)
    x = memory.as_strided((1, 1, 23, 31), (0, 0, stride, 1))
    small, y = (image.half() for image in noise_pair(1, 1, 23, 31))
    x.copy_(small)
    assert torch.equal(ssim(x, y, reduction="none"), ssim(small, y, reduction="none"))
    assert torch.equal(ssim(y, x), ssim(y, small))
    assert x[0, 0, -1].data_ptr() - x.data_ptr() > 2**32
