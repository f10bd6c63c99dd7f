"""The CPU kernels on NumPy arrays, without torch.

Arrays keep their dtype, order and strides; only what kernels cannot read (another byte order, or
pixels that are not aligned) is copied first.
"""

from __future__ import annotations

import numpy
from numpy.typing import NDArray

from fused_ssim import _C
from fused_ssim._parameters import REDUCTIONS, Definition, Reduced, axis_taps

Array = NDArray[numpy.generic]
Image = tuple[int, tuple[int, ...], int]
"""Address, strides in elements of each of `_AXES`, dtype: what `_C.run` takes for an image."""

_AXES = "BCDHW"
# As in fused_ssim/kernels.h; NumPy has no bfloat16.
_DTYPES = {"uint8": 0, "float16": 1, "float32": 3, "float64": 4}


def image_of(array: Array, axes: str) -> Image:
    """Where the pixels of an array lie, which must stay alive as long as that is used.

    Args:
        array: uint8, float16, float32 or float64.
        axes: one letter of "BCDHW" for each axis of the array, for example "HWC".
    """
    strides = dict(zip(_checked(axes, array), array.strides, strict=True))
    if array.dtype.name not in _DTYPES:
        raise TypeError(
            f"image: expected dtype {', '.join(_DTYPES)}, got {array.dtype}; convert it with "
            ".astype()"
        )
    if not _is_readable(array):
        raise ValueError(
            "image: expected aligned pixels in the machine's own byte order; use .copy()"
        )
    return (
        array.ctypes.data,
        tuple(strides.get(axis, 0) // array.itemsize for axis in _AXES),
        _DTYPES[array.dtype.name],
    )


def ssim_and_mse(
    img1: Array,
    img2: Array,
    axes: str,
    *,
    definition: Definition,
    reduction: Reduced = "channel",
    threads: int = 0,
) -> tuple[Array, Array]:
    """Means (sums) of SSIM and of the squared error, out of one pass on `threads` threads (0: all).

    Shape:
        img1, img2: by `axes`; both results [B, C] for "channel", [B] for "image", else [1]; they
        are float64 where an image is, else float32.
    """
    _check_shapes(img1, img2)
    sizes = _sizes(img1, axes)
    shape = {"channel": sizes[:2], "image": sizes[:1]}.get(reduction, (1,))
    value = numpy.empty(shape, _sum_dtype(img1, img2))
    mse = numpy.empty_like(value)
    _run(
        img1,
        img2,
        axes,
        definition,
        threads,
        reduction=REDUCTIONS.index(reduction),
        value=value.ctypes.data,
        mse=mse.ctypes.data,
    )
    return value, mse


def ssim_map(
    img1: Array, img2: Array, axes: str, *, definition: Definition, threads: int = 0
) -> Array:
    """The map of SSIM, [B, C, D, H, W] without the axes that the images lack."""
    _check_shapes(img1, img2)
    sizes = [
        size - (taps - 1 if definition.valid else 0)
        for size, taps in zip(_sizes(img1, axes), (1, 1, *definition.window_sizes), strict=True)
    ]
    values = numpy.empty(
        [max(size, 0) for size, axis in zip(sizes, _AXES, strict=True) if axis in axes],
        _sum_dtype(img1, img2),
    )
    _run(img1, img2, axes, definition, threads, map=values.ctypes.data)
    return values


def _run(
    img1: Array,
    img2: Array,
    axes: str,
    definition: Definition,
    threads: int,
    *,
    reduction: int = 0,
    value: int = 0,
    mse: int = 0,
    map: int = 0,
) -> None:
    img1, img2 = _readable(img1), _readable(img2)  # copies live until the kernels are done
    _C.run(
        _sizes(img1, axes),
        image_of(img1, axes),
        image_of(img2, axes),
        windows=[taps if len(taps) > 1 else None for taps in axis_taps(definition)],
        c1=definition.c1,
        c2=definition.c2,
        padding=int(definition.valid),
        statistic=definition.statistic,
        uint8_divisor=definition.uint8_divisor,
        reduction=reduction,
        value=value,
        mse=mse,
        map=map,
        threads=threads,
    )


def _readable(array: Array) -> Array:
    """The array itself, or a copy whose pixels kernels can read."""
    return array if _is_readable(array) else array.astype(array.dtype.newbyteorder("="), order="C")


def _is_readable(array: Array) -> bool:
    whole = all(stride % array.itemsize == 0 for stride in array.strides)
    return bool(whole and array.flags.aligned and array.dtype.isnative)


def _sizes(array: Array, axes: str) -> tuple[int, ...]:
    sizes = dict(zip(_checked(axes, array), array.shape, strict=True))
    return tuple(sizes.get(axis, 1) for axis in _AXES)


def _sum_dtype(img1: Array, img2: Array) -> str:
    return "float64" if "float64" in (img1.dtype.name, img2.dtype.name) else "float32"


def _checked(axes: str, array: Array) -> str:
    if array.ndim != len(axes) or len({*axes}) != len(axes) or not {*axes} <= {*_AXES}:
        raise ValueError(
            f"axes: expected one letter of {_AXES} for each of {array.ndim} axes, got {axes!r}; "
            'colour pictures are "HWC"'
        )
    return axes


def _check_shapes(img1: Array, img2: Array) -> None:
    if img1.shape != img2.shape:
        raise ValueError(
            f"images: expected one shape, got {img1.shape} and {img2.shape}; scale or crop one"
        )
