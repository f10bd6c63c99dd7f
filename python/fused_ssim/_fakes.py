"""Shapes and dtypes of the operators' results, for tracers: the stable ABI of libtorch has no fakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fused_ssim import _operators, _results
from fused_ssim._torch_private import register_fake


def _register(operator: Any, fake: Callable[[_results.Call], Any]) -> None:
    """`fake` is given the operator's arguments by the names of its schema."""

    def by_position(*arguments: Any) -> Any:
        devices = {argument.device for argument in arguments if isinstance(argument, Tensor)}
        if len(devices) > 1:
            raise ValueError(
                f"fused_ssim: expected tensors on one device, got {sorted(map(str, devices))}"
            )
        return fake(_results.call_type(operator)(*arguments))

    register_fake(_results.name_of(operator), by_position)


_register(_operators.ssim, _results.ssim)
_register(_operators.ssim_and_mse, _results.ssim_and_mse)
_register(_operators.ssim_map, _results.ssim_map)
_register(_operators.ssim_map_backward, _results.ssim_map_backward)
_register(_operators.scale_gradient, lambda call: torch.empty_like(call.gradient))
_register(_operators.scale_gradient_, lambda call: None)
_register(_operators.ms_ssim, _results.ms_ssim)
_register(_operators.ms_ssim_backward, lambda call: torch.empty_like(call.gradient))
_register(_operators.ms_ssim_backward_, lambda call: None)
