"""What needs no torch: the compiled module `_C`, the CPU kernels behind it, and the version."""

from __future__ import annotations

import warnings
from typing import TypedDict

try:
    from fused_ssim import _C
except ImportError as error:
    raise ImportError(
        f"fused_ssim's compiled library does not load: {error}. If you are in the source folder, "
        "install the package first (`pip install .`); otherwise reinstall it with "
        "`pip install --force-reinstall --no-deps fused-ssim`"
    ) from error


class CpuInfo(TypedDict):
    """What `_C.cpu_info()` returns; FusedSsimCpuInfo in fused_ssim/kernels.h explains the fields."""

    version: str
    levels_compiled: str
    levels_supported: str
    level_active: str
    level_error: str | None


cpu_info: CpuInfo = _C.cpu_info()
__version__: str = cpu_info["version"]

if cpu_info["level_error"] is not None:
    warnings.warn(cpu_info["level_error"], RuntimeWarning, stacklevel=2)
