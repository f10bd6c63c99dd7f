"""scikit-image's `structural_similarity` on the CPU kernels of this package, without torch.

>>> from fused_ssim.compat.skimage import structural_similarity

Signature, defaults, warnings, exceptions and what is returned are those of scikit-image 0.26. Other
than there, means of uint8 arrays are computed without a copy to float, on all threads; means of
uint8 and float32 arrays have float32 sums, maps and gradients are float64 whatever the arrays' type;
masked arrays, lists and arguments that do not exist are refused; K1 and K2 must be positive; there are at
most three axes beside that of the channels, and at most 1023 taps.
"""

from __future__ import annotations

import math
import operator
import warnings
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from fused_ssim import _C, _arrays
from fused_ssim._parameters import Definition, definition_of

__all__ = ["structural_similarity"]

_Array = NDArray[Any]
_TRUNCATE = 3.5
"""A Gaussian reaches this many standard deviations: 11 taps at 1.5."""
_LEAST_RANGE_OF_BYTES = 128.0
"""Of a smaller data range float32 sums of bytes do not resolve C2."""
_SPATIAL = {1: "W", 2: "HW", 3: "DHW"}


def structural_similarity(
    im1: _Array,
    im2: _Array,
    *,
    win_size: int | None = None,
    gradient: bool = False,
    data_range: float | None = None,
    channel_axis: int | None = None,
    gaussian_weights: bool = False,
    full: bool = False,
    use_sample_covariance: bool = True,
    sigma: float = 1.5,
    K1: float = 0.01,
    K2: float = 0.03,
) -> Any:
    """Mean SSIM of two arrays, as in `skimage.metrics.structural_similarity` (Wang et al. 2004).

    Args:
        im1, im2: arrays of one shape and any real dtype.
        win_size: the side of the uniform window, odd; 7 if None. Beside Gaussian weights it is only
            what is cropped from each side of the map, (win_size - 1) / 2, and what the sample
            covariance counts.
        gradient: whether to return the gradient with respect to im2, too, by the formula of Avanaki
            2009, which knows no sample covariance.
        data_range: the largest pixel less the smallest; None for what the integer dtype can hold.
        channel_axis: the axis of channels, which are averaged; None if there is none.
        gaussian_weights: a Gaussian window instead of the uniform one.
        full: whether to return the map, too.
        use_sample_covariance: N / (N - 1) times the covariances of the window's N pixels.
        sigma: standard deviation of the Gaussian window.
        K1, K2: constants of the formula.

    Shape:
        im1, im2: one to three axes and one of channels; gradient and map have the same shape.

    Returns:
        The mean over the pixels whose window lies in the arrays, as a NumPy number; with `gradient`
        or `full` a tuple (mean, gradient), (mean, map) or (mean, gradient, map).

    Raises:
        TypeError: a masked array, no array, or no number where one is expected.
        ValueError: other shapes, a window that is even or larger than the arrays, floats without
            a data_range, constants that are not positive.

    Example:
        >>> structural_similarity(photo, render, channel_axis=-1)
        >>> structural_similarity(photo, render, channel_axis=-1, gaussian_weights=True,
        ...                       sigma=1.5, use_sample_covariance=False)  # the standard SSIM
    """
    if isinstance(im1, numpy.ma.MaskedArray) or isinstance(im2, numpy.ma.MaskedArray):
        raise TypeError(
            "expected plain arrays, got a masked one, whose mask would be ignored; "
            "`fused_ssim.ssim(mask=...)` weighs pixels"
        )
    for name, image in (("im1", im1), ("im2", im2)):
        if not (hasattr(image, "__array__") or hasattr(image, "__array_interface__")):
            raise TypeError(
                f"{name}: expected an array, got {type(image).__name__}; use "
                f"numpy.asarray({name}, dtype) with the pixels' dtype, uint8 for those from 0 to 255"
            )
    im1, im2 = numpy.asarray(im1), numpy.asarray(im2)
    if im1.shape != im2.shape:
        raise ValueError(
            f"Input images must have the same dimensions: expected one shape, got {im1.shape} and "
            f"{im2.shape}; scale or crop one"
        )
    working = _working_dtype(im1)
    axes = _axes(im1, channel_axis)
    window = _window(im1, axes, win_size, gaussian_weights, sigma, use_sample_covariance)
    if data_range is None:
        data_range = _range_of_dtype(im1, im2)
    c1, c2 = (
        _square(name, k, data_range) * correction
        for name, k, correction in (("K1", K1, 1.0), ("K2", K2, window.correction))
    )
    spatial = len(axes) - ("C" in axes)
    definition = definition_of([window.taps] * spatial, c1, c2, valid=True, uint8_divisor=1)
    are_bytes = im1.dtype == numpy.uint8 and im2.dtype == numpy.uint8
    if not are_bytes or data_range < _LEAST_RANGE_OF_BYTES:
        im1, im2 = (image.astype(working, copy=False) for image in (im1, im2))
    if gradient or full or window.crop != len(window.taps) // 2:
        values = _map(im1, im2, axes, definition)
    else:
        means, _ = _arrays.ssim_and_mse(im1, im2, axes, definition=definition)
        return _mean(means, working, "C" in axes)
    inner = tuple(
        slice(None) if axis == "C" else slice(window.crop, size - window.crop)
        for axis, size in zip(axes, values.shape, strict=True)
    )
    others = tuple(i for i, axis in enumerate(axes) if axis != "C")
    result = [_mean(values[inner].mean(axis=others), working, "C" in axes)]
    if gradient:
        result.append(_gradient(im1, im2, values, axes, window, c1, c2).astype(working))
    if full:
        result.append(values.astype(working))
    return tuple(result) if len(result) > 1 else result[0]


class _Window(NamedTuple):
    taps: tuple[float, ...]
    """Along each axis."""
    crop: int
    """Pixels at each side of an axis that do not count in the mean."""
    correction: float
    """Of C2: (N - 1) / N of a window of N pixels for sample covariance, else 1."""


def _working_dtype(image: _Array) -> Any:
    """What scikit-image computes in."""
    if image.dtype.kind not in "buif":
        raise ValueError(
            f"im1: expected a real dtype, got {image.dtype}; convert it, or compare real and "
            "imaginary parts apart"
        )
    is_single = image.dtype.kind == "f" and image.dtype.itemsize <= 4
    return numpy.dtype("float32" if is_single else "float64")


def _axes(image: _Array, channel_axis: int | None) -> str:
    """A letter for each axis."""
    spatial = image.ndim - (channel_axis is not None)
    if spatial not in _SPATIAL:
        raise ValueError(
            f"expected one to three axes beside that of the channels, got shape {image.shape} with "
            f"channel_axis={channel_axis}; compare parts of the arrays"
        )
    if channel_axis is None:
        return _SPATIAL[spatial]
    channel_axis = _integer("channel_axis", channel_axis, "-1 is the last")
    if not -image.ndim <= channel_axis < image.ndim:
        raise IndexError(
            f"channel_axis: expected an axis of {image.ndim}, got {channel_axis}; -1 is the last"
        )
    at = channel_axis % image.ndim
    return _SPATIAL[spatial][:at] + "C" + _SPATIAL[spatial][at:]


def _window(
    image: _Array,
    axes: str,
    win_size: int | None,
    gaussian_weights: bool,
    sigma: float,
    use_sample_covariance: bool,
) -> _Window:
    sigma = _number("sigma", sigma, "1.5 is usual")
    if not 0 <= sigma < math.inf:
        raise ValueError(f"sigma must be positive and finite, got {sigma}; 1.5 is usual")
    radius = int(_TRUNCATE * sigma + 0.5)
    if win_size is None:
        win_size = 2 * radius + 1 if gaussian_weights else 7
    win_size = _integer("win_size", win_size, "7 is usual")
    sizes = [size for size, axis in zip(image.shape, axes, strict=True) if axis != "C"]
    if min(sizes) < win_size:
        raise ValueError(
            f"win_size exceeds image extent: expected at least {win_size} pixels along each axis, "
            f"got {image.shape}; pass an odd win_size of at most {min(sizes)}, and channel_axis if "
            "the array has channels"
        )
    if win_size % 2 != 1 or win_size < 1:
        raise ValueError(f"Window size must be odd and positive, got {win_size}; 7 is usual")
    if not gaussian_weights:
        taps = (1 / win_size,) * win_size
    elif radius == 0:
        taps = (1.0,)
    else:
        taps = tuple(_C.gaussian_taps(2 * radius + 1, sigma))
    correction = 1.0
    if use_sample_covariance:
        samples = win_size ** len(sizes)
        if samples == 1:
            raise ZeroDivisionError(
                "sample covariance: expected a window of more than one pixel; pass "
                "use_sample_covariance=False"
            )
        correction = (samples - 1) / samples
    return _Window(taps, (win_size - 1) // 2, correction)


def _range_of_dtype(im1: _Array, im2: _Array) -> float:
    if "f" in (im1.dtype.kind, im2.dtype.kind):
        raise ValueError(
            "Since image dtype is floating point, you must specify the data_range parameter: "
            "expected a number, got None; it is 1 for pixels from 0 to 1"
        )
    if im1.dtype != im2.dtype:
        _warn("Inputs have mismatched dtypes. Setting data_range based on im1.dtype.")
    if im1.dtype.kind == "b":
        return 1.0
    limits = numpy.iinfo(im1.dtype)
    data_range = float(int(limits.max) - int(limits.min))
    if im1.dtype != numpy.uint8:
        _warn(
            f"Setting data_range based on im1.dtype. data_range = {data_range:.0f}. Please specify "
            "data_range explicitly to avoid mistakes."
        )
    return data_range


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=4)


def _square(name: str, k: float, data_range: float) -> float:
    k = _number(name, k, "0.01 and 0.03 are usual")
    data_range = _number("data_range", data_range, "it is 1 for pixels from 0 to 1")
    if not k > 0:
        raise ValueError(f"{name} must be positive, got {k}; 0.01 and 0.03 are usual")
    square = (k * data_range) * (k * data_range)
    if not 1e-37 < square < 1e37:
        raise ValueError(
            f"{name} * data_range: expected a square between 1e-37 and 1e37, got {square} from "
            f"{name}={k} and data_range={data_range}; scale the arrays and data_range"
        )
    return square


def _number(name: str, value: Any, hint: str) -> float:
    if hasattr(value, "__float__"):  # text has none
        return float(value)
    raise TypeError(f"{name}: expected a number, got {value!r}; {hint}")


def _integer(name: str, value: Any, hint: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an int, got {value!r}; {hint}") from None


def _mean(means: _Array, working: Any, has_channels: bool) -> Any:
    """Of planes in float64, and of channels in the working dtype, as scikit-image has them."""
    planes = means.reshape(-1)
    return planes.astype(working).mean() if has_channels else numpy.float64(planes[0])


# ---- maps ---------------------------------------------------------------------------------------


def _extended(image: _Array, axes: str, radius: int) -> _Array:
    """With the border that scikit-image filters with: it repeats the edge pixel."""
    widths = [(0, 0) if axis == "C" else (radius, radius) for axis in axes]
    return numpy.pad(image.astype(numpy.float64, copy=False), widths, "symmetric")


def _map(im1: _Array, im2: _Array, axes: str, definition: Definition) -> _Array:
    radius = definition.window_sizes[2] // 2
    x, y = (_extended(image, axes, radius) for image in (im1, im2))
    values: _Array = _arrays.ssim_map(x, y, axes, definition=definition)
    if "C" in axes:
        values = numpy.moveaxis(values, 0, axes.index("C"))
    return values


def _gradient(
    im1: _Array,
    im2: _Array,
    values: _Array,
    axes: str,
    window: _Window,
    c1: float,
    c2: float,
) -> _Array:
    """The gradient by im2 in Avanaki's form (Optical Review 16, 2009, equations 7 and 8).

    It is that of the mean of `values`, the map, over all pixels; the formula knows no sample
    covariance, although the contrast that goes into it may have it.
    """
    others = tuple(i for i, axis in enumerate(axes) if axis != "C")
    x, y = (image.astype(numpy.float64, copy=False) for image in (im1, im2))

    def filtered(image: _Array) -> _Array:
        return _filtered(image, axes, window.taps)

    # Variances of what is left of the mean of a plane keep their digits.
    shift_x, shift_y = (image.mean(axis=others, keepdims=True) for image in (x, y))
    near_x, near_y = x - shift_x, y - shift_y
    mean_x, mean_y = filtered(near_x), filtered(near_y)
    covariance = filtered(near_x * near_y) - mean_x * mean_y
    variances = filtered(near_x**2) - mean_x**2 + filtered(near_y**2) - mean_y**2
    mean_x, mean_y = mean_x + shift_x, mean_y + shift_y
    luminance, luminance_scale = 2 * mean_x * mean_y + c1, mean_x**2 + mean_y**2 + c1
    contrast, contrast_scale = (
        (moment + c2) / window.correction for moment in (2 * covariance, variances)
    )
    scale = luminance_scale * contrast_scale
    by_im2 = filtered(luminance / scale) * x - filtered(values / contrast_scale) * y
    by_im2 += filtered(
        (mean_x * (contrast - luminance) - mean_y * (contrast_scale - luminance_scale) * values)
        / scale
    )
    by_im2 *= 2 / math.prod(x.shape[i] for i in others)
    return by_im2


def _filtered(image: _Array, axes: str, taps: tuple[float, ...]) -> _Array:
    extended = _extended(image, axes, len(taps) // 2)
    for i, axis in enumerate(axes):
        if axis != "C":
            windows = numpy.lib.stride_tricks.sliding_window_view(extended, len(taps), axis=i)
            extended = windows @ numpy.asarray(taps)
    return extended
