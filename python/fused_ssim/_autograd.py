"""The kernels as differentiable functions of checked arguments.

Eager mode takes `torch.autograd.Function`s, at half the overhead of what is registered with the
operators; the registrations serve tracers and whoever calls the operators.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fused_ssim import _composite, _operators, _results, _transforms
from fused_ssim import _fakes as _fakes  # registers them
from fused_ssim._parameters import MASK_MODES, REDUCTIONS, Definition, MaskMode, Reduced
from fused_ssim._refusals import NO_GRADIENT, without_gradient
from fused_ssim._torch_private import (
    BelowAutograd,
    graph_is_kept,
    is_batched,
    is_compiling,
    is_jit_tracing,
    is_traced,
    register_autograd,
    saved_tensors_hooks,
)
from fused_ssim._windows import STANDARD_TAPS

_NO_L2 = 0.0
# Operators know the standard window, whose lists would take them microseconds.
_STANDARD_WINDOW: tuple[Any, ...] = ((), ())
_Context = Any  # torch's FunctionCtx, whose attributes are set freely

_NO_SECOND_DERIVATIVE = (
    "fused_ssim: expected a first derivative only, got a request for the derivative of the "
    "gradient, which operators and compiled programs do not have; call the functions of fused_ssim, "
    "outside of torch.compile"
)
_NOT_KEPT = (
    "fused_ssim: expected the images of the forward pass for a gradient that can be differentiated "
    "(create_graph=True), but none are kept under torch.autograd.graph.saved_tensors_hooks, which "
    "checkpoints and save_on_cpu use, nor after a first backward pass before torch 2.4; call the "
    "function outside of such hooks and once more for this gradient, or drop create_graph=True"
)


def reduced(
    img1: Tensor,
    img2: Tensor,
    definition: Definition,
    reduction: Reduced,
    statistic_weight: float,
    l1_weight: float,
    offset: float,
    train: bool,
    stabilizers: Tensor | None,
    mask: Tensor | None,
    mask_mode: MaskMode,
) -> Tensor:
    """offset + reduction of statistic_weight * S + l1_weight * |img1 - img2|."""
    compiling = is_compiling()
    requires1, requires2 = img1.requires_grad, img2.requires_grad
    differentiable = (requires1 or requires2) and _records(compiling)
    wants = train and differentiable
    arguments = (
        *_operator_arguments(definition, compiling),
        REDUCTIONS.index(reduction),
        statistic_weight,
        l1_weight,
        offset,
        wants and requires1,
        wants and requires2,
    )
    if stabilizers is not None or mask is not None:
        arguments = (*arguments, _NO_L2, stabilizers, *_mask_arguments(img1, mask, mask_mode))
    value: Tensor
    if compiling:
        if differentiable and not train:
            value = _operators.ssim(img1.detach(), img2.detach(), *arguments)[0]
            return without_gradient(value, img1, img2)
        value = _operators.ssim(img1, img2, *arguments)[0]
        return value
    try:
        if differentiable:
            value = _Reduced.apply(img1, img2, arguments)
        else:
            with BelowAutograd():
                value = _operators.eager.ssim(img1, img2, *arguments)[0]
    except RuntimeError as error:
        _operators.ask_for_lacking_memory(error)
        raise
    return value


def _records(compiling: bool) -> bool:
    """Whether autograd does. Traces of torch.jit are of the value alone: they hold operators, but no
    functions of Python."""
    return torch.is_grad_enabled() and (compiling or not is_jit_tracing())


def _operator_arguments(d: Definition, compiling: bool) -> tuple[Any, ...]:
    """The definition in the order of the operators' schemas."""
    if compiling:
        # By name: the compiler of torch 2.11 can't iterate over a constant NamedTuple.
        return d.taps, d.window_sizes, d.c1, d.c2, d.valid, d.statistic, d.uint8_divisor
    return (*_STANDARD_WINDOW, *d[2:]) if d.taps is STANDARD_TAPS else d


def _mask_arguments(
    image: Tensor, mask: Tensor | None, mask_mode: MaskMode
) -> tuple[Tensor | None, int]:
    expanded = None if mask is None else mask.expand_as(image)
    return expanded, MASK_MODES.index(mask_mode)


def mapped(
    img1: Tensor,
    img2: Tensor,
    definition: Definition,
    stabilizers: Tensor | None,
    mask: Tensor | None,
    mask_mode: MaskMode,
) -> Tensor:
    """The map [B, C, H', W']."""
    compiling = is_compiling()
    arguments = (
        *_operator_arguments(definition, compiling),
        stabilizers,
        *_mask_arguments(img1, mask, mask_mode),
    )
    value: Tensor
    if compiling:
        value = _operators.ssim_map(img1, img2, *arguments)
    elif (img1.requires_grad or img2.requires_grad) and _records(compiling):
        value = _transforms.ssim_map(img1, img2, *arguments)
    else:
        with BelowAutograd():
            value = _operators.eager.ssim_map(img1, img2, *arguments)
    return value


def ssim_and_mse(
    img1: Tensor, img2: Tensor, definition: Definition, *, stabilizers: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """[B, C] each; a backward pass is refused."""
    compiling = is_compiling()
    compute = _operators.ssim_and_mse if compiling else _operators.eager.ssim_and_mse
    value, mse = compute(
        img1.detach(), img2.detach(), *_operator_arguments(definition, compiling), stabilizers
    )
    return without_gradient(value, img1, img2), without_gradient(mse, img1, img2)


def ms_ssim(
    img1: Tensor,
    img2: Tensor,
    definition: Definition,
    exponents: tuple[float, ...],
    negative: int,
    odd_sizes: int,
    *,
    by_scale: Callable[[Tensor, Tensor], Tensor],
    stabilizers: Tensor | None = None,
) -> Tensor:
    """The product over all scales, [B, C]; `definition` is that of the coarsest.

    `by_scale` gives the same, scale by scale.
    """
    compiling = is_compiling()
    requires1, requires2 = img1.requires_grad, img2.requires_grad
    differentiable = (requires1 or requires2) and _records(compiling)
    arguments = (
        *_operator_arguments(definition, compiling),
        exponents,
        negative,
        odd_sizes,
        differentiable and requires1,
        differentiable and requires2,
        stabilizers,
    )
    value: Tensor
    if compiling:
        value = _operators.ms_ssim(img1, img2, *arguments)[0]
    elif differentiable:
        value = _Scales.apply(img1, img2, (arguments, by_scale))
    else:
        with BelowAutograd():
            value = _operators.eager.ms_ssim(img1, img2, *arguments)[0]
    return value


# ---- eager mode ---------------------------------------------------------------------------------

_SSIM_ARGUMENTS = _results.argument_names(_operators.ssim)
# The arguments of scale_gradient and those that want gradients, among those of ssim but the images.
_scale_arguments = operator.itemgetter(
    *(_SSIM_ARGUMENTS.index(name) - 2 for name in ("reduction", "window_sizes", "valid"))
)
_wanted = operator.itemgetter(
    *(_SSIM_ARGUMENTS.index(name) - 2 for name in ("wants_gradient1", "wants_gradient2"))
)
_MASK = _SSIM_ARGUMENTS.index("mask") - 2


def _factor(
    upstream: Tensor,
    gradient: Tensor,
    mask: Tensor | None,
    reduction: int,
    window_sizes: Sequence[int],
    valid: bool,
) -> Tensor:
    """What scale_gradient() takes for `upstream`.

    It divides float16 gradients, which are those of sums, by the number of pixels, where the divisor
    of a mean under a mask is the mask's sum: that number times the mask's mean.
    """
    if mask is None or gradient.dtype != torch.float16 or REDUCTIONS[reduction] == "sum":
        return upstream
    if valid:
        for axis, size in enumerate(
            _results.window_sizes(window_sizes, mask.dim())[5 - mask.dim() :], 2
        ):
            mask = mask.narrow(axis, size // 2, mask.shape[axis] - size + 1)
    axes = list(range(_results.leading_axes(reduction), mask.dim()))
    means = _composite.mask_numbers(mask, upstream.dtype).mean(axes)
    return (upstream / means).where(means > 0, 0.0)


_SCALES_ARGUMENTS = _results.argument_names(_operators.ms_ssim)
# Those that want gradients, once for each tensor that is saved for one.
_wanted_of_scales = operator.itemgetter(
    *(_SCALES_ARGUMENTS.index(f"wants_gradient{i}") - 2 for i in (1, 1, 2, 2))
)
_odd_sizes = operator.itemgetter(_SCALES_ARGUMENTS.index("odd_sizes") - 2)


class _Reduced(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        img1: Tensor,
        img2: Tensor,
        arguments: tuple[Any, ...],
    ) -> Tensor:
        wanted1, wanted2 = _wanted(arguments)
        value: Tensor
        with BelowAutograd():
            value, gradient1, gradient2 = _operators.eager.ssim(img1, img2, *arguments)
        # The gradients are saved but no outputs, which spares autograd's bookkeeping of them.
        ctx.set_materialize_grads(False)
        mask = arguments[_MASK] if len(arguments) > _MASK else None
        ctx.save_for_backward(gradient1 if wanted1 else None, gradient2 if wanted2 else None, mask)
        ctx.scale = _scale_arguments(arguments)
        _keep(ctx, img1, img2, _reduced_again, arguments)
        return value

    @staticmethod
    def backward(ctx: _Context, upstream: Tensor | None) -> Any:
        gradient1, gradient2, mask = ctx.saved_tensors
        saved = ((gradient1,), (gradient2,))
        return _times_upstream(ctx, upstream, saved, _SCALING, (mask, *ctx.scale))


class _Scales(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        img1: Tensor,
        img2: Tensor,
        given: tuple[tuple[Any, ...], Callable[[Tensor, Tensor], Tensor]],
    ) -> Tensor:
        arguments, by_scale = given
        value: Tensor
        with BelowAutograd():
            value, derivatives, *gradients = _operators.eager.ms_ssim(img1, img2, *arguments)
        saved = [
            gradient if wanted else None
            for wanted, gradient in zip(_wanted_of_scales(arguments), gradients, strict=True)
        ]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*saved, derivatives)
        ctx.odd_sizes = _odd_sizes(arguments)
        _keep(ctx, img1, img2, by_scale, ())
        return value

    @staticmethod
    def backward(ctx: _Context, upstream: Tensor | None) -> Any:
        gradient1, coarser1, gradient2, coarser2, derivatives = ctx.saved_tensors
        saved = [(gradient1, coarser1), (gradient2, coarser2)]
        return _times_upstream(ctx, upstream, saved, _ACCUMULATION, (derivatives, ctx.odd_sizes))


def _scaled(gradient: Tensor, upstream: Tensor, mask: Tensor | None, *arguments: Any) -> Tensor:
    factor = _factor(upstream, gradient, mask, *arguments)
    scaled: Tensor = _operators.eager.scale_gradient(gradient, factor, *arguments)
    return scaled


def _scale_(gradient: Tensor, upstream: Tensor, mask: Tensor | None, *arguments: Any) -> None:
    # The operator knows that nothing is to be done where the incoming number is 1, but on a small
    # image its call takes a while; and on the CPU the number is at hand.
    is_number = upstream.is_cpu and upstream.dim() == 0 and gradient.dtype != torch.float16
    if not (is_number and upstream.item() == 1.0):
        factor = _factor(upstream, gradient, mask, *arguments)
        _operators.eager.scale_gradient_(gradient, factor, *arguments)


# Operators on what was saved of an image: one that gives the gradient, and one that turns what was
# saved into it.
_SCALING = _scaled, _scale_
_ACCUMULATION = _operators.eager.ms_ssim_backward, _operators.eager.ms_ssim_backward_


def _times_upstream(
    ctx: _Context,
    upstream: Tensor | None,
    saved: Sequence[tuple[Any, ...]],
    operators: tuple[Any, ...],
    arguments: tuple[Any, ...],
) -> tuple[Tensor | None, ...]:
    """The gradients by both images, of what was saved of each, its own gradient first."""
    results: list[Tensor | None] = [None, None, None]
    if upstream is None:
        return tuple(results)
    needed = ctx.needs_input_grad
    if torch.is_grad_enabled():
        wanted = [i for i in (0, 1) if needed[i]]
        if any(saved[i][0] is None for i in wanted):
            raise RuntimeError(NO_GRADIENT)
        for i, gradient in zip(wanted, _gradients_again(ctx.kept, upstream, wanted), strict=True):
            results[i] = gradient
        return tuple(results)
    graph_kept = graph_is_kept()
    if not graph_kept:
        ctx.kept = None  # autograd frees what was saved, and these would live as long as the value
    may_overwrite = graph_kept is False and not is_batched(upstream)
    upstream = upstream.contiguous()
    multiplied, multiply_ = operators
    for i, of_image in enumerate(saved):
        gradient = of_image[0]
        if not needed[i]:
            continue
        if gradient is None:
            raise RuntimeError(NO_GRADIENT)
        # The saved gradient becomes the result in place where nobody can ask for it again; tracers
        # are given the plain form.
        with BelowAutograd():
            if may_overwrite and not is_traced(gradient):
                multiply_(*of_image, upstream, *arguments)
            else:
                gradient = multiplied(*of_image, upstream, *arguments)
        results[i] = gradient
    return tuple(results)


# ---- gradients to be differentiated -------------------------------------------------------------


def _keep(
    ctx: _Context, img1: Tensor, img2: Tensor, again: Callable[..., Tensor], arguments: Any
) -> None:
    """What a backward pass with create_graph=True needs: again(img1, img2, *arguments) is the value.

    Autograd would make an error of every change in place of a tensor that it saves, also where no
    backward pass reads it; and hooks for what is saved (checkpoint, save_on_cpu) free memory that a
    reference of ours would hold.
    """
    ctx.kept = None
    if saved_tensors_hooks(True) is None:
        ctx.kept = img1, img2, _version(img1), _version(img2), again, arguments


def _version(image: Tensor) -> int:
    try:
        return image._version
    except RuntimeError:  # inference tensors have none, and can't be changed outside of that mode
        return -1


def _gradients_again(
    kept: tuple[Any, ...] | None, upstream: Tensor, wanted: Sequence[int]
) -> Sequence[Tensor]:
    """The gradients by the `wanted` images, with a graph of their own."""
    if kept is None:
        raise RuntimeError(_NOT_KEPT)
    img1, img2, version1, version2, again, arguments = kept
    for name, image, version in (("img1", img1, version1), ("img2", img2, version2)):
        if _version(image) != version:
            raise RuntimeError(
                f"fused_ssim: expected {name} as it was in the forward pass, for a gradient that can "
                f"be differentiated (create_graph=True), got it changed in place since (version "
                f"{_version(image)}, was {version}); change a copy of it"
            )
    # Views, since both may be the same tensor.
    images = img1.view_as(img1), img2.view_as(img2)
    return torch.autograd.grad(
        again(*images, *arguments), [images[i] for i in wanted], upstream, create_graph=True
    )


def _reduced_again(img1: Tensor, img2: Tensor, *arguments: Any) -> Tensor:
    """The value of the operator `ssim`, by torch operations on the kernels' map."""
    call = _results.call_type(_operators.ssim)(img1, img2, *arguments)
    asked = Definition(*(getattr(call, name) for name in Definition._fields))
    definition, mask_mode = _transforms.with_taps(asked, img1), MASK_MODES[call.mask_mode]
    seen = call.mask if mask_mode == "normalized" else None
    return _composite.reduced(
        img1,
        img2,
        definition,
        REDUCTIONS[call.reduction],
        statistic_weight=call.statistic_weight,
        l1_weight=call.l1_weight,
        offset=call.offset,
        stabilizers=call.stabilizers,
        mask=call.mask,
        mask_mode=mask_mode,
        map_of=_transforms.map_by_kernels(definition, call.stabilizers, seen, mask_mode),
    )


# ---- registrations for tracers ------------------------------------------------------------------


def _register(
    op: Any,
    save: Callable[[_Context, _results.Call, Any], None],
    backward: Callable[..., dict[str, Tensor | None]],
) -> None:
    """`save` is given the arguments, and `backward` returns gradients, by the schema's names."""
    names = _results.argument_names(op)

    def setup_context(ctx: _Context, inputs: tuple[Any, ...], output: Any) -> None:
        # Without this autograd would fill whole images with zeros for the gradients of gradients.
        # They stay differentiable, for what is made of them (a gradient that is asked for with
        # create_graph=True) must refuse to be differentiated, not pass for a constant.
        ctx.set_materialize_grads(False)
        save(ctx, _results.call_type(op)(*inputs), output)

    def by_position(ctx: _Context, *upstreams: Any) -> tuple[Tensor | None, ...]:
        gradients = backward(ctx, *upstreams)
        return tuple(gradients.get(name) for name in names)

    register_autograd(_results.name_of(op), setup_context, by_position)


def _save_ssim(ctx: _Context, call: _results.Call, output: Any) -> None:
    ctx.save_for_backward(*output[1:], call.mask)
    ctx.wanted = call.wants_gradient1, call.wants_gradient2
    ctx.scale = call.reduction, call.window_sizes, call.valid


def _ssim_backward(
    ctx: _Context, upstream: Tensor | None, *by_gradients: Tensor | None
) -> dict[str, Tensor | None]:
    *saved, mask = ctx.saved_tensors
    return _by_image(
        ctx,
        (upstream, *by_gradients),
        lambda i, given: _operators.scale_gradient(
            saved[i], _factor(given, saved[i], mask, *ctx.scale), *ctx.scale
        ),
    )


def _by_image(
    ctx: _Context, upstreams: Sequence[Tensor | None], multiplied: Callable[[int, Tensor], Tensor]
) -> dict[str, Tensor | None]:
    """multiplied(i, upstream) of the images that require a gradient; a value is the first output."""
    upstream, *by_gradients = upstreams
    if any(other is not None for other in by_gradients):
        raise RuntimeError(_NO_SECOND_DERIVATIVE)
    gradients: dict[str, Tensor | None] = {}
    if upstream is None:
        return gradients
    upstream = upstream.contiguous()
    for i, name in enumerate(("img1", "img2")):
        if ctx.needs_input_grad[i]:
            if not ctx.wanted[i]:
                raise RuntimeError(NO_GRADIENT)
            gradients[name] = multiplied(i, upstream)
    return gradients


def _save_scales(ctx: _Context, call: _results.Call, output: Any) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.wanted = call.wants_gradient1, call.wants_gradient2
    ctx.odd_sizes = call.odd_sizes


def _scales_backward(
    ctx: _Context, upstream: Tensor | None, *by_gradients: Tensor | None
) -> dict[str, Tensor | None]:
    derivatives, *saved = ctx.saved_tensors
    return _by_image(
        ctx,
        (upstream, *by_gradients),
        lambda i, given: _operators.ms_ssim_backward(
            *saved[2 * i : 2 * i + 2], given, derivatives, ctx.odd_sizes
        ),
    )


_MAP_ARGUMENTS = _results.argument_names(_operators.ssim_map)


def _save_map(ctx: _Context, call: _results.Call, output: Any) -> None:
    ctx.save_for_backward(call.img1, call.img2)
    *ctx.definition, stabilizers, mask, mask_mode = (
        getattr(call, name) for name in _MAP_ARGUMENTS[2:]
    )
    ctx.rare = stabilizers, mask, mask_mode


def _map_backward(ctx: _Context, map_gradient: Tensor | None) -> dict[str, Tensor | None]:
    if map_gradient is None:
        return {}
    wanted = ctx.needs_input_grad[:2]
    gradients = _operators.ssim_map_backward(
        map_gradient, *ctx.saved_tensors, *ctx.definition, *wanted, *ctx.rare
    )
    return {
        name: gradient if want else None
        for name, gradient, want in zip(("img1", "img2"), gradients, wanted, strict=True)
    }


def _refuse_second_derivative(ctx: _Context, *_: Any) -> dict[str, Tensor | None]:
    raise RuntimeError(_NO_SECOND_DERIVATIVE)


def _save_nothing(ctx: _Context, call: _results.Call, output: Any) -> None:
    pass


_register(_operators.ssim, _save_ssim, _ssim_backward)
_register(_operators.ssim_map, _save_map, _map_backward)
_register(_operators.ssim_map_backward, _save_nothing, _refuse_second_derivative)
_register(_operators.scale_gradient, _save_nothing, _refuse_second_derivative)
_register(_operators.ms_ssim, _save_scales, _scales_backward)
_register(_operators.ms_ssim_backward, _save_nothing, _refuse_second_derivative)
