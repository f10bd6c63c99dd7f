"""The operators as libfused_ssim registers them, over the stable ABI of torch 2.10 and newer.

libfused_ssim has the schemas and the CPU kernels; libfused_ssim_cuda the CUDA kernels, and is loaded
only beside a torch that has CUDA. Nothing here touches a GPU.
"""

from __future__ import annotations

import ctypes
import re
from typing import Any

import torch  # first: the libraries below need libtorch in the process

from fused_ssim._library import BuildFacts, CudaLibrary, cuda_does_not_load, library_path


class _Facts(ctypes.Structure):
    """FusedSsimBuildFacts of fused_ssim/build_facts.h."""

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


def _load_cpu_library() -> BuildFacts:
    path = library_path("fused_ssim")
    try:
        library = ctypes.CDLL(str(path))  # registers the schemas and the CPU kernels
    except OSError as error:
        raise ImportError(
            f"fused_ssim's compiled library does not load beside torch {torch.__version__}: "
            f"{error}. Reinstall it with `pip install --force-reinstall --no-deps fused-ssim`"
        ) from error
    library.fused_ssim_build_facts.restype = ctypes.POINTER(_Facts)
    facts = library.fused_ssim_build_facts().contents
    texts = {
        name: None if (value := getattr(facts, name)) is None else value.decode()
        for name in BuildFacts._fields
    }
    return BuildFacts(**texts)


def _load_cuda_library() -> CudaLibrary:
    path = library_path("fused_ssim_cuda")
    if not path.exists():
        return CudaLibrary(False, "this installation of fused_ssim was built without CUDA")
    if torch.version.cuda is None:
        return CudaLibrary(False, f"torch {torch.__version__} has no CUDA")
    try:
        ctypes.CDLL(str(path))  # registers the CUDA kernels
    except OSError as error:
        # torch names the file; what the loader said is behind that.
        return cuda_does_not_load(path, error.__cause__ or error)
    return CudaLibrary(True, "loaded")


# fail_to_allocate() in src/torch/operators.h.
_NO_MEMORY = re.compile(r"got no (\d+) bytes on (cpu|cuda:\d+)")


def ask_for_lacking_memory(error: RuntimeError) -> None:
    """Raises torch's own error where an operator has got no memory for a result."""
    refused = _NO_MEMORY.search(str(error))
    if refused is not None:
        torch.empty(int(refused[1]), dtype=torch.uint8, device=refused[2])


def eager(operator: Any) -> Any:
    """The operator itself: its kernels are a step below the dispatcher."""
    return operator


build_facts: BuildFacts = _load_cpu_library()
cuda_library: CudaLibrary = _load_cuda_library()
