"""Loads the libraries that register `torch.ops.fused_ssim.*`, and names the operators.

libfused_ssim has the schemas and the CPU kernels; libfused_ssim_cuda the CUDA kernels, and is loaded
only beside a torch that has CUDA. Nothing here touches a GPU.
"""

from __future__ import annotations

import ctypes
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch  # first: the libraries below need libtorch in the process

from fused_ssim import _C

_MINIMUM_TORCH = "2.10"
_STANDARD_SIZE = 11  # where no window is given

if torch.__version__ < _MINIMUM_TORCH:  # a TorchVersion: compares as versions, not as strings
    raise ImportError(
        f"fused_ssim needs torch >= {_MINIMUM_TORCH}, but torch {torch.__version__} is installed: "
        "upgrade it with `pip install --upgrade torch`"
    )


class BuildFacts(ctypes.Structure):
    """How libfused_ssim was built; fused_ssim/build_facts.h explains the fields."""

    _fields_ = [
        (name, ctypes.c_char_p)
        for name in (
            "version",
            "compiler",
            "torch_version",
            "torch_minimum",
            "cpu_levels_compiled",
            "cpu_levels_supported",
            "cpu_level_active",
            "cpu_level_error",
            "cuda_toolkit",
            "cuda_architectures",
        )
    ]

    def text(self, name: str) -> str | None:
        value: bytes | None = getattr(self, name)
        return None if value is None else value.decode()


class CudaLibrary(NamedTuple):
    """Whether libfused_ssim_cuda is in the process and, if it is not, why."""

    loaded: bool
    reason: str


def _library_path(name: str) -> Path:
    file = {"win32": f"{name}.dll", "darwin": f"lib{name}.dylib"}.get(sys.platform, f"lib{name}.so")
    # Beside `_C`, which in an editable install does not lie beside this file.
    return Path(_C.__file__).with_name(file)


def _load_cpu_library() -> BuildFacts:
    path = _library_path("fused_ssim")
    try:
        library = ctypes.CDLL(str(path))  # registers the schemas and the CPU kernels
    except OSError as error:
        raise ImportError(
            f"fused_ssim's compiled library does not load beside torch {torch.__version__}: "
            f"{error}. Reinstall it with `pip install --force-reinstall --no-deps fused-ssim`"
        ) from error
    library.fused_ssim_build_facts.restype = ctypes.POINTER(BuildFacts)
    facts: BuildFacts = library.fused_ssim_build_facts().contents
    return facts


def _load_cuda_library() -> CudaLibrary:
    path = _library_path("fused_ssim_cuda")
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


build_facts: BuildFacts = _load_cpu_library()
cuda_library: CudaLibrary = _load_cuda_library()

ssim = torch.ops.fused_ssim.ssim.default
ssim_and_mse = torch.ops.fused_ssim.ssim_and_mse.default
ssim_map = torch.ops.fused_ssim.ssim_map.default
ssim_map_backward = torch.ops.fused_ssim.ssim_map_backward.default
scale_gradient = torch.ops.fused_ssim.scale_gradient.default
scale_gradient_ = torch.ops.fused_ssim.scale_gradient_.default
ms_ssim = torch.ops.fused_ssim.ms_ssim.default
ms_ssim_backward = torch.ops.fused_ssim.ms_ssim_backward.default
ms_ssim_backward_ = torch.ops.fused_ssim.ms_ssim_backward_.default


def sizes_along_axes(window_sizes: Sequence[int], image: torch.Tensor) -> Sequence[int]:
    """Of an operator's window_sizes, those of the image's spatial axes."""
    axes = image.dim() - 2
    return window_sizes[-axes:] if window_sizes else [_STANDARD_SIZE] * axes


def argument_names(operator: Any) -> tuple[str, ...]:
    """The names of an operator's arguments, in the order of its schema."""
    return tuple(argument.name for argument in operator._schema.arguments)


def named(operator: Any, arguments: Sequence[Any]) -> SimpleNamespace:
    """Arguments by the names of the schema; tracers leave out those that have their defaults."""
    values = {argument.name: argument.default_value for argument in operator._schema.arguments}
    return SimpleNamespace(**values | dict(zip(values, arguments, strict=False)))
