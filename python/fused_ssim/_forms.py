"""What the public functions are asked: their arguments checked, once for each set of them."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fused_ssim import _borders, _sharding, _validation, _windows
from fused_ssim._parameters import (
    BORDERS,
    PADDINGS,
    SCALE_WEIGHTS,
    STATISTICS,
    Border,
    Definition,
    definition_of,
)
from fused_ssim._pixels import sum_dtype
from fused_ssim._torch_private import constant_for_compilers, is_compiling

_HALF = frozenset((torch.float16, torch.bfloat16))


class Form(NamedTuple):
    """The checked arguments of `ssim` but reduction and mask."""

    definition: Definition
    border: Border | None
    """How images are extended before a "valid" definition sees them."""
    data_range: float | Tensor
    relative_stabilizers: tuple[float, float]
    """C1 and C2 of a data range of 1."""


def form(
    *,
    data_range: Any = 1.0,
    window: Any = "gaussian",
    window_size: Any = 11,
    sigma: Any = 1.5,
    k1: Any = 0.01,
    k2: Any = 0.03,
    padding: Any = "same",
    unbiased: Any = False,
    component: Any = "ssim",
    spatial_dims: Any = 2,
) -> Form:
    """Checks the arguments."""
    arguments = (
        *(data_range, window, window_size, sigma, k1, k2),
        *(padding, unbiased, component, spatial_dims),
    )
    # Names and Python's own numbers, as a rule.
    if is_compiling() or not set(map(type, arguments)) <= _REMEMBERED:
        return _form(*arguments)
    return _remembered_form(*arguments)


_REMEMBERED = frozenset((bool, int, float, str))


def _form(
    data_range: Any,
    window: Any,
    window_size: Any,
    sigma: Any,
    k1: Any,
    k2: Any,
    padding: Any,
    unbiased: Any,
    component: Any,
    spatial_dims: Any,
) -> Form:
    spatial_dims = _validation.spatial_dims(spatial_dims)
    ranges = _validation.data_range(data_range)
    k1 = _validation.positive("k1", k1, "the standard is 0.01")
    k2 = _validation.positive("k2", k2, "the standard is 0.03")
    _validation.check_any_padding(padding)
    _validation.check_flag("unbiased", unbiased)
    _validation.check_component(component)
    axes = _windows.axes(window, window_size, sigma, spatial_dims)
    sizes = tuple(len(taps) for taps in axes)
    largest = 1.0 if isinstance(ranges, Tensor) else ranges
    if isinstance(ranges, Tensor):
        _validation.check_squares(k1, k2, ranges)
    c1 = _validation.square("k1", k1, largest)
    c2 = _validation.square("k2", k2, largest)
    correction = 1.0
    if unbiased:
        _validation.check_sample_covariance(sizes)
        samples = math.prod(sizes)
        correction = (samples - 1) / samples
    definition = definition_of(
        axes,
        c1,
        c2 * correction,
        valid=padding != "same",
        statistic=STATISTICS.index(component),
        uint8_divisor=1 if largest == 255.0 else 255,
    )
    border = padding if padding in BORDERS else None
    return Form(definition, border, ranges, (k1 * k1, k2 * k2 * correction))


_remembered_form = functools.lru_cache(maxsize=256, typed=True)(_form)


def ssim_form(*, reduction: Any, mask_mode: Any, **arguments: Any) -> Form:
    """Checks all arguments of `ssim` but the tensors."""
    _validation.check_reduction(reduction)
    _validation.check_mask_mode(mask_mode)
    return form(**arguments)


def ms_ssim_form(
    *, weights: Any, reduction: Any, negative: Any, odd_sizes: Any, **arguments: Any
) -> tuple[Form, tuple[float, ...]]:
    """Checks all arguments of `ms_ssim` but the images, and gives the exponents of the scales too."""
    _validation.check_scale_reduction(reduction)
    _validation.check_negative(negative)
    _validation.check_odd_sizes(odd_sizes)
    exponents = _validation.scale_weights(SCALE_WEIGHTS if weights is None else weights)
    return form(**arguments), exponents


_STANDARD: dict[tuple[str, int], Definition] = {
    (padding, dims): form(padding=padding, spatial_dims=dims).definition
    for padding in PADDINGS
    for dims in (1, 2, 3)
}


@constant_for_compilers
def _standard_definition(
    padding: str, spatial_dims: int, stabilizers: tuple[float, float] | None
) -> Definition:
    """An entry of the table, whose numbers a compiler would take for variables."""
    definition = _STANDARD[padding, spatial_dims]
    if stabilizers is None:
        return definition
    c1, c2 = stabilizers
    return definition._replace(c1=c1, c2=c2)


def standard(
    img1: Any,
    img2: Any,
    padding: Any,
    spatial_dims: int = 2,
    names: tuple[str, str] = ("img1", "img2"),
    dtypes: frozenset[torch.dtype] = _validation.DTYPES,
    stabilizers: tuple[float, float] | None = None,
) -> Definition:
    """The definition that the drop-in functions share, with which the images have been checked."""
    _validation.check_padding(padding)
    _validation.check_images(img1, img2, names, spatial_dims, dtypes)
    definition: Definition = _standard_definition(padding, spatial_dims, stabilizers)
    _validation.check_window_fits(img1, definition.window_sizes, padding)
    return definition


class Checked(NamedTuple):
    """Images, extended at the borders, with all that goes along with them."""

    img1: Tensor
    img2: Tensor
    mask: Tensor | None
    stabilizers: Tensor | None


def checked(
    form: Form,
    img1: Any,
    img2: Any,
    spatial_dims: int,
    mask: Any = None,
    unbatched: bool = False,
) -> Checked:
    """`unbatched`: the caller gave the images without the batch axis, as messages then do."""
    _validation.check_images(img1, img2, spatial_dims=spatial_dims)
    stabilizers = None
    if isinstance(form.data_range, Tensor):
        _validation.check_ranges_fit(form.data_range, img1, img2)
        stabilizers = stabilizers_of(form, img1, img2)
    else:
        _validation.check_uint8_range(form.data_range, img1, img2)
    if mask is not None:
        _validation.check_mask(mask, img1, unbatched)
    return extended(form, img1, img2, mask, stabilizers, unbatched)


def extended(
    form: Form,
    img1: Tensor,
    img2: Tensor,
    mask: Tensor | None,
    stabilizers: Tensor | None,
    unbatched: bool = False,
) -> Checked:
    window_sizes = form.definition.window_sizes
    if form.border is None:
        padding = "valid" if form.definition.valid else "same"
        _validation.check_window_fits(img1, window_sizes, padding, unbatched)
        return Checked(img1, img2, mask, stabilizers)
    radii = [size // 2 for size in window_sizes[5 - img1.dim() :]]
    _validation.check_border_fits(img1, radii, form.border, unbatched)
    border = form.border

    def pad(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        # Half precision in float32: the gradients of a border pixel's copies are added up before
        # they are rounded.
        x, y = (image.float() if image.dtype in _HALF else image for image in (x, y))
        return _borders.pad(x, radii, border), _borders.pad(y, radii, border)

    if _sharding.is_distributed(img1, img2):
        sizes = [size + 2 * r for size, r in zip(img1.shape[2:], radii, strict=True)]
        img1, img2 = _sharding.shards(pad, img1, img2, [[*img1.shape[:2], *sizes]] * 2)
    else:
        img1, img2 = pad(img1, img2)
    if mask is not None:
        mask = _borders.pad(mask, radii, form.border)
    return Checked(img1, img2, mask, stabilizers)


def stabilizers_of(form: Form, img1: Tensor, img2: Tensor) -> Tensor:
    """C1 and C2 of each image, [B, 2]."""
    assert isinstance(form.data_range, Tensor)
    ranges = form.data_range.to(img1.device, sum_dtype(img1, img2)).expand(img1.shape[0])
    c1, c2 = form.relative_stabilizers
    return torch.stack([c1 * ranges.square(), c2 * ranges.square()], 1)
