"""Loads what registers `torch.ops.fused_ssim.*`, and names the operators."""

from __future__ import annotations

import os

import torch

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

if by_address:
    from fused_ssim import _address_operators as _way
else:
    from fused_ssim import _library_operators as _way

build_facts = _way.build_facts
cuda_library = _way.cuda_library

ssim = torch.ops.fused_ssim.ssim.default
ssim_and_mse = torch.ops.fused_ssim.ssim_and_mse.default
ssim_map = torch.ops.fused_ssim.ssim_map.default
ssim_map_backward = torch.ops.fused_ssim.ssim_map_backward.default
scale_gradient = torch.ops.fused_ssim.scale_gradient.default
scale_gradient_ = torch.ops.fused_ssim.scale_gradient_.default
ms_ssim = torch.ops.fused_ssim.ms_ssim.default
ms_ssim_backward = torch.ops.fused_ssim.ms_ssim_backward.default
ms_ssim_backward_ = torch.ops.fused_ssim.ms_ssim_backward_.default
