"""What the public functions accept. One function for each kind of argument; the fakes use them too.

Every message says what was expected, what came, and the way out. src/torch/operators.h checks the
same once more for callers that reach the operators in other ways.
"""

from __future__ import annotations

import math
from typing import Any

import torch

MIN_WINDOW_SIZE = 3
MAX_WINDOW_SIZE = 33
PADDINGS = ("same", "valid")
# In the order of `Reduction` in src/core/problem.h; "none" is the map, an operator of its own.
REDUCTIONS = ("mean", "sum", "image", "channel")
DTYPES = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))


class PaddingError(ValueError, AssertionError):
    """An unknown padding; the original package raised AssertionError there."""


def check_padding(padding: Any) -> None:
    if not isinstance(padding, str) or padding not in PADDINGS:
        raise PaddingError(
            f'padding: expected "same" (zeros around the image) or "valid" (whole windows only), '
            f"got {padding!r}"
        )


def check_reduction(reduction: Any) -> None:
    expected = ("none", *REDUCTIONS)
    if not isinstance(reduction, str) or reduction not in expected:
        raise ValueError(
            f"reduction: expected one of {', '.join(map(repr, expected))}, got {reduction!r}; "
            '"none" gives the SSIM map'
        )


def check_window_size(window_size: Any) -> None:
    if isinstance(window_size, bool) or not isinstance(window_size, int):
        raise TypeError(
            f"window_size: expected an int, got {type(window_size).__name__}; the standard is 11"
        )
    if not MIN_WINDOW_SIZE <= window_size <= MAX_WINDOW_SIZE or window_size % 2 == 0:
        raise ValueError(
            f"window_size: expected an odd number from {MIN_WINDOW_SIZE} to {MAX_WINDOW_SIZE}, "
            f"got {window_size}; the standard is 11"
        )


def check_positive(name: str, value: Any, hint: str) -> None:
    _check_real(name, value, hint)
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: expected a positive, finite number, got {value}; {hint}")


def check_weight(name: str, value: Any) -> None:
    hint = "0 is L1 alone, 1 is SSIM alone"
    _check_real(name, value, hint)
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a number from 0 to 1, got {value}; {hint}")


def check_flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {value!r}")


def check_stabilizer(name: str, k: float, data_range: float) -> None:
    """k * data_range must have a square that is neither 0 nor infinite, in float32 too."""
    c = (k * data_range) ** 2
    if not 1e-37 < c < 1e37:
        raise ValueError(
            f"{name} * data_range: expected a square between 1e-37 and 1e37, got {c} from "
            f"{name}={k} and data_range={data_range}; scale the images and data_range"
        )


def _check_real(name: str, value: Any, hint: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}; {hint}")


def check_images(img1: Any, img2: Any, names: tuple[str, str] = ("img1", "img2")) -> None:
    """Two dense floating-point image batches [B, C, H, W] of one shape, dtype and device."""
    _check_image(names[0], img1)
    _check_dense(names[1], img2)
    if img1.shape == img2.shape and img1.dtype == img2.dtype and img1.device == img2.device:
        return  # so what holds of the first holds of the second
    _check_image(names[1], img2)
    pair = f"{names[0]} and {names[1]}"
    if img1.shape != img2.shape:
        raise ValueError(
            f"{pair}: expected one shape, got {_shape(img1)} and {_shape(img2)}; nothing is "
            "broadcast, use .expand_as()"
        )
    if img1.dtype != img2.dtype:
        raise TypeError(
            f"{pair}: expected one dtype, got {img1.dtype} and {img2.dtype}; convert one with "
            ".to(other.dtype)"
        )
    raise ValueError(
        f"{pair}: expected one device, got {img1.device} and {img2.device}; move one with "
        ".to(other.device)"
    )


def is_on_known_device(image: torch.Tensor) -> bool:
    return image.is_cuda or image.is_cpu  # image.device.type takes 4 us of a training step


def check_window_fits(image: torch.Tensor, window_size: int, padding: str) -> None:
    if padding == "valid" and min(image.shape[-2:]) < window_size:
        raise ValueError(
            f'padding="valid": expected height and width of at least window_size={window_size}, '
            f'got {_shape(image)}; use padding="same" or a smaller window'
        )


def _check_dense(name: str, image: Any) -> None:
    if not isinstance(image, torch.Tensor):
        raise TypeError(
            f"{name}: expected a torch.Tensor, got {type(image).__name__}; "
            "use torch.as_tensor() and the layout [B, C, H, W]"
        )
    if image.layout != torch.strided or image.is_quantized:
        kind = "a quantized tensor" if image.is_quantized else f"layout {image.layout}"
        remedy = ".dequantize()" if image.is_quantized else ".to_dense()"
        raise TypeError(f"{name}: expected a dense tensor, got {kind}; use {remedy}")
    if image.is_nested:
        raise TypeError(f"{name}: expected a dense tensor, got a nested one; pass image by image")


def _check_image(name: str, image: Any) -> None:
    _check_dense(name, image)
    if not is_on_known_device(image):
        raise NotImplementedError(
            f"{name}: expected a tensor on cpu or cuda, got device {image.device}; move the images "
            'with .to("cpu")'
        )
    if image.dtype not in DTYPES:
        remedy = (
            "convert with .float() and pass the range, or divide by it"
            if not image.dtype.is_floating_point and not image.dtype.is_complex
            else "convert it, for example with .float()"
        )
        raise TypeError(
            f"{name}: expected dtype float16, bfloat16, float32 or float64, got {image.dtype}; "
            f"{remedy}"
        )
    if image.dim() != 4:
        raise ValueError(
            f"{name}: expected shape [B, C, H, W], got {_shape(image)}; "
            "add a batch dimension with .unsqueeze(0)"
        )
    if image.numel() == 0:
        raise ValueError(
            f"{name}: expected at least one pixel, got {_shape(image)}; check how it was cropped"
        )


def _shape(image: torch.Tensor) -> str:
    return str(list(image.shape))
