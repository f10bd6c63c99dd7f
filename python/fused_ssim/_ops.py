"""The operators for Python: fakes, autograd, and one typed function for each.

torch.ops.fused_ssim is registered by the compiled libraries; this module adds what the stable ABI
of libtorch can't express. Everything here works on checked arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from fused_ssim import _library as _library  # registers the operators
from fused_ssim import _validation
from fused_ssim._validation import REDUCTIONS

_ssim = torch.ops.fused_ssim.ssim.default
_ssim_map = torch.ops.fused_ssim.ssim_map.default
_ssim_map_backward = torch.ops.fused_ssim.ssim_map_backward.default
_scale_gradient = torch.ops.fused_ssim.scale_gradient.default
_scale_gradient_ = torch.ops.fused_ssim.scale_gradient_.default
_SUM = REDUCTIONS.index("sum")
_Context = Any  # torch's FunctionCtx, whose attributes are set freely
# Operators without the dispatcher's way through Python hooks of autograd.
_BelowAutograd = torch._C._AutoDispatchBelowAutograd

_NO_GRADIENT = (
    "fused_ssim: this value was computed without a gradient (train=False, or an image that did not "
    "require one at the time); call it with train=True on images that require a gradient"
)
_NO_SECOND_DERIVATIVE = (
    "fused_ssim: expected a first derivative only, got a request for the derivative of the "
    "gradient, which is not implemented; detach the gradient, or drop create_graph=True"
)
_NO_FORWARD_MODE = (
    "fused_ssim: expected images without tangents, got a request for forward-mode differentiation, "
    "which is not implemented; use reverse mode, .backward() or torch.autograd.grad()"
)


class Definition(NamedTuple):
    """Which SSIM: the stabilizers (k * data_range)^2, the Gaussian window, the padding."""

    c1: float
    c2: float
    window_size: int
    sigma: float
    valid: bool


def ssim(
    img1: torch.Tensor,
    img2: torch.Tensor,
    definition: Definition,
    reduction: str,
    *,
    ssim_weight: float = 1.0,
    l1_weight: float = 0.0,
    offset: float = 0.0,
    train: bool = True,
) -> torch.Tensor:
    """offset + reduction of ssim_weight * SSIM + l1_weight * |img1 - img2|."""
    _refuse_forward_mode(img1, img2)
    requires1, requires2 = img1.requires_grad, img2.requires_grad
    differentiable = (requires1 or requires2) and torch.is_grad_enabled()
    wants = train and differentiable
    arguments = (
        *definition,
        REDUCTIONS.index(reduction),
        ssim_weight,
        l1_weight,
        offset,
        wants and requires1,
        wants and requires2,
    )
    if torch.compiler.is_compiling():
        value = _ssim(img1, img2, *arguments)[0]
    elif differentiable:
        value = _SsimFunction.apply(img1, img2, arguments)[0]
    else:
        with _BelowAutograd():
            value = _ssim(img1, img2, *arguments)[0]
    return value  # type: ignore[no-any-return]


def ssim_map(img1: torch.Tensor, img2: torch.Tensor, definition: Definition) -> torch.Tensor:
    """The SSIM map [B, C, H', W']."""
    _refuse_forward_mode(img1, img2)
    return _ssim_map(img1, img2, *definition)  # type: ignore[no-any-return]


class _Refuse(torch.autograd.Function):
    """A result as it is, whose derivative by any of `inputs` is an error with this message."""

    @staticmethod
    def forward(
        ctx: _Context, message: str, result: torch.Tensor, *inputs: torch.Tensor
    ) -> torch.Tensor:
        ctx.message = message
        return result.view_as(result)

    @staticmethod
    def backward(ctx: _Context, *_: Any) -> Any:
        raise RuntimeError(ctx.message)


def without_gradient(result: torch.Tensor, *images: torch.Tensor) -> torch.Tensor:
    """`result`, refusing a backward pass to `images` instead of passing for a constant."""
    if torch.is_grad_enabled() and any(image.requires_grad for image in images):
        result = _Refuse.apply(_NO_GRADIENT, result, *images)
    return result


def _refuse_forward_mode(*images: torch.Tensor) -> None:
    """Forward mode drops the tangents of operators that it does not know, without a word."""
    if getattr(torch.autograd.forward_ad, "_current_level", -1) < 0:
        return
    unpack: Callable[[torch.Tensor], Any] = torch.autograd.forward_ad.unpack_dual
    if any(unpack(image).tangent is not None for image in images):
        raise NotImplementedError(_NO_FORWARD_MODE)


# ---- fakes --------------------------------------------------------------------------------------


def _value_dtype(image: torch.Tensor) -> torch.dtype:
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def _check(img1: torch.Tensor, img2: torch.Tensor, window_size: int, valid: bool) -> None:
    _validation.check_images(img1, img2)
    _validation.check_window_size(window_size)
    _validation.check_window_fits(img1, window_size, "valid" if valid else "same")


def _fake_gradient(image: torch.Tensor, wanted: bool) -> torch.Tensor:
    return torch.empty_like(image) if wanted else image.new_empty([0])


def _fake_ssim(
    img1: torch.Tensor,
    img2: torch.Tensor,
    c1: float,
    c2: float,
    window_size: int,
    sigma: float,
    valid: bool,
    reduction: int,
    ssim_weight: float,
    l1_weight: float,
    offset: float,
    wants_gradient1: bool,
    wants_gradient2: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    _check(img1, img2, window_size, valid)
    kind = REDUCTIONS[reduction]
    leading = {"image": 1, "channel": 2}.get(kind, 0)
    value = img1.new_empty(img1.shape[:leading], dtype=_value_dtype(img1))
    return value, _fake_gradient(img1, wants_gradient1), _fake_gradient(img2, wants_gradient2)


def _fake_ssim_map(
    img1: torch.Tensor,
    img2: torch.Tensor,
    c1: float,
    c2: float,
    window_size: int,
    sigma: float,
    valid: bool,
) -> torch.Tensor:
    _check(img1, img2, window_size, valid)
    batch, channels, height, width = img1.shape
    crop = window_size - 1 if valid else 0
    return img1.new_empty([batch, channels, height - crop, width - crop], dtype=_value_dtype(img1))


def _fake_ssim_map_backward(
    map_gradient: torch.Tensor,
    img1: torch.Tensor,
    img2: torch.Tensor,
    c1: float,
    c2: float,
    window_size: int,
    sigma: float,
    valid: bool,
    wants_gradient1: bool,
    wants_gradient2: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    _check(img1, img2, window_size, valid)
    return _fake_gradient(img1, wants_gradient1), _fake_gradient(img2, wants_gradient2)


def _fake_scale_gradient(
    unit: torch.Tensor, upstream: torch.Tensor, reduction: int, factor: float
) -> torch.Tensor:
    return torch.empty_like(unit)


def _fake_scale_gradient_(
    unit: torch.Tensor, upstream: torch.Tensor, reduction: int, factor: float
) -> None:
    return None


_FAKES: dict[str, Callable[..., Any]] = {
    "ssim": _fake_ssim,
    "ssim_map": _fake_ssim_map,
    "ssim_map_backward": _fake_ssim_map_backward,
    "scale_gradient": _fake_scale_gradient,
    "scale_gradient_": _fake_scale_gradient_,
}
for _name, _fake in _FAKES.items():
    torch.library.register_fake(f"fused_ssim::{_name}", _fake)


# ---- autograd -----------------------------------------------------------------------------------


_keep_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)


def _graph_is_kept() -> bool:
    """Whether the backward pass under way may be followed by another through the same graph."""
    return bool(_keep_graph())


def _factor(
    image: torch.Tensor, value: torch.Tensor, window_size: int, valid: bool, reduction: int
) -> float:
    """What `reduction` multiplies the sum of a value's pixels by."""
    if reduction == _SUM:
        return 1.0
    pixels = image.numel()
    if valid:
        height, width = image.shape[2:]
        crop = window_size - 1
        pixels = pixels // (height * width) * (height - crop) * (width - crop)
    return value.numel() / pixels


def _ssim_setup_context(ctx: _Context, inputs: tuple[Any, ...], output: Any) -> None:
    img1, _, _, _, window_size, _, valid, reduction = inputs[:8]
    # Without this autograd would fill whole images with zeros for the gradients of the unit
    # gradients. They stay differentiable, for what is made of them (a gradient that is asked for
    # with create_graph=True) must refuse to be differentiated, not pass for a constant.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:])
    ctx.wanted = inputs[11:13]
    ctx.reduction = reduction
    ctx.factor = _factor(img1, output[0], window_size, valid, reduction)


def _ssim_backward(ctx: _Context, upstream: torch.Tensor | None, *_: Any) -> tuple[Any, ...]:
    gradients: list[torch.Tensor | None] = [None, None]
    if upstream is not None:
        upstream = upstream.contiguous()
        for i, unit in enumerate(ctx.saved_tensors):
            if ctx.needs_input_grad[i]:
                if not ctx.wanted[i]:
                    raise RuntimeError(_NO_GRADIENT)
                gradients[i] = _scale_gradient(unit, upstream, ctx.reduction, ctx.factor)
    return (*gradients, *[None] * 11)


def _map_setup_context(ctx: _Context, inputs: tuple[Any, ...], output: Any) -> None:
    img1, img2, *definition = inputs
    ctx.save_for_backward(img1, img2)
    ctx.definition = definition


def _map_backward(ctx: _Context, map_gradient: torch.Tensor) -> tuple[Any, ...]:
    img1, img2 = ctx.saved_tensors
    wanted = ctx.needs_input_grad[:2]
    gradients = _ssim_map_backward(map_gradient, img1, img2, *ctx.definition, *wanted)
    return (*(g if w else None for g, w in zip(gradients, wanted, strict=True)), *[None] * 5)


def _refuse_setup_context(ctx: _Context, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)


def _refuse_backward(ctx: _Context, *_: Any) -> Any:
    raise RuntimeError(_NO_SECOND_DERIVATIVE)


class _SsimFunction(torch.autograd.Function):
    """The same as is registered with the operator, at half the overhead of a training step.

    On small images that overhead is most of the time. The registration serves tracers and those who
    call the operator themselves.
    """

    @staticmethod
    def forward(
        ctx: _Context, img1: torch.Tensor, img2: torch.Tensor, arguments: tuple[Any, ...]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        _, _, window_size, _, valid, reduction, *_, wanted1, wanted2 = arguments
        with _BelowAutograd():
            value, unit1, unit2 = _ssim(img1, img2, *arguments)
        # The unit gradients are saved but no outputs, which spares autograd's bookkeeping of them.
        # One empty output is left for gradients made with create_graph=True: it connects them to
        # the images, so that differentiating them is refused, and they don't pass for constants.
        link = unit1 if not wanted1 else unit2 if not wanted2 else value.new_empty([0])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(unit1 if wanted1 else None, unit2 if wanted2 else None, link)
        ctx.scale = reduction, _factor(img1, value, window_size, valid, reduction)
        return value, link

    @staticmethod
    def backward(ctx: _Context, upstream: torch.Tensor | None, *_: Any) -> Any:
        gradients: list[torch.Tensor | None] = [None, None]
        if upstream is None:
            return None, None, None
        upstream = upstream.contiguous()
        *units, link = ctx.saved_tensors
        creates_graph = torch.is_grad_enabled()
        may_overwrite = not creates_graph and not _graph_is_kept()
        needed = ctx.needs_input_grad
        for i, unit in enumerate(units):
            if not needed[i]:
                continue
            if unit is None:
                raise RuntimeError(_NO_GRADIENT)
            # The unit gradient becomes the gradient in place where nobody can ask for it again;
            # tracers (subclasses of Tensor) are given the plain form.
            with _BelowAutograd():
                if may_overwrite and type(unit) is torch.Tensor:
                    _scale_gradient_(unit, upstream, *ctx.scale)
                    gradient = unit
                else:
                    gradient = _scale_gradient(unit, upstream, *ctx.scale)
            if creates_graph:
                gradient = _Refuse.apply(_NO_SECOND_DERIVATIVE, gradient, link, upstream)
            gradients[i] = gradient
        return *gradients, None


torch.library.register_autograd(
    "fused_ssim::ssim", _ssim_backward, setup_context=_ssim_setup_context
)
torch.library.register_autograd(
    "fused_ssim::ssim_map", _map_backward, setup_context=_map_setup_context
)
for _name in ("ssim_map_backward", "scale_gradient"):
    torch.library.register_autograd(
        f"fused_ssim::{_name}", _refuse_backward, setup_context=_refuse_setup_context
    )
