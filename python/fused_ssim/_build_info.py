"""`fused_ssim.build_info()`: how the package was built, and what this machine can run of it."""

from __future__ import annotations

import ctypes
import dataclasses
import re
from dataclasses import dataclass
from typing import Any

import torch

from fused_ssim import _library


@dataclass(frozen=True)
class GpuInfo:
    """A GPU of this machine, and whether the CUDA kernels run on it."""

    index: int
    name: str
    capability: tuple[int, int]
    covered: bool
    remedy: str | None
    """What to do where the GPU is not covered; None where it is."""


@dataclass(frozen=True)
class BuildInfo:
    """How fused_ssim was built, and what this machine can run of it. `str()` makes a report."""

    version: str
    compiler: str
    torch_built: str
    """The torch whose headers were used; any torch >= `torch_minimum` will do at run time."""
    torch_minimum: str
    torch_running: str
    cpu_levels_compiled: tuple[str, ...]
    """Instruction sets that the CPU kernels were compiled for."""
    cpu_levels_supported: tuple[str, ...]
    """Those of them that this machine can run."""
    cpu_level: str
    """The one in use: the highest, or the one that FUSED_SSIM_CPU_LEVEL names."""
    cpu_level_error: str | None
    """Why FUSED_SSIM_CPU_LEVEL was not followed; None where it was, or is not set."""
    cuda_built: bool
    """Whether the build included the CUDA kernels."""
    cuda_toolkit: str | None
    cuda_architectures: tuple[str, ...]
    """`sm_XY`: binary code for one architecture; `compute_XY`: PTX, which newer GPUs compile."""
    cuda_loaded: bool
    cuda_status: str
    """"loaded", or why the CUDA kernels are not."""
    gpus: tuple[GpuInfo, ...]
    backends: tuple[str, ...]
    """What runs here: "cpu", and "cuda" where at least one GPU is covered."""

    def as_dict(self) -> dict[str, Any]:
        """The same as plain dicts, tuples and strings, for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        rows = [
            ("fused_ssim", f"{self.version}, built with {self.compiler}"),
            ("torch", f"{self.torch_running} (built against {self.torch_built})"),
            ("torch needed", f"{self.torch_minimum} or newer"),
            ("backends here", ", ".join(self.backends)),
            ("CPU level", f"{self.cpu_level} (compiled: {', '.join(self.cpu_levels_compiled)})"),
        ]
        if self.cpu_level_error is not None:
            rows.append(("", self.cpu_level_error))
        if self.cuda_built:
            rows.append(("CUDA built", f"{self.cuda_toolkit}: {' '.join(self.cuda_architectures)}"))
        rows.append(("CUDA kernels", self.cuda_status))
        for gpu in self.gpus:
            major, minor = gpu.capability
            covered = "covered" if gpu.covered else f"not covered: {gpu.remedy}"
            rows.append((f"GPU {gpu.index}", f"{gpu.name}, compute {major}.{minor}, {covered}"))
        return "\n".join(f"{name:<14} {text}".rstrip() for name, text in rows)


def covers(architectures: tuple[str, ...], capability: tuple[int, int]) -> bool:
    """Whether code for `architectures` runs on a GPU of this compute capability.

    A cubin runs on GPUs of its major version with at least its minor; PTX on anything not older.
    Names that end in "a" run on exactly that architecture, in "f" on its family.
    """
    major, minor = capability
    for architecture in architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", architecture)
        if match is None:
            continue
        kind, suffix = match[1], match[4]
        built = (int(match[2]), int(match[3]))
        if suffix == "a":
            covered = built == capability
        elif kind == "sm" or suffix == "f":
            covered = built[0] == major and built[1] <= minor
        else:
            covered = built <= capability
        if covered:
            return True
    return False


def _driver_cuda_version() -> tuple[int, int] | None:
    """The newest CUDA that the installed driver serves; None where there is no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        version = ctypes.c_int(0)
        if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return version.value // 1000, version.value % 1000 // 10


def _remedy(
    capability: tuple[int, int],
    architectures: tuple[str, ...],
    toolkit: str | None,
    driver: tuple[int, int] | None,
) -> str | None:
    """What to do so that CUDA kernels run on such a GPU; None where they do."""
    number = f"{capability[0]}.{capability[1]}"
    build = (
        f'TORCH_CUDA_ARCH_LIST="{number}" FUSED_SSIM_CUDA=ON '
        "pip install --no-build-isolation --no-binary fused-ssim --force-reinstall --no-deps "
        "fused-ssim"
    )
    if toolkit is None:
        return f"build fused_ssim where nvcc is installed: {build}"
    if not covers(architectures, capability):
        return f"build fused_ssim for this architecture: {build}"
    if driver is not None and driver[0] < int(toolkit.split(".")[0]):
        return (
            f"the driver serves CUDA {driver[0]}.{driver[1]}, the kernels were built with CUDA "
            f"{toolkit}: update the driver, or build with an older toolkit: {build}"
        )
    return None


def _gpus(architectures: tuple[str, ...], toolkit: str | None) -> tuple[GpuInfo, ...]:
    if torch.version.cuda is None or not torch.cuda.is_available():
        return ()
    driver = _driver_cuda_version()
    gpus = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = (properties.major, properties.minor)
        remedy = _remedy(capability, architectures, toolkit, driver)
        gpus.append(GpuInfo(index, properties.name, capability, remedy is None, remedy))
    return tuple(gpus)


def build_info() -> BuildInfo:
    """How fused_ssim was built, and what this machine can run of it.

    Asks torch for the machine's GPUs, which importing fused_ssim never does.
    """
    facts = _library.build_facts
    architectures = tuple((facts["cuda_architectures"] or "").split())
    gpus = _gpus(architectures, facts["cuda_toolkit"])
    usable = _library.cuda_library.loaded and any(gpu.covered for gpu in gpus)
    return BuildInfo(
        version=facts["version"],
        compiler=facts["compiler"],
        torch_built=facts["torch_version"],
        torch_minimum=facts["torch_minimum"],
        torch_running=str(torch.__version__),
        cpu_levels_compiled=tuple(facts["cpu_levels_compiled"].split()),
        cpu_levels_supported=tuple(facts["cpu_levels_supported"].split()),
        cpu_level=facts["cpu_level_active"],
        cpu_level_error=facts["cpu_level_error"],
        cuda_built=facts["cuda_toolkit"] is not None,
        cuda_toolkit=facts["cuda_toolkit"],
        cuda_architectures=architectures,
        cuda_loaded=_library.cuda_library.loaded,
        cuda_status=_library.cuda_library.reason,
        gpus=gpus,
        backends=("cpu", "cuda") if usable else ("cpu",),
    )
