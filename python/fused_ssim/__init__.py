"""Fused, differentiable SSIM for PyTorch, on the CPU and in CUDA.

>>> from fused_ssim import fused_ssim
>>> loss = 1 - fused_ssim(rendered, photograph)  # [B, C, H, W], in [0, 1]

Importing the package imports no torch; the first use of a function does.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from fused_ssim._library import __version__

if TYPE_CHECKING:
    from fused_ssim import functional as functional
    from fused_ssim import modules as modules
    from fused_ssim._build_info import BuildInfo, GpuInfo, build_info
    from fused_ssim.functional import (
        FusedSSIMMap,
        allowed_padding,
        fused_l1_ssim_loss,
        fused_ssim,
        fused_ssim3d,
        is_3D_supported,
        l1_ssim_loss,
        ms_ssim,
        ssim,
        ssim_and_mse,
    )
    from fused_ssim.modules import MS_SSIM, SSIM, L1SSIMLoss

__all__ = [
    "MS_SSIM",
    "SSIM",
    "BuildInfo",
    "FusedSSIMMap",
    "GpuInfo",
    "L1SSIMLoss",
    "__version__",
    "allowed_padding",
    "build_info",
    "fused_l1_ssim_loss",
    "fused_ssim",
    "fused_ssim3d",
    "is_3D_supported",
    "l1_ssim_loss",
    "ms_ssim",
    "ssim",
    "ssim_and_mse",
]

_SUBMODULES = ("functional", "modules")
_MODULES = {
    **dict.fromkeys(("BuildInfo", "GpuInfo", "build_info"), "_build_info"),
    **dict.fromkeys(("MS_SSIM", "SSIM", "L1SSIMLoss"), "modules"),
}


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'functional')}")
    value = getattr(module, name)
    globals()[name] = value  # the next use finds it at once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})


if "torch" in sys.modules:
    # torch.ops.fused_ssim is there at once for who loads a model that calls its operators.
    importlib.import_module("fused_ssim._autograd")
