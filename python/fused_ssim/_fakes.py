"""Shapes and dtypes of the operators' results, for tracers: the stable ABI of libtorch has no fakes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fused_ssim import _operators
from fused_ssim._parameters import ODD_SIZES, REDUCTIONS
from fused_ssim._pixels import sum_dtype


def _gradient(image: Tensor, wanted: bool) -> Tensor:
    return torch.empty_like(image) if wanted else image.new_empty([0])


def _value(call: SimpleNamespace, shape: Any) -> Tensor:
    value: Tensor = call.img1.new_empty(shape, dtype=sum_dtype(call.img1, call.img2))
    return value


def _ssim(call: SimpleNamespace) -> tuple[Tensor, Tensor, Tensor]:
    leading = {"image": 1, "channel": 2}.get(REDUCTIONS[call.reduction], 0)
    return (
        _value(call, call.img1.shape[:leading]),
        _gradient(call.img1, call.wants_gradient1),
        _gradient(call.img2, call.wants_gradient2),
    )


def _ssim_and_mse(call: SimpleNamespace) -> tuple[Tensor, Tensor]:
    shape = call.img1.shape[:2]
    return _value(call, shape), _value(call, shape)


def _ssim_map(call: SimpleNamespace) -> Tensor:
    spatial = call.img1.shape[2:]
    sizes: Sequence[int] = [1] * len(spatial)
    if call.valid:
        sizes = _operators.sizes_along_axes(call.window_sizes, call.img1)
    cropped = [extent - size + 1 for extent, size in zip(spatial, sizes, strict=True)]
    return _value(call, [*call.img1.shape[:2], *cropped])


def _ssim_map_backward(call: SimpleNamespace) -> tuple[Tensor, Tensor]:
    return _gradient(call.img1, call.wants_gradient1), _gradient(call.img2, call.wants_gradient2)


def _ms_ssim(call: SimpleNamespace) -> tuple[Tensor, ...]:
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


def _register(operator: Any, fake: Callable[[SimpleNamespace], Any]) -> None:
    """`fake` is given the operator's arguments by the names of its schema."""

    def by_position(*arguments: Any) -> Any:
        devices = {argument.device for argument in arguments if isinstance(argument, Tensor)}
        if len(devices) > 1:
            raise ValueError(
                f"fused_ssim: expected tensors on one device, got {sorted(map(str, devices))}"
            )
        return fake(_operators.named(operator, arguments))

    torch.library.register_fake(operator.name().partition(".")[0], by_position)


_register(_operators.ssim, _ssim)
_register(_operators.ssim_and_mse, _ssim_and_mse)
_register(_operators.ssim_map, _ssim_map)
_register(_operators.ssim_map_backward, _ssim_map_backward)
_register(_operators.scale_gradient, lambda call: torch.empty_like(call.gradient))
_register(_operators.scale_gradient_, lambda call: None)
_register(_operators.ms_ssim, _ms_ssim)
_register(_operators.ms_ssim_backward, lambda call: torch.empty_like(call.gradient))
_register(_operators.ms_ssim_backward_, lambda call: None)
