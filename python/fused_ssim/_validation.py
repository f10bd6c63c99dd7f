"""What the public functions accept. One function for each kind of argument; the fakes use them too.

Every message says what was expected, what came, and the way out. src/torch/operators.h checks the
same once more for callers that reach the operators in other ways. Numbers are whatever behaves as
one (numpy.float32, numpy.int64, Fraction) but bool; functions return them as Python's own.
"""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import Tensor

from fused_ssim._parameters import (
    BORDERS,
    MASK_MODES,
    MAX_WINDOW_SIZE,
    NEGATIVES,
    ODD_SIZES,
    PADDINGS,
    REDUCTIONS,
    STATISTICS,
    WINDOWS,
)
from fused_ssim._torch_private import (
    PLAIN_TENSORS,
    guards_scalars,
    is_compiling,
    is_transformed,
)

FLOATING = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
DTYPES = FLOATING | {torch.uint8}
LAYOUTS = {1: "[B, C, W]", 2: "[B, C, H, W]", 3: "[B, C, D, H, W]"}
_SIDES = {1: ("width",), 2: ("height", "width"), 3: ("depth", "height", "width")}
# Older versions of torch have no uint16.
_SIXTEEN_BITS = frozenset((torch.int16, getattr(torch, "uint16", torch.int16)))
_TAPS_HINT = 'pass "gaussian", "uniform" or taps, an odd number of non-negative ones that sum to 1'


class PaddingError(ValueError, AssertionError):
    """An unknown padding; the original package raised AssertionError there."""


# ---- names --------------------------------------------------------------------------------------


def check_padding(padding: Any, expected: Sequence[str] = PADDINGS) -> None:
    if not isinstance(padding, str) or padding not in expected:
        raise PaddingError(
            f"padding: expected {_either(expected)}, got {padding!r}; "
            f"{'only `ssim` and `ms_ssim` extend images; ' if padding in BORDERS else ''}"
            '"same" puts zeros around the image, "valid" takes whole windows only'
        )


def check_any_padding(padding: Any) -> None:
    check_padding(padding, (*PADDINGS, *BORDERS))


def check_reduction(reduction: Any) -> None:
    _check_name(
        "reduction", reduction, (*REDUCTIONS, "none"), '"mean" gives one number, "none" the map'
    )


def check_scale_reduction(reduction: Any) -> None:
    hint = '"channel" gives a number for each plane; there is no map of several scales'
    _check_name("reduction", reduction, REDUCTIONS, hint)


def check_component(component: Any) -> None:
    _check_name("component", component, STATISTICS, '"ssim" is the product of the other two')


def check_mask_mode(mask_mode: Any) -> None:
    hint = '"weighted" averages the plain map, "normalized" weighs pixels inside windows, too'
    _check_name("mask_mode", mask_mode, MASK_MODES, hint)


def check_negative(negative: Any) -> None:
    hint = '"relu" is the usual one, "smooth" has a gradient everywhere'
    _check_name("negative", negative, NEGATIVES, hint)


def check_odd_sizes(odd_sizes: Any) -> None:
    hint = '"pad" puts a zero in front of an odd side, "crop" drops its last pixel'
    _check_name("odd_sizes", odd_sizes, ODD_SIZES, hint)


def unknown_window(got: str) -> ValueError:
    return ValueError(f"window: expected {_either(WINDOWS)} or taps, got {got}; {_TAPS_HINT}")


def _check_name(name: str, value: Any, expected: Sequence[str], hint: str) -> None:
    if not isinstance(value, str) or value not in expected:
        raise ValueError(f"{name}: expected {_either(expected)}, got {value!r}; {hint}")


def _either(names: Sequence[str]) -> str:
    return " or ".join(f'"{name}"' for name in names)


# ---- numbers ------------------------------------------------------------------------------------


def check_flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {value!r}; pass a bool")


def _constant(value: Any) -> Any:
    """A number, which a compiler might hold for variable: a program is compiled for each."""
    if is_compiling() and guards_scalars():
        from torch.fx.experimental.symbolic_shapes import guard_scalar

        return guard_scalar(value)
    return value


def spatial_dims(value: Any, expected: Sequence[int] = (1, 2, 3)) -> int:
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        for number in expected:
            if value == number:
                return number  # a constant, where a compiler holds `value` for variable
    raise ValueError(
        f"spatial_dims: expected {' or '.join(map(str, expected))}, got {value!r}; 2 is for "
        "images [B, C, H, W], 3 for volumes [B, C, D, H, W]"
    )


def window_size(value: Any, name: str = "window_size") -> int:
    if type(value) is not int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError(
                f"{name}: expected an int, got {_kind(value)}; the standard is 11, and "
                f"`{name.removesuffix('_size')}` takes the taps of each axis"
            )
        value = int(value)
    value = _constant(value)
    if not 1 <= value <= MAX_WINDOW_SIZE or value % 2 == 0:
        raise ValueError(
            f"{name}: expected an odd number from 1 to {MAX_WINDOW_SIZE}, got {value}; the "
            "standard is 11"
        )
    return int(value)


def positive(name: str, value: Any, hint: str) -> float:
    result = _real(name, value, hint)
    if not 0 < result < math.inf:
        raise ValueError(f"{name}: expected a positive, finite number, got {value}; {hint}")
    return result


def weight(name: str, value: Any) -> float:
    hint = "0 is L1 alone, 1 is SSIM alone"
    result = _real(name, _number_of(name, value), hint)
    if not 0 <= result <= 1:
        raise ValueError(f"{name}: expected a number from 0 to 1, got {value}; {hint}")
    return result


def scale_weights(values: Any) -> tuple[float, ...]:
    hint = "pass the exponents of the scales, the finest first"
    unordered = isinstance(values, (str, AbstractSet, Mapping))
    if unordered or not isinstance(values, Iterable) or is_scalar(values):
        raise TypeError(f"weights: expected a sequence of numbers, got {_kind(values)}; {hint}")
    result = tuple(_real("weights", _number_of("weights", value), hint) for value in values)
    if not result or not all(0 <= value < math.inf for value in result):
        raise ValueError(
            "weights: expected at least one number, each finite and not negative, got "
            f"{list(result)}; {hint}"
        )
    return result


def square(name: str, k: float, data_range: float) -> float:
    """(k * data_range)^2, which must be neither 0 nor infinite, in float32 too."""
    c = (k * data_range) * (k * data_range)  # a power would overflow with an error of its own
    if not 1e-37 < c < 1e37:
        raise ValueError(
            f"{name} * data_range: expected a square between 1e-37 and 1e37, got {c} from "
            f"{name}={k} and data_range={data_range}; scale the images and data_range"
        )
    return c


def is_scalar(value: Any) -> bool:
    """Whether a tensor is a number that can be read without waiting for a device."""
    return isinstance(value, Tensor) and value.dim() == 0 and value.is_cpu


def _number_of(name: str, value: Any) -> Any:
    if not isinstance(value, Tensor) or value.dim() != 0:
        return value
    if not value.is_cpu:
        raise ValueError(
            f"{name}: expected numbers on the CPU, got a tensor on {value.device}; they are read once "
            "on the host, move them with .cpu()"
        )
    if value.requires_grad:
        raise ValueError(
            f"{name}: expected a constant, got a tensor that requires a gradient; use .detach()"
        )
    return value.item()


def _real(name: str, value: Any, hint: str) -> float:
    if type(value) is float:
        number: float = _constant(value)
        return number
    if isinstance(value, bool) or not isinstance(value, (int, numbers.Real)):
        raise TypeError(f"{name}: expected a number, got {_kind(value)}; {hint}")
    try:
        return float(_constant(value))
    except OverflowError:
        return math.inf


def data_range(value: Any) -> float | Tensor:
    """A number, or a tensor with a number for each image."""
    hint = "it is 1 for images in [0, 1]"
    # Under a transform a number may stand for many.
    if not isinstance(value, Tensor) or (is_scalar(value) and not is_transformed()):
        return positive("data_range", _number_of("data_range", value), hint)
    _check_dense("data_range", value)
    if value.dtype == torch.bool or value.dtype.is_complex:
        raise TypeError(f"data_range: expected real numbers, got dtype {value.dtype}; {hint}")
    if value.requires_grad:
        raise ValueError(
            "data_range: expected a constant, got a tensor that requires a gradient; use .detach()"
        )
    if value.dim() > 1:
        raise ValueError(
            "data_range: expected a number or a tensor [B] of one for each image, got "
            f"{_shape(value)}; use .flatten()"
        )
    for number in _numbers_at_hand(value):
        positive("data_range", number, hint)
    return value


def _numbers_at_hand(value: Tensor) -> list[float]:
    # On a GPU reading them would wait for all work ahead, and tracers and transforms have no numbers.
    is_plain = value.is_cpu and type(value) in PLAIN_TENSORS
    if not is_plain or is_compiling() or is_transformed():
        return []
    return value.reshape(-1).tolist()


def check_squares(k1: float, k2: float, ranges: Tensor) -> None:
    """(k1 * data_range)^2 and (k2 * data_range)^2 of the images' ranges that are at hand."""
    for number in _numbers_at_hand(ranges):
        square("k1", k1, number)
        square("k2", k2, number)


def fixed_data_range(value: Any) -> float:
    """A data range that is a number."""
    result = data_range(value)
    if isinstance(result, Tensor):
        raise TypeError(
            f"data_range: expected a number, which a module can keep, got {_shape(result)}; call "
            "the function with one for each image"
        )
    return result


def check_ranges_fit(ranges: Tensor, img1: Tensor, img2: Tensor) -> None:
    """A tensor `data_range` beside the images."""
    if ranges.dim() == 1 and ranges.shape[0] not in (1, img1.shape[0]):
        raise ValueError(
            f"data_range: expected {img1.shape[0]} numbers, one for each image, got "
            f"{_shape(ranges)}; pass one number, or a tensor [B]"
        )
    if not ranges.is_cpu and ranges.device != img1.device:
        raise ValueError(
            f"data_range: expected a tensor on the images' device {img1.device}, got "
            f"{ranges.device}; move it with .to(img1.device)"
        )
    check_uint8_range(ranges, img1, img2)


def check_uint8_range(value: float | Tensor, img1: Tensor, img2: Tensor) -> None:
    if torch.uint8 in (img1.dtype, img2.dtype) and (
        isinstance(value, Tensor) or value not in (1.0, 255.0)
    ):
        got = f"a tensor of shape {_shape(value)}" if isinstance(value, Tensor) else value
        raise ValueError(
            "data_range: expected the number 1 (a uint8 pixel u stands for u / 255) or 255 (for u) "
            f"beside a uint8 image, got {got}; convert the image with .float()"
        )


# ---- windows ------------------------------------------------------------------------------------


def given_window(window: Any) -> Any:
    """Taps as a tuple, or as a tuple of such tuples: a window for each axis."""
    if isinstance(window, Tensor) and window.dim() != 1:
        raise ValueError(
            f"window: expected taps of one axis in a 1D tensor, got {_shape(window)}; the window "
            "is separable: pass a list with the taps of each axis"
        )
    items = _items(window)
    if not items:
        raise ValueError(f"window: expected at least one tap, got none; {_TAPS_HINT}")
    if all(_is_number(item) for item in items):
        return _taps(items)
    if getattr(window, "ndim", 1) != 1:
        raise ValueError(
            f"window: expected taps of one axis in a 1D array, got {window.ndim} axes; the window "
            "is separable: pass a list with the taps of each axis"
        )
    if any(_is_number(item) for item in items):
        raise TypeError(f"window: expected taps or a list of taps, got a mixture; {_TAPS_HINT}")
    return tuple(_taps(_items(item)) for item in items)


def _items(taps: Any) -> list[Any]:
    if isinstance(taps, Tensor):
        _check_dense("window", taps)
        if not taps.is_cpu:
            raise ValueError(
                f"window: expected taps on the CPU, got a tensor on {taps.device}; they are read "
                "once on the host, move them with .cpu()"
            )
        if taps.requires_grad:
            raise ValueError(
                "window: expected constant taps, got a tensor that requires a gradient; use "
                ".detach()"
            )
        if taps.dim() != 1:
            raise ValueError(
                f"window: expected 1D tensors of taps, got {_shape(taps)}; the window is "
                "separable: pass a list with the taps of each axis"
            )
        return list(taps.tolist())
    if isinstance(taps, (str, bytes)) or not (
        hasattr(taps, "__getitem__") and hasattr(taps, "__len__") and getattr(taps, "ndim", 1) > 0
    ):
        raise TypeError(f"window: expected a name or taps, got {_kind(taps)}; {_TAPS_HINT}")
    return list(taps)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, numbers.Real)) or is_scalar(value)


def _taps(items: list[Any]) -> tuple[float, ...]:
    taps = [_real("window", _number_of("window", item), _TAPS_HINT) for item in items]
    if not taps:
        raise ValueError(f"window: expected at least one tap for each axis, got none; {_TAPS_HINT}")
    if len(taps) % 2 == 0:
        raise ValueError(
            f"window: expected an odd number of taps, got {len(taps)}; add a tap of 0 at one end"
        )
    if not all(0 <= tap < math.inf for tap in taps):
        raise ValueError(
            f"window: expected finite taps that are not negative, got {taps}; {_TAPS_HINT}"
        )
    total = math.fsum(taps)
    if total == 0:
        raise ValueError(f"window: expected taps that sum to 1, got zeros alone; {_TAPS_HINT}")
    if abs(total - 1.0) > 1e-6:
        raise ValueError(
            f"window: expected taps that sum to 1, got a sum of {total}; divide them by it"
        )
    return tuple(tap / total for tap in taps)


def check_sample_covariance(window_sizes: Iterable[int]) -> None:
    if math.prod(window_sizes) == 1:
        raise ValueError(
            "unbiased=True: expected a window of more than one tap, got one; a single sample has "
            "no variance, use unbiased=False"
        )


def check_window_fits(
    image: Tensor, window_sizes: Sequence[int], padding: str, unbatched: bool = False
) -> None:
    """The last of `window_sizes` belong to the image's spatial axes.

    `unbatched`: the caller gave it without the batch axis.
    """
    if padding == "valid":
        sizes = image.shape[2:]
        for size, needed in zip(sizes, window_sizes[-len(sizes) :], strict=True):
            if size < needed:
                _refuse_size(image, f"window_size={needed}", 'padding="valid"', unbatched=unbatched)


def check_border_fits(
    image: Tensor, radii: Sequence[int], border: str, unbatched: bool = False
) -> None:
    if border == "reflect":
        for size, radius in zip(image.shape[2:], radii, strict=True):
            if size <= radius:
                more = f"{radius + 1}, more than the window's radius"
                _refuse_size(image, more, 'padding="reflect"', unbatched=unbatched)


def check_scales_fit(image: Tensor, least: Sequence[int], scales: int, padding: str) -> None:
    """`least`: the least sizes that all scales need."""
    for size, needed in zip(image.shape[2:], least, strict=True):
        if size < needed:
            enough = f"{needed} for {scales} scales"
            _refuse_size(image, enough, f'ms_ssim, padding="{padding}"', "fewer weights")


def _refuse_size(
    image: Tensor,
    least: str,
    what: str,
    other: str = 'padding="same"',
    unbatched: bool = False,
) -> None:
    sides = " and ".join(_SIDES[image.dim() - 2])
    shape = list(image.shape)[unbatched:]
    raise ValueError(
        f"{what}: expected {sides} of at least {least}, got {shape}; "
        f"{channels_last_hint(image, unbatched)}use {other} or a smaller window"
    )


def channels_last_hint(image: Tensor, unbatched: bool = False) -> str:
    """What to do about an image that looks like [B, H, W, C], or nothing."""
    if image.shape[-1] not in (1, 3, 4) or image.shape[1] <= 4:
        return ""
    layout = LAYOUTS[image.dim() - 2][1:-1].split(", ")
    batch, channels, *sizes = range(image.dim())
    given = [layout[i] for i in (batch, *sizes, channels)][unbatched:]
    last = image.dim() - 1
    axes = [i - unbatched for i in (batch, last, *range(1, last))][unbatched:]
    return f"for [{', '.join(given)}] use .permute({', '.join(map(str, axes))}), else "


# ---- images and masks ---------------------------------------------------------------------------


def check_images(
    img1: Any,
    img2: Any,
    names: tuple[str, str] = ("img1", "img2"),
    spatial_dims: int = 2,
    dtypes: frozenset[torch.dtype] = DTYPES,
) -> None:
    """Two dense image batches of one shape and device, and of dtypes that go together."""
    _check_image(names[0], img1, spatial_dims, dtypes)
    _check_dense(names[1], img2)
    if img1.shape == img2.shape and img1.dtype == img2.dtype and img1.device == img2.device:
        return  # so what holds of the first holds of the second
    _check_image(names[1], img2, spatial_dims, dtypes)
    pair = f"{names[0]} and {names[1]}"
    if img1.shape != img2.shape:
        raise ValueError(
            f"{pair}: expected one shape, got {_shape(img1)} and {_shape(img2)}; scale or crop one "
            "of them, or use .expand_as() where it has an axis of 1"
        )
    if img1.device != img2.device:
        raise ValueError(
            f"{pair}: expected one device, got {img1.device} and {img2.device}; move one with "
            ".to(other.device)"
        )
    both = {img1.dtype, img2.dtype}
    if torch.float64 in both and both - {torch.float64, torch.uint8}:
        raise TypeError(
            f"{pair}: expected one dtype (float64 goes with uint8 alone), got {img1.dtype} and "
            f"{img2.dtype}; convert one with .to(other.dtype)"
        )


def check_mask(mask: Any, image: Tensor, unbatched: bool = False) -> None:
    """A mask for `image`, [B, C, *sizes]; `unbatched`: the caller gave both without B."""
    _check_dense("mask", mask)
    if mask.dtype != torch.bool and mask.dtype not in FLOATING:
        raise TypeError(
            f"mask: expected bool or a floating-point dtype with weights in [0, 1], got "
            f"{mask.dtype}; use .bool(), or .float() / 255 for weights in 8 bits"
        )
    if mask.requires_grad:
        raise ValueError(
            "mask: expected a constant, got a tensor that requires a gradient; use .detach()"
        )
    if mask.device != image.device:
        raise ValueError(
            f"mask: expected a tensor on the images' device {image.device}, got {mask.device}; "
            "move it with .to(img1.device)"
        )
    batch, channels = image.shape[:2]
    sizes, shape = list(image.shape[2:]), list(mask.shape)
    alone = shape == sizes
    full = len(shape) == image.dim() and shape[2:] == sizes
    if not alone and not (full and shape[0] in (1, batch) and shape[1] in (1, channels)):
        axes, one = ("C", "") if unbatched else ("B, C", f"B of 1 or {batch} and ")
        spatial = ", ".join(map(str, sizes))
        got = shape[unbatched and len(shape) == image.dim() :]
        remedy = ".unsqueeze(1) on a mask for each image, .unsqueeze(0) on one for each channel"
        if unbatched:
            remedy = "one mask for all channels, or for each of them"
        raise ValueError(
            f"mask: expected the shape [{spatial}] or [{axes}, {spatial}] with {one}C of 1 or "
            f"{channels}, got {got}; use {remedy}"
        )


def check_is_tensor(name: str, value: Any) -> None:
    if isinstance(value, Tensor):
        return
    kind, remedy = type(value).__name__, "use torch.as_tensor() and the layout [B, C, H, W]"
    of_masks = "of shape [H, W], or [B, C, H, W] with 1 for B, C or both"
    if name == "mask":
        remedy = f"use torch.as_tensor(mask) {of_masks}"
    if isinstance(value, str | os.PathLike):
        remedy = "read the file first, or run `fused-ssim compare`, which takes files"
    elif hasattr(value, "__array_interface__"):  # arrays of NumPy, pictures of Pillow
        kind = f"{type(value).__module__.partition('.')[0]}'s {kind}"
        remedy = (
            f"use torch.from_numpy(numpy.array(mask)) {of_masks}"
            if name == "mask"
            else f"use torch.as_tensor(numpy.array({name})), for [H, W, C] .permute(2, 0, 1)[None]"
        )
    raise TypeError(f"{name}: expected a torch.Tensor, got {kind}; {remedy}")


def _check_dense(name: str, image: Any) -> None:
    check_is_tensor(name, image)
    if image.layout != torch.strided or image.is_quantized:
        kind = "a quantized tensor" if image.is_quantized else f"layout {image.layout}"
        remedy = ".dequantize()" if image.is_quantized else ".to_dense()"
        raise TypeError(f"{name}: expected a dense tensor, got {kind}; use {remedy}")
    if image.is_nested:
        raise TypeError(f"{name}: expected a dense tensor, got a nested one; pass image by image")


def _check_image(name: str, image: Any, spatial_dims: int, dtypes: frozenset[torch.dtype]) -> None:
    _check_dense(name, image)
    if image.dtype not in dtypes:
        raise TypeError(
            f"{name}: expected dtype {', '.join(sorted(str(d)[6:] for d in dtypes))}, got "
            f"{image.dtype}; {_dtype_remedy(image.dtype)}"
        )
    if image.dim() != spatial_dims + 2:
        raise ValueError(
            f"{name}: expected shape {LAYOUTS[spatial_dims]}, got {_shape(image)}; "
            f"{_rank_remedy(image.dim(), spatial_dims)}"
        )
    if image.numel() == 0:
        raise ValueError(
            f"{name}: expected at least one pixel, got {_shape(image)}; check how it was cropped"
        )


def _dtype_remedy(dtype: torch.dtype) -> str:
    if dtype in _SIXTEEN_BITS:
        return f"divide by the range, image.float() / {torch.iinfo(dtype).max}"
    if dtype == torch.uint8:
        return "divide by the range, image.float() / 255"
    return "convert it with .float(), and divide by the range of its values"


def _rank_remedy(rank: int, spatial_dims: int) -> str:
    if rank == spatial_dims + 1:
        return "add a batch dimension with .unsqueeze(0)"
    if rank == 5:
        return "volumes go to fused_ssim3d, or to ssim, ms_ssim and others with spatial_dims=3"
    if rank - 2 in LAYOUTS:
        return f"for {LAYOUTS[rank - 2]} pass spatial_dims={rank - 2}, or use .reshape()"
    return "bring it to that layout with .reshape() or .unsqueeze()"


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {_shape(value)}"
    return f"{type(value).__name__} {value!r}"


def _shape(image: Tensor) -> str:
    return str(list(image.shape))
