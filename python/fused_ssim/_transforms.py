"""The kernels' map where one gradient by the operators' formulas is not enough.

Under `torch.func.vmap` its batches become one, so that a call is one launch; and its gradient can be
differentiated, by the composite of torch operations. Reductions of it are torch operations, too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fused_ssim import _composite, _operators, _results
from fused_ssim._parameters import MASK_MODES, Definition, MaskMode
from fused_ssim._torch_private import BelowAutograd, is_batched
from fused_ssim._windows import STANDARD_TAPS

_Context = Any  # torch's FunctionCtx, whose attributes are set freely


def map_by_kernels(
    definition: Definition, stabilizers: Tensor | None, mask: Tensor | None, mask_mode: MaskMode
) -> Callable[[Tensor, Tensor], Tensor]:
    """What gives the map of two images."""

    def mapped(img1: Tensor, img2: Tensor) -> Tensor:
        expanded = None if mask is None else mask.expand_as(img1)
        return ssim_map(img1, img2, *definition, stabilizers, expanded, MASK_MODES.index(mask_mode))

    return mapped


def ssim_map(img1: Tensor, img2: Tensor, *arguments: Any) -> Tensor:
    """What the operator of this name gives of these arguments."""
    *definition, stabilizers, mask, mask_mode = arguments
    values: Tensor = _Map.apply(img1, img2, stabilizers, mask, (*definition, mask_mode))
    return values


class _Map(torch.autograd.Function):
    @staticmethod
    def forward(
        img1: Tensor,
        img2: Tensor,
        stabilizers: Tensor | None,
        mask: Tensor | None,
        problem: tuple[Any, ...],
    ) -> Tensor:
        *definition, mask_mode = problem
        values: Tensor
        with BelowAutograd():
            values = _operators.eager.ssim_map(
                img1, img2, *definition, stabilizers, mask, mask_mode
            )
        return values

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.problem = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: _Context, upstream: Tensor | None) -> Any:
        if upstream is None:
            return _no_gradients(ctx)
        compute: Callable[..., Any] = _MapGradients.forward
        if torch.is_grad_enabled() or is_batched(upstream):
            compute = _MapGradients.apply
        wanted = tuple(ctx.needs_input_grad[:2])
        gradients = compute(upstream, *ctx.saved_tensors, ctx.problem, wanted)
        one, two = (
            gradient if want else None for gradient, want in zip(gradients, wanted, strict=True)
        )
        return _replaced(_no_gradients(ctx), (0, 1), (one, two))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        *tensors, problem = arguments
        values: Tensor = _Map.apply(*_joined(info.batch_size, tensors, in_dims), problem)
        return _split(values, info.batch_size), 0


class _MapGradients(torch.autograd.Function):
    """The gradients by both images; an empty tensor for one that is not wanted."""

    @staticmethod
    def forward(
        map_gradient: Tensor,
        img1: Tensor,
        img2: Tensor,
        stabilizers: Tensor | None,
        mask: Tensor | None,
        problem: tuple[Any, ...],
        wanted: tuple[bool, bool],
    ) -> tuple[Tensor, Tensor]:
        *definition, mask_mode = problem
        # The dispatcher resolves what `is_grads_batched=True` gives.
        batched = is_batched(map_gradient)
        compute = (_operators if batched else _operators.eager).ssim_map_backward
        gradients: tuple[Tensor, Tensor]
        with BelowAutograd():
            gradients = compute(
                map_gradient, img1, img2, *definition, *wanted, stabilizers, mask, mask_mode
            )
        return gradients

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.problem, ctx.wanted = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: _Context, *upstreams: Tensor) -> Any:
        _composite.say_once("the derivative of a gradient")
        *given, stabilizers, mask = ctx.saved_tensors
        *definition, mask_mode = ctx.problem
        asked = [i for i in range(3) if ctx.needs_input_grad[i]]
        wanted = [i for i in (0, 1) if ctx.wanted[i]]

        map_of = functools.partial(
            _composite.mapped,
            definition=with_taps(Definition(*definition), given[1]),
            stabilizers=stabilizers,
            mask=mask,
            mask_mode=MASK_MODES[mask_mode],
        )

        def gradients(*by: Tensor) -> tuple[Tensor, ...]:
            map_gradient, *images = _replaced(given, asked, by)
            pull = torch.func.vjp(
                lambda *of_images: map_of(*_replaced(images, wanted, of_images)),
                *(images[i] for i in wanted),
            )[1]
            of_wanted: tuple[Tensor, ...] = pull(map_gradient)
            return of_wanted

        pull = torch.func.vjp(gradients, *(given[i] for i in asked))[1]
        found = pull(tuple(upstreams[i] for i in wanted))
        return _replaced(_no_gradients(ctx), asked, found)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *arguments: Any
    ) -> tuple[tuple[Tensor, Tensor], tuple[int | None, int | None]]:
        *tensors, problem, wanted = arguments
        gradients = _MapGradients.apply(
            *_joined(info.batch_size, tensors, in_dims), problem, wanted
        )
        one, two = (
            _split(gradient, info.batch_size) if want else gradient
            for gradient, want in zip(gradients, wanted, strict=True)
        )
        axis1, axis2 = (0 if want else None for want in wanted)
        return (one, two), (axis1, axis2)


def _joined(batches: int, tensors: Sequence[Any], in_dims: Sequence[int | None]) -> list[Any]:
    """Tensors [B, ...], of each of `batches` or of all, as [batches * B, ...]."""
    return [
        None
        if tensor is None
        else (
            tensor.expand(batches, *tensor.shape) if axis is None else tensor.movedim(axis, 0)
        ).flatten(0, 1)
        for tensor, axis in zip(tensors, in_dims, strict=False)
    ]


def _split(joined: Tensor, batches: int) -> Tensor:
    return joined.reshape(batches, -1, *joined.shape[1:])


def _replaced(items: Sequence[Any], places: Sequence[int], by: Sequence[Any]) -> tuple[Any, ...]:
    result = [*items]
    for place, item in zip(places, by, strict=True):
        result[place] = item
    return tuple(result)


def _no_gradients(ctx: _Context) -> tuple[None, ...]:
    return (None,) * len(ctx.needs_input_grad)


def with_taps(definition: Definition, image: Tensor) -> Definition:
    """With the taps of the standard window, which the operators know by themselves."""
    if definition.window_sizes:  # of one tap there are no taps, either
        return definition
    depth, height, width = _results.window_sizes((), image.dim())
    return definition._replace(taps=STANDARD_TAPS, window_sizes=(depth, height, width))
