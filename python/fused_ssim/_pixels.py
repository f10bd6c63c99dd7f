"""What pixels stand for, and in which type they are added up."""

from __future__ import annotations

import torch
from torch import Tensor


def sum_dtype(img1: Tensor, img2: Tensor) -> torch.dtype:
    """The dtype of sums, values and maps: float64 where one of the images is, else float32."""
    return torch.float64 if torch.float64 in (img1.dtype, img2.dtype) else torch.float32


def numbers(image: Tensor, uint8_divisor: int, dtype: torch.dtype) -> Tensor:
    """The numbers that pixels stand for: of uint8 images those over `uint8_divisor`."""
    if image.dtype == torch.uint8:
        return image.to(dtype) / uint8_divisor
    return image.to(dtype)
