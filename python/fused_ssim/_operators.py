"""Loads what registers `torch.ops.fused_ssim.*`, and names the operators."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from fused_ssim._library import BuildFacts, CudaLibrary

MINIMUM_TORCH = "2.1"
_MINIMUM_TORCH_OF_LIBRARY = "2.10"

if torch.__version__ < MINIMUM_TORCH:  # a TorchVersion: compares as versions, not as strings
    raise ImportError(
        f"fused_ssim needs torch >= {MINIMUM_TORCH}, but torch {torch.__version__} is installed: "
        "upgrade it with `pip install --upgrade torch`"
    )

by_address = (
    torch.__version__ < _MINIMUM_TORCH_OF_LIBRARY
    # For tests and comparisons.
    or os.environ.get("FUSED_SSIM_BY_ADDRESS", "") not in ("", "0")
)
"""Whether the operators are Python's, over the C interface, instead of libfused_ssim's."""

_way: Any = importlib.import_module(
    "fused_ssim." + ("_address_operators" if by_address else "_library_operators")
)
build_facts: BuildFacts = _way.build_facts
cuda_library: CudaLibrary = _way.cuda_library

ssim = torch.ops.fused_ssim.ssim.default
ssim_and_mse = torch.ops.fused_ssim.ssim_and_mse.default
ssim_map = torch.ops.fused_ssim.ssim_map.default
ssim_map_backward = torch.ops.fused_ssim.ssim_map_backward.default
scale_gradient = torch.ops.fused_ssim.scale_gradient.default
scale_gradient_ = torch.ops.fused_ssim.scale_gradient_.default
ms_ssim = torch.ops.fused_ssim.ms_ssim.default
ms_ssim_backward = torch.ops.fused_ssim.ms_ssim_backward.default
ms_ssim_backward_ = torch.ops.fused_ssim.ms_ssim_backward_.default


ask_for_lacking_memory = _way.ask_for_lacking_memory


def _reporting(operator: Callable[..., Any]) -> Callable[..., Any]:
    """The operator, with torch's own error where memory is lacking."""

    def reporting(*arguments: Any) -> Any:
        try:
            return operator(*arguments)
        except RuntimeError as error:
            ask_for_lacking_memory(error)
            raise

    return reporting


# What eager mode calls, which has checked the arguments. Who calls the first two looks after memory
# itself; the second takes none. What becomes of batches of incoming gradients, the dispatcher knows.
eager = SimpleNamespace(
    ssim=_way.eager(ssim),
    ssim_and_mse=_reporting(_way.eager(ssim_and_mse)),
    ssim_map=_reporting(_way.eager(ssim_map)),
    ssim_map_backward=_reporting(_way.eager(ssim_map_backward)),
    scale_gradient=_reporting(scale_gradient),
    scale_gradient_=_way.eager(scale_gradient_),
    ms_ssim=_reporting(_way.eager(ms_ssim)),
    ms_ssim_backward=_reporting(ms_ssim_backward),
    ms_ssim_backward_=_way.eager(ms_ssim_backward_),
)
