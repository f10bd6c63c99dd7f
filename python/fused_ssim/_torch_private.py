"""What differs from torch to torch: private names that the package profits from, and public ones
that older versions lack.

A torch without the private ones works: more slowly, or with transforms that operators refuse by
themselves.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Sequence
from types import NoneType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad as _forward_ad
from torch.nn import Parameter

# Operators without the dispatcher's way through Python hooks of autograd.
BelowAutograd: Any = getattr(torch._C, "_AutoDispatchBelowAutograd", contextlib.nullcontext)

# Whether the backward pass under way may be followed by another through the same graph; None where
# torch does not tell.
graph_is_kept: Callable[[], bool | None] = getattr(
    getattr(torch._C, "_autograd", None), "_get_current_graph_task_keep_graph", lambda: None
)
_functorch: Any = getattr(torch._C, "_functorch", None)
# torch 2.1 has the second name alone.
_functorch_level: Callable[[], Any] = getattr(
    _functorch,
    "maybe_current_level",
    getattr(_functorch, "peek_interpreter_stack", lambda: None),
)
# torch 2.3 fails inside of vmap when it first calls an autograd function.
_functorch_levels: Callable[[], Any] = getattr(
    _functorch if torch.__version__ >= "2.4" else None, "get_interpreter_stack", lambda: None
)
_TransformType = getattr(_functorch, "TransformType", None)
_BATCH_OR_GRADIENT = (getattr(_TransformType, "Vmap", None), getattr(_TransformType, "Grad", None))
# Who takes care of what autograd saves in its place, or None; the argument is to be True.
saved_tensors_hooks: Callable[[bool], Any] = getattr(
    getattr(torch._C, "_autograd", None), "_top_saved_tensors_default_hooks", lambda ignored: None
)
_is_legacy_batched: Callable[[torch.Tensor], bool] = getattr(
    _functorch, "is_legacy_batchedtensor", lambda tensor: True
)
_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
# Those without a behaviour of their own.
PLAIN_TENSORS = (Tensor, Parameter)
_PLAIN = frozenset({Tensor, Parameter, NoneType, tuple, list, bool, int, float})

_cuda_stream: Callable[[int], int] = getattr(
    torch._C,
    "_cuda_getCurrentRawStream",
    lambda index: torch.cuda.current_stream(index).cuda_stream,
)

_Function = TypeVar("_Function", bound=Callable[..., Any])


def constant_for_compilers(function: _Function) -> _Function:
    """What `torch.compiler.assume_constant_result` does, without importing the compiler."""
    # Functions take any attribute; their type does not say so.
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant_for_compilers
def guards_scalars() -> bool:
    """Whether compilers know guard_scalar(), as that of torch 2.5 does not."""
    try:
        from torch._dynamo.trace_rules import manual_torch_name_rule_map
    except ImportError:
        return False
    return "torch.fx.experimental.symbolic_shapes.guard_scalar" in manual_torch_name_rule_map


def beyond_old_compilers(function: _Function) -> _Function:
    """A function that compilers leave to eager mode where they can't trace our operators.

    Before torch 2.4 they would trace what is around the operators, and stop at many places.
    """
    if hasattr(torch.library, "register_fake"):
        return function
    disabled: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def outside(*arguments: Any, **named: Any) -> Any:
        if "torch._dynamo" not in sys.modules:  # its import takes a second
            return function(*arguments, **named)
        if not disabled:
            disabled.append(torch._dynamo.disable(function))  # type: ignore[no-untyped-call]
        return disabled[0](*arguments, **named)

    return cast(_Function, outside)


def sees_operators(arguments: Sequence[Any]) -> bool:
    """Whether a subclass of Tensor, a mode or a tracer wants to see an operator with these."""
    return _modes() > 0 or is_jit_tracing() or not _PLAIN.issuperset(map(type, arguments))


def is_traced(gradient: Tensor) -> bool:
    """Whether a subclass of Tensor or a mode takes note of what becomes of a tensor."""
    return type(gradient) is not Tensor or _modes() > 0


# Whether torch.jit.trace is under way.
is_jit_tracing: Callable[[], bool] = getattr(torch._C, "_is_tracing", lambda: False)


def cuda_stream(index: int) -> int:
    """The address of a device's current stream."""
    return _cuda_stream(index)


@constant_for_compilers
def is_transformed() -> bool:
    """Whether forward-mode differentiation or a transform of torch.func is under way."""
    return getattr(_forward_ad, "_current_level", -1) >= 0 or _functorch_level() is not None


@constant_for_compilers
def is_forward_mode() -> bool:
    """Whether one of the transforms under way is more than a batch or a gradient."""
    if getattr(_forward_ad, "_current_level", -1) >= 0:
        return True
    # None where nothing is under way, and before torch 2.4, which is not asked what is.
    levels = _functorch_levels() or ([] if _functorch_level() is None else [None])
    return any(level is None or level.key() not in _BATCH_OR_GRADIENT for level in levels)


def is_batched(tensor: torch.Tensor) -> bool:
    """Whether it stands for many, or may, as incoming gradients do under `is_grads_batched=True`."""
    return is_transformed() or _is_legacy_batched(tensor)


# ---- public in newer versions -------------------------------------------------------------------

Library: Any = torch.library.Library  # which has no types
_definitions = Library("fused_ssim", "FRAGMENT")  # kept: they live as long as it does

# Whether a compiler traces what is running.
is_compiling: Callable[[], bool] = getattr(torch.compiler, "is_compiling", lambda: False)


def define(schema: str, compute: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """A new operator of Python for every device."""
    name = schema.partition("(")[0]
    _definitions.define(schema)
    _definitions.impl(name, compute, "CompositeExplicitAutograd")
    register_fake(name, fake)


def register_fake(name: str, fake: Callable[..., Any]) -> None:
    """What an operator of ours gives, shapes and dtypes alone."""
    if hasattr(torch.library, "register_fake"):
        torch.library.register_fake(f"fused_ssim::{name}", fake)
    else:
        _definitions.impl(name, fake, "Meta")


def register_autograd(
    name: str, setup_context: Callable[..., None], backward: Callable[..., Any]
) -> None:
    """How an operator of ours is differentiated."""
    if hasattr(torch.library, "register_autograd"):
        torch.library.register_autograd(
            f"fused_ssim::{name}", backward, setup_context=setup_context
        )
        return
    operator = getattr(torch.ops.fused_ssim, name).default

    def forward(ctx: Any, *arguments: Any) -> Any:
        with BelowAutograd():
            output = operator(*arguments)
        setup_context(ctx, arguments, output)
        return output

    function: Any = type(
        name,
        (torch.autograd.Function,),
        {"forward": staticmethod(forward), "backward": staticmethod(backward)},
    )
    _definitions.impl(name, lambda *arguments: function.apply(*arguments), "Autograd")
