"""What needs no torch: the compiled module `_C`, the CPU kernels behind it, and the version."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import NamedTuple, TypedDict

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
    compiler: str
    levels_compiled: str
    levels_supported: str
    level_active: str
    level_error: str | None


cpu_info: CpuInfo = _C.cpu_info()
__version__: str = cpu_info["version"]

if cpu_info["level_error"] is not None:
    warnings.warn(cpu_info["level_error"], RuntimeWarning, stacklevel=2)


class BuildFacts(NamedTuple):
    """How the libraries were built; None for what a build does not have."""

    compiler: str | None
    torch_version: str | None
    """The torch whose headers were used."""
    cuda_toolkit: str | None
    cuda_architectures: str | None


class CudaLibrary(NamedTuple):
    """Whether the CUDA kernels are in the process and, if they are not, why."""

    loaded: bool
    reason: str


def library_path(name: str) -> Path:
    file = {"win32": f"{name}.dll", "darwin": f"lib{name}.dylib"}.get(sys.platform, f"lib{name}.so")
    # Beside `_C`, which in an editable install does not lie beside this file.
    return Path(_C.__file__).with_name(file)


def cuda_does_not_load(path: Path, error: BaseException) -> CudaLibrary:
    """With a warning: a CPU that works is worth more than an import that fails."""
    reason = f"{path.name} does not load: {error}"
    warnings.warn(
        f"fused_ssim runs on the CPU only, because {reason} (`python -m fused_ssim info` says "
        "what to do)",
        RuntimeWarning,
        stacklevel=3,
    )
    return CudaLibrary(False, reason)
