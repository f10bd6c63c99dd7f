"""Names of the public arguments, and the definition of SSIM that the operators take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

# Each in the order of its enumeration in fused_ssim/kernels.h.
Reduced = Literal["mean", "sum", "image", "channel"]
REDUCTIONS: tuple[Reduced, ...] = ("mean", "sum", "image", "channel")
Component = Literal["ssim", "contrast", "luminance"]
STATISTICS: tuple[Component, ...] = ("ssim", "contrast", "luminance")
CroppedPadding = Literal["same", "valid"]
PADDINGS: tuple[CroppedPadding, ...] = ("same", "valid")
MaskMode = Literal["weighted", "normalized"]
MASK_MODES: tuple[MaskMode, ...] = ("weighted", "normalized")

# Python's own: images are extended by _borders, and the operators then see "valid".
Border = Literal["reflect", "replicate"]
BORDERS: tuple[Border, ...] = ("reflect", "replicate")
Padding = Literal["same", "valid", "reflect", "replicate"]
# The map is an operator of its own.
Reduction = Literal["mean", "sum", "image", "channel", "none"]

WINDOWS = ("gaussian", "uniform")
# Wider windows can be given as taps; computed ones are as a rule a few standard deviations wide.
MAX_WINDOW_SIZE = 1023
Negative = Literal["relu", "smooth"]
NEGATIVES: tuple[Negative, ...] = ("relu", "smooth")
OddSizes = Literal["pad", "crop"]
ODD_SIZES: tuple[OddSizes, ...] = ("pad", "crop")

# Wang, Simoncelli, Bovik 2003: the exponents of the five scales.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


class Definition(NamedTuple):
    """Which SSIM, as the operators take it.

    A mask and the stabilizers of single images are arguments of their own.
    """

    taps: tuple[float, ...]
    """Of one window for all filtered axes, or of each filtered axis in turn: (D,) H, W."""
    window_sizes: tuple[int, int, int]
    """Taps along D, H and W; 1 where the axis is not filtered."""
    c1: float
    c2: float
    """Divided by N / (N - 1) for sample covariance, where N is the product of `window_sizes`."""
    valid: bool
    statistic: int
    uint8_divisor: int
    """A uint8 pixel stands for its number divided by this: 255 or 1."""


def definition_of(
    axes: Sequence[tuple[float, ...]],
    c1: float,
    c2: float,
    *,
    valid: bool,
    statistic: int = 0,
    uint8_divisor: int = 255,
) -> Definition:
    """A definition of the taps along each spatial axis, the last of which is W."""
    filtered = [taps for taps in axes if len(taps) > 1]
    shared = all(taps == filtered[0] for taps in filtered[1:])
    depth, height, width = (1, 1, 1, *(len(taps) for taps in axes))[-3:]
    return Definition(
        taps=sum(filtered[:1] if shared else filtered, ()),
        window_sizes=(depth, height, width),
        c1=c1,
        c2=c2,
        valid=valid,
        statistic=statistic,
        uint8_divisor=uint8_divisor,
    )


def axis_taps(definition: Definition) -> tuple[tuple[float, ...], ...]:
    """The taps along D, H and W; one tap of 1 where the axis is not filtered."""
    taps, sizes = definition.taps, definition.window_sizes
    one_for_all = len(taps) < sum(size for size in sizes if size > 1)
    result, start = [], 0
    for size in sizes:
        result.append(taps[start : start + size] if size > 1 else (1.0,))
        if size > 1 and not one_for_all:
            start += size
    return tuple(result)
