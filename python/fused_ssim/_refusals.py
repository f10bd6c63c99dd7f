"""Results whose derivative is refused, instead of passing for a constant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fused_ssim._torch_private import (
    define,
    is_compiling,
    is_forward_mode,
    register_autograd,
)

_Context = Any  # torch's FunctionCtx, whose attributes are set freely

NO_GRADIENT = (
    "fused_ssim: this value was computed without a gradient (train=False, or an image that did not "
    "require one at the time); call it with train=True on images that require a gradient"
)


class _Refuse(torch.autograd.Function):
    """A result as it is, whose derivative by any of `inputs` is an error with this message."""

    generate_vmap_rule = True

    @staticmethod
    def forward(message: str, result: Tensor, *inputs: Tensor) -> Tensor:
        return result.view_as(result)

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.message = inputs[0]

    @staticmethod
    def backward(ctx: _Context, *_: Any) -> Any:
        raise RuntimeError(ctx.message)

    @staticmethod
    def jvp(ctx: _Context, *_: Any) -> Any:
        raise RuntimeError(ctx.message)


def without_gradient(result: Tensor, *images: Tensor) -> Tensor:
    """`result`, refusing a derivative by `images` instead of passing for a constant."""
    records = torch.is_grad_enabled() and any(image.requires_grad for image in images)
    if is_compiling():
        return torch.ops.fused_ssim.without_gradient(result, list(images)) if records else result
    return _Refuse.apply(NO_GRADIENT, result, *images) if records or is_forward_mode() else result


# Tracers run backward formulas while they trace, where an error would come too soon: the refusal is
# an operator of its own, which the compiled backward pass runs.
def _refuse_gradient(upstream: Tensor, images: Sequence[Tensor]) -> Any:
    raise RuntimeError(NO_GRADIENT)


define(
    "without_gradient(Tensor result, Tensor[] images) -> Tensor",
    lambda result, images: result.clone(),
    lambda result, images: torch.empty_like(result),
)
define(
    "refuse_gradient(Tensor upstream, Tensor[] images) -> Tensor[]",
    _refuse_gradient,
    lambda upstream, images: [torch.empty_like(image) for image in images],
)


def _without_gradient_setup(ctx: _Context, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[1])


def _without_gradient_backward(ctx: _Context, upstream: Tensor) -> Any:
    return None, torch.ops.fused_ssim.refuse_gradient(upstream, list(ctx.saved_tensors))


register_autograd("without_gradient", _without_gradient_setup, _without_gradient_backward)
