"""SSIM as a composite of torch operations: every form, on any device.

It serves where no kernel does, and can be differentiated any number of times. The arithmetic is
that of src/core/formula.h: sums s = x + y and differences d = x - y of shifted images, with which

    luminance = 1 - (mean_x - mean_y)^2 / (mean_x^2 + mean_y^2 + C1)
    contrast  = 1 - 2 var_d / (var_s + var_d + 2 C2)          (contrast times structure)

so that identical images give exactly 1 and nothing exceeds it. Arguments have been checked.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from fused_ssim._parameters import STATISTICS, Definition, MaskMode, Reduced, axis_taps
from fused_ssim._pixels import numbers, sum_dtype
from fused_ssim._refusals import without_gradient
from fused_ssim._torch_private import is_compiling
from fused_ssim._windows import Taps, rounded_to_float32


def reduced(
    img1: Tensor,
    img2: Tensor,
    definition: Definition,
    reduction: Reduced,
    *,
    statistic_weight: float = 1.0,
    l1_weight: float = 0.0,
    offset: float = 0.0,
    train: bool = True,
    stabilizers: Tensor | None = None,
    mask: Tensor | None = None,
    mask_mode: MaskMode = "weighted",
    map_of: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """offset + reduction of statistic_weight * S + l1_weight * |img1 - img2|.

    Over nothing (a mask of zeros) a mean of S is 1, and all else 0. `map_of` gives the map of S
    of two images, where the mask does not change it.
    """
    if not train:
        value = reduced(
            img1.detach(),
            img2.detach(),
            definition,
            reduction,
            statistic_weight=statistic_weight,
            l1_weight=l1_weight,
            offset=offset,
            stabilizers=stabilizers,
            mask=mask,
            mask_mode=mask_mode,
            map_of=map_of,
        )
        return without_gradient(value, img1, img2)
    if map_of is None:  # not by its truth, which older compilers do not know
        map_of = _map_of(definition, stabilizers, mask, mask_mode)
    values = map_of(img1, img2)
    weights = _weights(img1, img2, definition, mask)
    # Weighted before it is reduced: see _plus. Reduced apart, so that the loss of identical images
    # is exactly 0.
    of_equal_images = 0.0 if reduction == "sum" else statistic_weight
    result = _reduce(statistic_weight * values, weights, reduction, of_equal_images)
    result = _plus(result, offset)
    if l1_weight != 0.0:
        x, y = (numbers(i, definition.uint8_divisor, values.dtype) for i in (img1, img2))
        difference = _of_values(x - y, definition)
        if weights is not None:
            difference = difference.where(weights > 0, 0.0)
        result = result + _reduce(l1_weight * difference.abs(), weights, reduction, 0.0)
    return result


def mapped(
    img1: Tensor,
    img2: Tensor,
    definition: Definition,
    *,
    stabilizers: Tensor | None = None,
    mask: Tensor | None = None,
    mask_mode: MaskMode = "weighted",
    map_of: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """The map of S; 1 where the mask is 0. `map_of` is that of `reduced`.

    Shape:
        images: [B, C, *sizes]; the result [B, C, *map sizes].
    """
    if map_of is None:
        map_of = _map_of(definition, stabilizers, mask, mask_mode)
    values = map_of(img1, img2)
    weights = _weights(img1, img2, definition, mask)
    return (values if weights is None else values.where(weights > 0, 1.0)).contiguous()


def _map_of(
    definition: Definition,
    stabilizers: Tensor | None,
    mask: Tensor | None,
    mask_mode: MaskMode,
) -> Callable[[Tensor, Tensor], Tensor]:
    """What gives the map of two images here."""
    return lambda img1, img2: _statistic(
        _read(img1, img2, definition, mask), definition, stabilizers, mask_mode
    )


def ssim_and_mse(
    img1: Tensor, img2: Tensor, definition: Definition, *, stabilizers: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The means of S and of (img1 - img2)^2 over each plane, [B, C] each; no gradient."""
    images = _read(img1.detach(), img2.detach(), definition, None)
    values = _reduce(_statistic(images, definition, stabilizers, "weighted"), None, "channel", 1.0)
    squares = _cropped(images.x - images.y, images.windows).square()
    mse = _reduce(squares, None, "channel", 0.0)
    return without_gradient(values, img1, img2), without_gradient(mse, img1, img2)


def _of_values(image: Tensor, definition: Definition) -> Tensor:
    """The pixels that get a value."""
    if not definition.valid:
        return image
    taps = axis_taps(definition)[5 - image.dim() :]
    return _cropped(image, list(enumerate(taps, 2 - image.dim())))


def _weights(
    img1: Tensor, img2: Tensor, definition: Definition, mask: Tensor | None
) -> Tensor | None:
    """The mask of the pixels that get a value."""
    if mask is None:
        return None
    return _of_values(mask_numbers(mask, sum_dtype(img1, img2)).expand_as(img1), definition)


class _Images(NamedTuple):
    """Pixels in the type of the sums, extended by what windows see beyond the border."""

    x: Tensor
    y: Tensor
    mask: Tensor | None
    shift_x: Tensor
    shift_y: Tensor
    windows: list[tuple[int, Taps]]
    """Axes, counted from the last (-1), and the taps along them."""


def mask_numbers(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights of a mask; what is none, NaN or negative, counts as 0, as in kernels."""
    numbers = mask.to(dtype)
    return numbers if mask.dtype == torch.bool else numbers.where(numbers > 0, 0.0)


def _read(img1: Tensor, img2: Tensor, definition: Definition, mask: Tensor | None) -> _Images:
    dtype = sum_dtype(img1, img2)
    x, y = (numbers(image, definition.uint8_divisor, dtype) for image in (img1, img2))
    mask = None if mask is None else mask_numbers(mask, dtype).expand_as(x)
    shift_x, shift_y = _shift(x, mask), _shift(y, mask)
    spatial = x.dim() - 2
    taps = axis_taps(definition)[3 - spatial :]
    windows = [
        (axis, of_axis if dtype == torch.float64 else rounded_to_float32(of_axis))
        for axis, of_axis in enumerate(taps, -spatial)
        if len(of_axis) > 1
    ]
    if not definition.valid:
        margins = [margin for of_axis in reversed(taps) for margin in (len(of_axis) // 2,) * 2]
        x, y = functional.pad(x, margins), functional.pad(y, margins)
        mask = None if mask is None else functional.pad(mask, margins, value=1.0)
    return _Images(x, y, mask, shift_x, shift_y, windows)


def _shift(image: Tensor, mask: Tensor | None) -> Tensor:
    """A number near the pixels of each plane: squares of what remains are small, so that variances
    lose little as their differences.

    The middle of the quartiles of some pixels: no outlier reaches it, and of two levels in a plane
    it takes neither side. Pixels that are not finite or masked count for nothing.
    """
    image, dims = image.detach(), image.dim()
    valid = image.isfinite() if mask is None else image.isfinite() & (mask > 0)
    samples = (64, 8, 4)[dims - 3]  # along each axis: 64 in all
    for axis in range(2, dims):
        places = torch.arange(samples, device=image.device) * image.shape[axis] // samples
        image, valid = image.index_select(axis, places), valid.index_select(axis, places)
    image, valid = image.flatten(2), valid.flatten(2)
    mean = image.where(valid, 0.0).sum(-1, keepdim=True) / valid.sum(-1, keepdim=True).clamp(min=1)
    ordered = image.where(valid, mean).sort(-1).values
    quarter = ordered.shape[-1] // 4
    middle = 0.5 * (ordered[..., quarter] + ordered[..., -1 - quarter])
    return middle.reshape(*middle.shape, *(1,) * (dims - 2))


def _filtered(image: Tensor, windows: list[tuple[int, Taps]]) -> Tensor:
    """The weighted mean of every window that lies in the image.

    Sums of slices instead of a convolution: exact float32 on every device, in a fixed order, and a
    pixel that is not finite stays in its windows.
    """
    for axis, taps in windows:
        size = image.shape[axis] - len(taps) + 1
        # The smallest taps first: fewer sums are rounded at full size.
        first, *others = sorted(range(len(taps)), key=taps.__getitem__)
        total = taps[first] * image.narrow(axis, first, size)
        for i in others:
            total = torch.add(total, image.narrow(axis, i, size), alpha=taps[i])
        image = total
    return image


def _cropped(image: Tensor, windows: list[tuple[int, Taps]]) -> Tensor:
    """The pixels at the centres of the windows that lie in the image."""
    for axis, taps in windows:
        image = image.narrow(axis, len(taps) // 2, image.shape[axis] - len(taps) + 1)
    return image


def _clamped(value: Tensor, low: float | None, high: float | None) -> Tensor:
    """`value` without what rounding took it beyond its bounds; its derivatives stay as they are."""
    return value + (value.clamp(low, high) - value).detach()


def _statistic(
    images: _Images, definition: Definition, stabilizers: Tensor | None, mask_mode: MaskMode
) -> Tensor:
    """The map of what `definition` names."""
    x, y, mask, shift_x, shift_y, windows = images
    counts = None
    if mask is not None and mask_mode == "normalized":
        x, y = x.where(mask > 0, 0.0), y.where(mask > 0, 0.0)
        counts = mask
    shift_d = shift_x - shift_y
    d = (x - y) - shift_d
    x, y = x - shift_x, y - shift_y
    # The mean of d by itself has more digits than the difference of those of x and y, where images
    # nearly agree. Where one is dark and the other bright, the derivative by the one is far smaller
    # than that by the other, and would drown in the derivative by d, which is made of both.
    pixels = torch.stack([x, y, d, (x + y).square(), d.square()])
    if counts is None:
        means = _filtered(pixels, windows)
    elif not windows:
        seen, means = counts, pixels  # a mask does not change the mean of one pixel
    else:
        seen = _filtered(counts, windows)
        means = _filtered(counts * pixels, windows) / seen.where(seen > 0, 1.0)
    mean_x, mean_y, mean_d, mean_s2, mean_d2 = means.unbind()
    c1, c2 = _stabilizers(definition, stabilizers, x)
    name, factors = STATISTICS[definition.statistic], []
    if name != "luminance":
        factors.append(_contrast(mean_x + mean_y, mean_d, mean_s2, mean_d2, c2))
    if name != "contrast":
        factors.append(_luminance(mean_x + shift_x, mean_y + shift_y, mean_d + shift_d, c1))
    result = factors[0] * factors[1] if len(factors) == 2 else factors[0]
    return result if counts is None else result.where(seen > 0, 1.0)


def _stabilizers(
    definition: Definition, stabilizers: Tensor | None, like: Tensor
) -> tuple[Tensor | float, Tensor | float]:
    if stabilizers is None:
        return definition.c1, definition.c2
    c1, c2 = stabilizers.to(like.dtype).unbind(-1)
    shape = (-1, *(1,) * (like.dim() - 1))
    return c1.reshape(shape), c2.reshape(shape)


def _contrast(
    mean_s: Tensor, mean_d: Tensor, mean_s2: Tensor, mean_d2: Tensor, c2: Tensor | float
) -> Tensor:
    var_s = _clamped(mean_s2 - mean_s.square(), 0.0, None)
    var_d = _clamped(mean_d2 - mean_d.square(), 0.0, None)
    return 1.0 - 2.0 * (var_d / (var_s + (var_d + 2.0 * c2)))


def _luminance(mean_x: Tensor, mean_y: Tensor, difference: Tensor, c1: Tensor | float) -> Tensor:
    energy = mean_x.square() + mean_y.square() + c1
    loss = difference.square() / energy
    # Of two forms of one number each has exact derivatives where those of the other are differences
    # of numbers that agree: near 1 the first, near 0 the second.
    return (1.0 - loss).where(
        loss < 0.5, _clamped((2.0 * mean_x * mean_y + c1) / energy, -1.0, None)
    )


def _plus(value: Tensor, number: float) -> Tensor:
    """Their sum: forward mode makes float64 of a tensor without dimensions and a number of Python."""
    return value + value.new_full((), number)


def _reduce(
    values: Tensor, weights: Tensor | None, reduction: Reduced, of_equal_images: float
) -> Tensor:
    first = {"image": 1, "channel": 2}.get(reduction, 0)
    axes = list(range(first, values.dim()))
    if weights is None:
        if reduction == "sum":
            return values.sum(axes)
        # Around what equal images have, which a mean of it may miss by a rounding.
        return _plus((values - of_equal_images).mean(axes), of_equal_images)
    total = (weights * (values - of_equal_images).where(weights > 0, 0.0)).sum(axes)
    if reduction == "sum":
        return total
    count = weights.sum(axes)
    return _plus(total / count.where(count > 0, 1.0), of_equal_images)


# ---- a word about it ----------------------------------------------------------------------------

_said_so = False


def say_once(what: str) -> None:
    """That torch operations compute it."""
    global _said_so
    # A compiler fuses them by itself.
    if _said_so or is_compiling():
        return
    _said_so = True
    warnings.warn(
        f"fused_ssim: no fused kernel serves {what}, so torch operations compute it: the same "
        "numbers, more slowly and in more memory (said once per process)",
        UserWarning,
        stacklevel=levels_to_the_caller(),
    )


def levels_to_the_caller() -> int:
    """The `stacklevel` that names the line which called the package, be it through a module."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in (
        "fused_ssim",
        "torch",
    ):
        level, frame = level + 1, frame.f_back
    return level
