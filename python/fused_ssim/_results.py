"""The operators' arguments by name, and their results: shapes and dtypes, in memory not yet written.

Each function takes the arguments of the operator of its name.
"""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fused_ssim._parameters import ODD_SIZES, REDUCTIONS
from fused_ssim._pixels import sum_dtype

Call: TypeAlias = Any
"""A named tuple of an operator's arguments."""


def name_of(operator: Any) -> str:
    name: str = operator._schema.name
    return name.rpartition("::")[2]


def argument_names(operator: Any) -> tuple[str, ...]:
    """The names of an operator's arguments, in the order of its schema."""
    return tuple(argument.name for argument in operator._schema.arguments)


@functools.cache
def call_type(operator: Any) -> Any:
    """The type of an operator's calls: names, order and defaults are those of its schema."""
    arguments = operator._schema.arguments
    defaults = [argument.default_value for argument in arguments if argument.has_default_value()]
    return collections.namedtuple(name_of(operator), argument_names(operator), defaults=defaults)


_LEADING_AXES = [{"image": 1, "channel": 2}.get(name, 0) for name in REDUCTIONS]


def leading_axes(reduction: int) -> int:
    """How many axes of [B, C] the values of a reduction have."""
    if not 0 <= reduction < len(REDUCTIONS):
        _refuse_index("reduction", reduction, REDUCTIONS)
    return _LEADING_AXES[reduction]


def _refuse_index(name: str, index: int, names: Sequence[str]) -> None:
    raise ValueError(f"fused_ssim: expected {name} from 0 to {len(names) - 1}, got {index}")


def value(call: Call, shape: Sequence[int]) -> Tensor:
    """Memory in the dtype of values."""
    # A size by its name is taken faster.
    result: Tensor = call.img1.new_empty(size=shape, dtype=sum_dtype(call.img1, call.img2))
    return result


def _gradient(image: Tensor, wanted: bool) -> Tensor:
    return torch.empty_like(image) if wanted else image.new_empty(0)


def reduced(call: Call, reduction: int) -> Tensor:
    """Memory for the values of a reduction."""
    axes = leading_axes(reduction)
    return value(call, call.img1.shape[:axes] if axes else ())


def ssim(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    return (
        reduced(call, call.reduction),
        _gradient(call.img1, call.wants_gradient1),
        _gradient(call.img2, call.wants_gradient2),
    )


def ssim_and_mse(call: Call) -> tuple[Tensor, Tensor]:
    channel = REDUCTIONS.index("channel")
    return reduced(call, channel), reduced(call, channel)


_STANDARD_SIZE = 11


def window_sizes(given: Sequence[int], rank: int) -> Sequence[int]:
    """Taps along D, H and W; none are those of the standard window along all axes of the images."""
    return given or [1] * (5 - rank) + [_STANDARD_SIZE] * (rank - 2)


def map_shape(shape: Sequence[int], given_sizes: Sequence[int], valid: bool) -> list[int]:
    """The map's shape of images of this one."""
    spatial = shape[2:]
    sizes = [1] * len(spatial)
    if valid:
        sizes = [*window_sizes(given_sizes, len(shape))[-len(spatial) :]]
    cropped = [extent - size + 1 for extent, size in zip(spatial, sizes, strict=True)]
    return [*shape[:2], *cropped]


def ssim_map(call: Call) -> Tensor:
    return value(call, map_shape(call.img1.shape, call.window_sizes, call.valid))


def ssim_map_backward(call: Call) -> tuple[Tensor, Tensor]:
    return _gradient(call.img1, call.wants_gradient1), _gradient(call.img2, call.wants_gradient2)


def scale_shapes(shape: Sequence[int], scales: int, odd_sizes: int) -> list[list[int]]:
    """The shapes of the images of all scales, the finest first."""
    if not 0 <= odd_sizes < len(ODD_SIZES):
        _refuse_index("odd_sizes", odd_sizes, ODD_SIZES)
    lead = 1 if ODD_SIZES[odd_sizes] == "pad" else 0
    shapes = [list(shape)]
    for _ in range(1, scales):
        shapes.append([*shape[:2], *((size + lead) // 2 for size in shapes[-1][2:])])
    return shapes


def ms_ssim(call: Call) -> tuple[Tensor, ...]:
    scales, planes = len(call.exponents), call.img1.shape[:2]
    _, *coarser = scale_shapes(call.img1.shape, scales, call.odd_sizes)
    elements = sum(map(math.prod, coarser))
    wants = call.wants_gradient1, call.wants_gradient2
    derivatives = call.img1.new_empty([scales if any(wants) else 0, *planes], dtype=torch.float64)
    gradients = [
        gradient
        for image, wanted in zip((call.img1, call.img2), wants, strict=True)
        for gradient in (_gradient(image, wanted), value(call, [elements if wanted else 0]))
    ]
    return value(call, planes), derivatives, *gradients
