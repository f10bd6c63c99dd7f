"""The operators' arguments by name, and their results: shapes and dtypes, in memory not yet written.

Each function takes the arguments of the operator of its name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fused_ssim._parameters import ODD_SIZES, REDUCTIONS
from fused_ssim._pixels import sum_dtype


def name_of(operator: Any) -> str:
    name: str = operator._schema.name
    return name.rpartition("::")[2]


def argument_names(operator: Any) -> tuple[str, ...]:
    """The names of an operator's arguments, in the order of its schema."""
    return tuple(argument.name for argument in operator._schema.arguments)


def named(operator: Any, arguments: Sequence[Any]) -> SimpleNamespace:
    """Arguments by the names of the schema; tracers leave out those that have their defaults."""
    values = {argument.name: argument.default_value for argument in operator._schema.arguments}
    return SimpleNamespace(**values | dict(zip(values, arguments, strict=False)))


def _gradient(image: Tensor, wanted: bool) -> Tensor:
    return torch.empty_like(image) if wanted else image.new_empty([0])


def _value(call: SimpleNamespace, shape: Any) -> Tensor:
    value: Tensor = call.img1.new_empty(shape, dtype=sum_dtype(call.img1, call.img2))
    return value


def ssim(call: SimpleNamespace) -> tuple[Tensor, Tensor, Tensor]:
    leading = {"image": 1, "channel": 2}.get(REDUCTIONS[call.reduction], 0)
    return (
        _value(call, call.img1.shape[:leading]),
        _gradient(call.img1, call.wants_gradient1),
        _gradient(call.img2, call.wants_gradient2),
    )


def ssim_and_mse(call: SimpleNamespace) -> tuple[Tensor, Tensor]:
    shape = call.img1.shape[:2]
    return _value(call, shape), _value(call, shape)


def map_shape(call: SimpleNamespace) -> list[int]:
    spatial = call.img1.shape[2:]
    sizes = call.window_sizes[-len(spatial) :] if call.valid else [1] * len(spatial)
    cropped = [extent - size + 1 for extent, size in zip(spatial, sizes, strict=True)]
    return [*call.img1.shape[:2], *cropped]


def ssim_map(call: SimpleNamespace) -> Tensor:
    return _value(call, map_shape(call))


def ssim_map_backward(call: SimpleNamespace) -> tuple[Tensor, Tensor]:
    return _gradient(call.img1, call.wants_gradient1), _gradient(call.img2, call.wants_gradient2)


def ms_ssim(call: SimpleNamespace) -> tuple[Tensor, ...]:
    planes, spatial = call.img1.shape[:2], call.img1.shape[2:]
    lead = 1 if ODD_SIZES[call.odd_sizes] == "pad" else 0
    elements = 0
    for _ in call.exponents[1:]:
        spatial = [(size + lead) // 2 for size in spatial]
        elements += math.prod((*planes, *spatial))
    wants = call.wants_gradient1, call.wants_gradient2
    derivatives = call.img1.new_empty(
        [len(call.exponents) if any(wants) else 0, *planes], dtype=torch.float64
    )
    gradients = [
        gradient
        for image, wanted in zip((call.img1, call.img2), wants, strict=True)
        for gradient in (_gradient(image, wanted), _value(call, [elements if wanted else 0]))
    ]
    return _value(call, planes), derivatives, *gradients
