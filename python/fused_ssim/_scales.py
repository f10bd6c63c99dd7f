"""MS-SSIM: SSIM and its contrast at scales of half the size each (Wang, Simoncelli, Bovik 2003)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fused_ssim import _autograd, _forms, _route, _sharding, _validation
from fused_ssim._parameters import (
    NEGATIVES,
    ODD_SIZES,
    STATISTICS,
    Definition,
    Negative,
    OddSizes,
    Reduced,
)
from fused_ssim._pixels import numbers, sum_dtype


def reduced(
    img1: Tensor,
    img2: Tensor,
    form: _forms.Form,
    exponents: tuple[float, ...],
    reduction: Reduced,
    negative: Negative,
    odd_sizes: OddSizes,
    spatial_dims: int,
) -> Tensor:
    """The product of all scales' factors, reduced."""
    definition, padding = (
        form.definition,
        form.border or ("valid" if form.definition.valid else "same"),
    )
    # Written out, since the compiler of torch 2.5 does not know _replace().
    taps, window_sizes, c1, c2, valid, _, uint8_divisor = definition
    contrast = _forms.Form(
        Definition(taps, window_sizes, c1, c2, valid, STATISTICS.index("contrast"), uint8_divisor),
        form.border,
        form.data_range,
        form.relative_stabilizers,
    )
    sizes = definition.window_sizes[-spatial_dims:]
    least = [least_size(size, padding, len(exponents), odd_sizes) for size in sizes]
    _validation.check_scales_fit(img1, least, len(exponents), padding)
    if _sharding.is_distributed(img1, img2):
        _route.refuse_beside_shards(None, form.data_range)
        return _sharding.reduced(
            lambda x, y: reduced(
                x, y, form, exponents, "channel", negative, odd_sizes, spatial_dims
            ),
            img1,
            img2,
            reduction,
            pixels=1,
        )
    checked = _forms.checked(contrast, img1, img2, spatial_dims)

    def by_scale(x: Tensor, y: Tensor) -> Tensor:
        return _by_scale(x, y, form, contrast, exponents, negative, odd_sizes, spatial_dims)

    if form.border is None and _route.kernels_serve_scales(img1, definition, len(exponents)):
        result = _autograd.ms_ssim(
            img1,
            img2,
            definition,
            exponents,
            NEGATIVES.index(negative),
            ODD_SIZES.index(odd_sizes),
            by_scale=by_scale,
            stabilizers=checked.stabilizers,
        )
    else:
        result = by_scale(img1, img2)
    if reduction == "channel":
        return result
    if reduction == "image":
        return result.mean(1)
    return result.sum() if reduction == "sum" else result.mean()


def _by_scale(
    img1: Tensor,
    img2: Tensor,
    form: _forms.Form,
    contrast: _forms.Form,
    exponents: Sequence[float],
    negative: Negative,
    odd_sizes: OddSizes,
    spatial_dims: int,
) -> Tensor:
    """The product scale by scale, [B, C]: `contrast` at all of them, `form` at the coarsest."""

    def mean_of(x: Tensor, y: Tensor, coarsest: bool) -> Tensor:
        of_scale = form if coarsest else contrast
        x, y, _, stabilizers = _forms.checked(of_scale, x, y, spatial_dims)
        return _route.reduced(x, y, of_scale.definition, "channel", stabilizers=stabilizers)

    def factor_of(mean: Tensor, exponent: float) -> Tensor:
        return power(mean, exponent, negative)

    divisor = form.definition.uint8_divisor
    return product(img1, img2, exponents, mean_of, factor_of, odd_sizes, divisor)


def product(
    img1: Tensor,
    img2: Tensor,
    exponents: Sequence[float],
    mean_of: Callable[[Tensor, Tensor, bool], Tensor],
    factor_of: Callable[[Tensor, float], Tensor],
    odd_sizes: OddSizes,
    uint8_divisor: int,
) -> Tensor:
    """The product of factor_of(mean, exponent) over the scales, the finest first.

    `mean_of` is given the images of a scale, and whether it is the coarsest.
    """
    dtype = sum_dtype(img1, img2)
    result = None
    for scale, exponent in enumerate(exponents, 1):
        coarsest = scale == len(exponents)
        factor = factor_of(mean_of(img1, img2, coarsest), exponent)
        result = factor if result is None else result * factor
        if not coarsest:
            img1, img2 = (
                _halved(numbers(image, uint8_divisor, dtype), odd_sizes) for image in (img1, img2)
            )
    assert result is not None
    return result


def least_size(taps: int, padding: str, scales: int, odd_sizes: str) -> int:
    """The least side of an image whose coarsest scale the window can be applied to."""
    least = {"valid": taps, "reflect": taps // 2 + 1}.get(padding, 1)
    halvings = 1 << (scales - 1)
    return (least - 1) * halvings + 1 if odd_sizes == "pad" else least * halvings


def _halved(image: Tensor, odd_sizes: str) -> Tensor:
    """Means of 2 x 2 pixels (2 along each spatial axis)."""
    if odd_sizes == "pad":
        margins = [margin for size in reversed(image.shape[2:]) for margin in (size % 2, 0)]
        image = functional.pad(image, margins)
    for axis in range(2, image.dim()):
        half = image.shape[axis] // 2
        pairs = image.narrow(axis, 0, 2 * half)
        pairs = pairs.reshape(*image.shape[:axis], half, 2, *image.shape[axis + 1 :])
        image = 0.5 * (pairs.select(axis + 1, 0) + pairs.select(axis + 1, 1))
    return image


def power(mean: Tensor, exponent: float, negative: str) -> Tensor:
    """mean ** exponent, continued to means that are not positive."""
    if exponent == 0.0:  # one, with a gradient of zero
        return mean.masked_fill(torch.ones_like(mean, dtype=torch.bool), 1.0)
    exponent = min(exponent, torch.finfo(mean.dtype).max)  # more is refused on CUDA
    # The branch that is not taken sees a harmless number: its derivative would be 0 times infinity.
    if negative == "relu":
        below = mean <= 0.0
        return mean.masked_fill(below, 1.0).pow(exponent).masked_fill(below, 0.0)
    t = 0.01
    below = mean < t
    curve = math.pow(t, exponent) / (1.0 + exponent * (t - mean.clamp(max=t)) / t)
    return curve.where(below, mean.masked_fill(below, 1.0).pow(exponent))
