"""Loads the compiled libraries, which registers the operators `torch.ops.fused_ssim.*`.

`_C` brings libfused_ssim: schemas and CPU kernels. libfused_ssim_cuda holds the CUDA kernels and is
loaded only beside a torch that has CUDA. Nothing here touches a GPU.
"""

from __future__ import annotations

import ctypes
import sys
import warnings
from pathlib import Path
from typing import NamedTuple, TypedDict

import torch  # first: the libraries below need libtorch in the process

_MINIMUM_TORCH = "2.10"

if torch.__version__ < _MINIMUM_TORCH:  # a TorchVersion: compares as versions, not as strings
    raise ImportError(
        f"fused_ssim needs torch >= {_MINIMUM_TORCH}, but torch {torch.__version__} is installed: "
        "upgrade it with `pip install --upgrade torch`"
    )

try:
    from fused_ssim import _C
except ImportError as error:
    raise ImportError(
        f"fused_ssim's compiled library does not load beside torch {torch.__version__}: {error}. "
        "If you are in the source folder, install the package first (`pip install .`); otherwise "
        "reinstall it with `pip install --force-reinstall --no-deps fused-ssim`"
    ) from error


class BuildFacts(TypedDict):
    """What `_C.build_facts()` returns; fused_ssim/build_facts.h explains the fields."""

    version: str
    compiler: str
    torch_version: str
    torch_minimum: str
    cpu_levels_compiled: str
    cpu_levels_supported: str
    cpu_level_active: str
    cpu_level_error: str | None
    cuda_toolkit: str | None
    cuda_architectures: str | None


class CudaLibrary(NamedTuple):
    """Whether libfused_ssim_cuda is in the process and, if it is not, why."""

    loaded: bool
    reason: str


def _cuda_library_path() -> Path:
    name = {
        "win32": "fused_ssim_cuda.dll",
        "darwin": "libfused_ssim_cuda.dylib",
    }.get(sys.platform, "libfused_ssim_cuda.so")
    # Beside `_C`, which in an editable install does not lie beside this file.
    return Path(_C.__file__).with_name(name)


def _load_cuda_library() -> CudaLibrary:
    path = _cuda_library_path()
    if not path.exists():
        return CudaLibrary(False, "this installation of fused_ssim was built without CUDA")
    if torch.version.cuda is None:
        return CudaLibrary(False, f"torch {torch.__version__} has no CUDA")
    try:
        ctypes.CDLL(str(path))  # registers the CUDA kernels
    except OSError as error:
        # A CPU that works is worth more than an import that fails.
        # torch names the file; what the loader said is behind that.
        reason = f"{path.name} does not load: {error.__cause__ or error}"
        warnings.warn(
            f"fused_ssim runs on the CPU only, because {reason} (`python -m fused_ssim info` says "
            "what to do)",
            RuntimeWarning,
            stacklevel=2,
        )
        return CudaLibrary(False, reason)
    return CudaLibrary(True, "loaded")


build_facts: BuildFacts = _C.build_facts()
cuda_library: CudaLibrary = _load_cuda_library()
__version__: str = build_facts["version"]

if build_facts["cpu_level_error"] is not None:
    warnings.warn(build_facts["cpu_level_error"], RuntimeWarning, stacklevel=2)
