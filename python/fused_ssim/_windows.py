"""Taps of windows: float64, summing to 1."""

from __future__ import annotations

import functools
import math
from typing import Any

from fused_ssim import _validation
from fused_ssim._parameters import WINDOWS
from fused_ssim._torch_private import constant_for_compilers

Taps = tuple[float, ...]


def _exp_nonpositive(x: float) -> float:
    """exp(x) for x <= 0, by the operations of src/core/taps.h: kernels know their standard window
    by its taps, so these must be the same to the last bit, whatever the C library."""
    if not x > -745.0:
        return 0.0
    ln2_high, ln2_low = 6.93147180369123816490e-01, 1.90821492927058770002e-10
    halvings = int(-x / (ln2_high + ln2_low) + 0.5)
    r = (x + halvings * ln2_high) + halvings * ln2_low
    total = 0.0
    for n in range(20, 0, -1):
        total = (1.0 + total) * r / n
    result = 1.0 + total
    for _ in range(halvings):
        result *= 0.5
    return result


@constant_for_compilers
def gaussian(size: int, sigma: float) -> Taps:
    """`size` taps (odd) of a Gaussian, exactly symmetric."""
    return _gaussian(size, sigma)


@functools.lru_cache(maxsize=256)
def _gaussian(size: int, sigma: float) -> Taps:
    half, total = [], 0.0
    # Each distance from the centre once, the smallest taps first.
    for distance in range(size // 2, -1, -1):
        z = distance / sigma
        tap = _exp_nonpositive(-0.5 * z * z)
        half.append(tap)
        total += tap if distance == 0 else 2.0 * tap
    return tuple(tap / total for tap in [*half, *half[-2::-1]])


STANDARD_TAPS = gaussian(11, 1.5)


def uniform(size: int) -> Taps:
    """`size` equal taps."""
    return (1.0 / size,) * size


@constant_for_compilers
def rounded_to_float32(taps: Taps) -> Taps:
    """The taps as float32 numbers that sum to 1 far below float32's resolution.

    Taps rounded one by one have a sum that is off by some 1e-8, and a variance E[s^2] - E[s]^2 is
    then off by that times s^2. The smaller taps have fine enough a grid to take up the difference.
    """
    return _rounded_to_float32(taps)


@functools.lru_cache(maxsize=256)
def _rounded_to_float32(taps: Taps) -> Taps:
    rounded = [_round_to_float32(tap) for tap in taps]
    residual = 1.0 - math.fsum(rounded)
    by_size = sorted(range(len(taps)), key=lambda i: -taps[i])
    for i in by_size[1:]:
        if taps[i] < 1e-4:
            break  # a tap this small would change by a visible fraction
        corrected = _round_to_float32(rounded[i] + residual)
        residual -= corrected - rounded[i]
        rounded[i] = corrected
    return tuple(rounded)


def _round_to_float32(x: float) -> float:
    """The nearest number of 24 bits (Veltkamp's splitting)."""
    scaled = x * (2.0**29 + 1.0)
    return scaled - (scaled - x)


def axes(window: Any, window_size: Any, sigma: Any, spatial_dims: int) -> tuple[Taps, ...]:
    """The checked public arguments as taps of each spatial axis."""
    if isinstance(window, str):
        if window not in WINDOWS:
            raise _validation.unknown_window(repr(window))
        size = _validation.window_size(window_size)
        if window == "uniform":
            return (uniform(size),) * spatial_dims
        taps = gaussian(size, _validation.positive("sigma", sigma, "the standard is 1.5 pixels"))
        return (taps,) * spatial_dims
    given = _validation.given_window(window)
    if isinstance(given[0], tuple):
        if len(given) != spatial_dims:
            raise ValueError(
                f"window: expected one window, or one for each of the {spatial_dims} spatial axes, "
                f"got {len(given)} windows; with spatial_dims={spatial_dims} pass {spatial_dims}"
            )
        return tuple(given)
    return (given,) * spatial_dims
