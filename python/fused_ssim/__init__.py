"""Fused, differentiable SSIM for PyTorch, on the CPU and in CUDA.

>>> from fused_ssim import fused_ssim
>>> loss = 1 - fused_ssim(rendered, photograph)  # [B, C, H, W], in [0, 1]
"""

from fused_ssim._build_info import BuildInfo, GpuInfo, build_info
from fused_ssim._library import __version__
from fused_ssim.functional import (
    FusedSSIMMap,
    allowed_padding,
    fused_l1_ssim_loss,
    fused_ssim,
    l1_ssim_loss,
    ssim,
)
from fused_ssim.modules import SSIM, L1SSIMLoss

__all__ = [
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
    "l1_ssim_loss",
    "ssim",
]
