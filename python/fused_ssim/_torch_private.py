"""The private names of torch that the package profits from. A torch without them works, slower."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

# Operators without the dispatcher's way through Python hooks of autograd.
BelowAutograd: Any = getattr(torch._C, "_AutoDispatchBelowAutograd", contextlib.nullcontext)

_keep_graph: Callable[[], bool] = getattr(
    getattr(torch._C, "_autograd", None), "_get_current_graph_task_keep_graph", lambda: True
)
_unpack_dual: Callable[[torch.Tensor], Any] = torch.autograd.forward_ad.unpack_dual


def graph_is_kept() -> bool:
    """Whether the backward pass under way may be followed by another through the same graph."""
    return bool(_keep_graph())


def has_tangent(*tensors: torch.Tensor) -> bool:
    """Whether forward-mode differentiation is under way and follows one of the tensors."""
    if getattr(torch.autograd.forward_ad, "_current_level", 0) < 0:
        return False
    return any(_unpack_dual(tensor).tangent is not None for tensor in tensors)
