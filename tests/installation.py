"""Installations of the package that the tests of the build take apart and run."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import torch

from fused_ssim import _C

ROOT = Path(__file__).resolve().parent.parent
COMPILED = Path(_C.__file__).parent
"""Where this installation's libraries are; in an editable one, not where the Python files are."""
PACKAGE = Path(importlib.import_module("fused_ssim").__file__).parent
DEPENDENCIES = Path(torch.__file__).parent.parent
(VERSION,) = re.findall('^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
"""The project's version; an installed wheel may have a local part beside it: 0.1.0+cu130."""

# For tests of packaging: kernels of one instruction set, without those of short windows, are compiled in a
# minute instead of six.
QUICK_BUILD = {
    "CMAKE_ARGS": "-DFUSED_SSIM_COMPILER_HAS_AVX2=OFF -DFUSED_SSIM_COMPILER_HAS_AVX512=OFF",
    "CXXFLAGS": "-DFUSED_SSIM_FEW_WINDOWS",
}


def libraries(folder: Path = COMPILED) -> dict[str, Path]:
    """The shared libraries in a folder by their plain names: "libfused_ssim", "_C"."""
    return {path.name.split(".")[0]: path for path in folder.glob("*.so")}


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without what would change how the package loads or builds.

    The programs of this Python's environment come first, whether it was activated or not.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FUSED_SSIM_", "PYTHON", "CMAKE_", "SKBUILD_"))
        and name not in {"TORCH_CUDA_ARCH_LIST", "CF_TORCH_CUDA_ARCH_LIST", "CUDAARCHS"}
    }
    path = os.pathsep.join([os.path.dirname(sys.executable), kept.get("PATH", os.defpath)])
    return {**kept, "PATH": path, **variables}


def run_python(
    code: str, *, python: str = sys.executable, flags: tuple[str, ...] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs code in a new interpreter, and fails with its output where it fails."""
    done = subprocess.run(
        [python, *flags, "-c", code],
        check=False,  # below, with the output
        capture_output=True,
        text=True,
        env=environment(**variables),
        cwd=os.path.dirname(python),  # not a folder of the source tree
        timeout=300,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def project_version() -> str:
    return importlib.metadata.version("fused-ssim")
