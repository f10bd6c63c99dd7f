"""The private names of torch that the package profits from.

A torch without them works: more slowly, or with transforms that operators refuse by themselves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import torch

# Operators without the dispatcher's way through Python hooks of autograd.
BelowAutograd: Any = getattr(torch._C, "_AutoDispatchBelowAutograd", contextlib.nullcontext)

_keep_graph: Callable[[], bool] = getattr(
    getattr(torch._C, "_autograd", None), "_get_current_graph_task_keep_graph", lambda: True
)
_functorch = getattr(torch._C, "_functorch", None)
_functorch_level: Callable[[], Any] = getattr(_functorch, "maybe_current_level", lambda: None)
_is_legacy_batched: Callable[[torch.Tensor], bool] = getattr(
    _functorch, "is_legacy_batchedtensor", lambda tensor: False
)


_Function = TypeVar("_Function", bound=Callable[..., Any])


def constant_for_compilers(function: _Function) -> _Function:
    """What `torch.compiler.assume_constant_result` does, without importing the compiler."""
    # Functions take any attribute; their type does not say so.
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def graph_is_kept() -> bool:
    """Whether the backward pass under way may be followed by another through the same graph."""
    return bool(_keep_graph())


def is_transformed() -> bool:
    """Whether forward-mode differentiation or a transform of torch.func is under way."""
    return (
        getattr(torch.autograd.forward_ad, "_current_level", -1) >= 0
        or _functorch_level() is not None
    )


def is_batched(tensor: torch.Tensor) -> bool:
    """Whether it stands for many, as incoming gradients do under `is_grads_batched=True`."""
    return is_transformed() or _is_legacy_batched(tensor)
