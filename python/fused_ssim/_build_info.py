"""`fused_ssim.build_info()`: how the package was built, and what this machine can run of it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from dataclasses import dataclass
from typing import Any

import torch

from fused_ssim import _library, _operators
from fused_ssim._cuda_driver import cuda_driver
from fused_ssim._verdict import Gpu, Situation, build_problem, verdict


@dataclass(frozen=True)
class GpuInfo:
    """A GPU that torch can use, and whether the CUDA kernels run on it."""

    index: int
    name: str
    capability: tuple[int, int]
    covered: bool
    remedy: str | None
    """Why the GPU is not covered and what to do; None where it is."""


@dataclass(frozen=True)
class BuildInfo:
    """How fused_ssim was built, and what this machine can run of it. `str()` makes a report."""

    version: str
    compiler: str
    torch_built: str | None
    """The torch whose headers libfused_ssim was built with; None where that is not in use. Any torch
    >= `torch_minimum` will do at run time."""
    torch_minimum: str
    torch_running: str
    operators: str
    """Who registers the operators with torch: "libfused_ssim", or "Python, by addresses" beside a
    torch older than 2.10 and where FUSED_SSIM_BY_ADDRESS=1 is in the environment."""
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
    in_pytorch: tuple[str, ...]
    """What of docs/pytorch.md works beside this torch."""
    verdict: str
    """One line: whether this build serves this machine, and if not, what to do."""

    def as_dict(self) -> dict[str, Any]:
        """The same as plain dicts, tuples and strings, for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        built = "" if self.torch_built is None else f" (built against {self.torch_built})"
        rows = [
            ("fused_ssim", f"{self.version}, built with {self.compiler}"),
            ("torch", f"{self.torch_running}{built}"),
            ("torch needed", f"{self.torch_minimum} or newer"),
            ("operators", self.operators),
            ("in PyTorch", ", ".join(self.in_pytorch)),
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
        rows.append(("verdict", self.verdict))
        return "\n".join(f"{name:<14} {text}".rstrip() for name, text in rows)


_IN_PYTORCH = (
    ("second derivatives", "2.1"),
    ("torch.func", "2.1"),
    ("autocast", "2.1"),
    ("CUDA graphs", "2.1"),
    ("DDP", "2.1"),
    ("torch.compile", "2.4"),
    ("torch.export", "2.4"),
    ("DTensor", "2.5"),
    ("AOTInductor", "2.6"),
    ("FSDP2", "2.9"),
)
"""Feature -> the oldest torch that it works with; docs/pytorch.md has the details and the tests."""


def _wheel_index() -> str | None:
    """The index of released wheels, as pyproject.toml names it; None before the first release."""
    try:
        entries = importlib.metadata.metadata("fused-ssim").get_all("Project-URL")
    except importlib.metadata.PackageNotFoundError:  # the files alone, copied by hand
        return None
    for entry in entries or ():
        label, _, url = str(entry).partition(",")
        if label.strip().lower() == "index":
            return url.strip()
    return None


def _torch_gpus() -> tuple[Gpu, ...]:
    if torch.version.cuda is None or not torch.cuda.is_available():
        return ()
    properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return tuple(Gpu(i, gpu.name, (gpu.major, gpu.minor)) for i, gpu in enumerate(properties))


def build_info() -> BuildInfo:
    """How fused_ssim was built, and what this machine can run of it.

    Asks torch and the driver for the machine's GPUs, which importing fused_ssim never does.
    """
    facts = _operators.build_facts
    situation = Situation(
        toolkit=facts.cuda_toolkit,
        architectures=tuple((facts.cuda_architectures or "").split()),
        loaded=_operators.cuda_library.loaded,
        status=_operators.cuda_library.reason,
        cpu_level=_library.cpu_info["level_active"],
        torch=str(torch.__version__),
        torch_cuda=torch.version.cuda,
        torch_gpus=_torch_gpus(),
        driver=cuda_driver(),
        index=_wheel_index(),
    )
    return assemble(situation)


def assemble(situation: Situation) -> BuildInfo:
    """The report on a situation; separate from the machine's own, for tests."""
    facts = _operators.build_facts
    cpu = _library.cpu_info
    gpus = []
    for gpu in situation.torch_gpus:
        problem = build_problem(situation, gpu.capability)
        remedy = None if problem is None else f"{problem.reason}: {problem.remedy}"
        gpus.append(GpuInfo(gpu.index, gpu.name, gpu.capability, problem is None, remedy))
    return BuildInfo(
        version=_library.__version__,
        compiler=facts.compiler or "unknown",
        torch_built=facts.torch_version,
        torch_minimum=_operators.MINIMUM_TORCH,
        torch_running=situation.torch,
        in_pytorch=tuple(name for name, oldest in _IN_PYTORCH if torch.__version__ >= oldest),
        operators="Python, by addresses" if _operators.by_address else "libfused_ssim",
        cpu_levels_compiled=tuple(cpu["levels_compiled"].split()),
        cpu_levels_supported=tuple(cpu["levels_supported"].split()),
        cpu_level=situation.cpu_level,
        cpu_level_error=cpu["level_error"],
        cuda_built=situation.toolkit is not None,
        cuda_toolkit=situation.toolkit,
        cuda_architectures=situation.architectures,
        cuda_loaded=situation.loaded,
        cuda_status=situation.status,
        gpus=tuple(gpus),
        backends=("cpu", "cuda") if any(gpu.covered for gpu in gpus) else ("cpu",),
        verdict=verdict(situation),
    )
