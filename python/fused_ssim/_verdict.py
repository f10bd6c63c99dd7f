"""One sentence: does this build serve this machine's GPU, driver and torch, and if not, what to do?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fused_ssim._cuda_driver import CudaDriver

MINIMUM_DRIVER = {11: "450.80", 12: "525", 13: "580"}
"""Major version of the CUDA toolkit -> the oldest driver that serves it."""


class ReleasedSet(NamedTuple):
    """What a set of released wheels serves."""

    local: str
    """Its local version, which also names its page of the index; "" for the set on PyPI."""
    oldest_capability: tuple[int, int]
    toolkit_major: int


RELEASED_SETS = (
    ReleasedSet("", (7, 5), 12),
    ReleasedSet("cu126", (7, 0), 12),
    ReleasedSet("cu118", (7, 0), 11),
)
"""In order of preference; a test holds them against the table of the wheels that are made."""


class Problem(NamedTuple):
    """Why CUDA kernels do not run, and what to do."""

    reason: str
    remedy: str


@dataclass(frozen=True)
class Gpu:
    index: int
    name: str
    capability: tuple[int, int]

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.name}, compute {_dotted(self.capability)})"


@dataclass(frozen=True)
class Situation:
    """What the verdict depends on."""

    toolkit: str | None
    """The CUDA toolkit of this build; None where it has no CUDA kernels."""
    architectures: tuple[str, ...]
    loaded: bool
    """Whether the CUDA kernels are in the process."""
    status: str
    """If they are not, why."""
    cpu_level: str
    torch: str
    torch_cuda: str | None
    torch_gpus: tuple[Gpu, ...]
    """Those that torch can use."""
    driver: CudaDriver | None
    index: str | None
    """Where released wheels are, apart from PyPI; None before the first release."""

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """Those of the machine, whether torch can use them or not."""
        if self.torch_gpus or self.driver is None:
            return self.torch_gpus
        return tuple(Gpu(i, gpu.name, gpu.capability) for i, gpu in enumerate(self.driver.gpus))


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


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


def _other_build(at: Situation, capability: tuple[int, int]) -> str:
    """How to get a build that serves a GPU of this capability under this driver."""
    # A driver that is too old for all of them has to be updated anyway.
    served = max(at.driver.cuda[0] if at.driver else min(MINIMUM_DRIVER), min(MINIMUM_DRIVER))
    if at.index is not None:
        for wheels in RELEASED_SETS:
            if capability >= wheels.oldest_capability and served >= wheels.toolkit_major:
                page = (
                    f" --index-url {at.index.rstrip('/')}/{wheels.local}/" if wheels.local else ""
                )
                return f"run `pip install --force-reinstall --no-deps fused-ssim{page}`"
    return (
        f"where nvcc of CUDA {served} or older is installed, run `FUSED_SSIM_CUDA=ON "
        f'TORCH_CUDA_ARCH_LIST="{_dotted(capability)}" pip install --force-reinstall --no-deps .` '
        "in fused_ssim's source folder"
    )


def _other_torch(at: Situation) -> str:
    new = (
        at.driver is not None
        and at.driver.cuda[0] >= 13
        and all(gpu.capability >= (7, 5) for gpu in at.gpus)
    )
    old = at.driver is not None and at.driver.cuda[0] == 11
    page = "cu130" if new else "cu118" if old else "cu126"
    return (
        "run `pip install --force-reinstall torch --index-url "
        f"https://download.pytorch.org/whl/{page}`"
    )


def _driver_problem(at: Situation, what: str, cuda: str, other: str) -> Problem | None:
    """Why the driver does not serve `what`, which was built with this CUDA; None where it does."""
    major = int(cuda.split(".")[0])
    if at.driver is None or at.driver.cuda[0] >= major or major not in MINIMUM_DRIVER:
        return None
    remedy = f"update the driver to {MINIMUM_DRIVER[major]} or newer"
    if at.driver.cuda[0] >= min(MINIMUM_DRIVER):
        remedy += f", or {other}"
    reason = f"{what} built with CUDA {cuda}, and the driver serves CUDA {_dotted(at.driver.cuda)}"
    return Problem(reason, remedy)


def build_problem(at: Situation, capability: tuple[int, int]) -> Problem | None:
    """Why this build's kernels do not run on a GPU of this capability; None where they do."""
    if at.toolkit is None:
        return Problem("this build has no CUDA kernels", _other_build(at, capability))
    if not covers(at.architectures, capability):
        return Problem(
            f"its kernels are compiled for {' '.join(at.architectures)}, not for compute "
            f"capability {_dotted(capability)}",
            _other_build(at, capability),
        )
    driver_problem = _driver_problem(
        at, "its kernels were", at.toolkit, _other_build(at, capability)
    )
    if driver_problem is not None:
        return driver_problem
    if at.torch_cuda is not None and not at.loaded:
        return Problem(at.status, _other_build(at, capability))
    return None


def _torch_problem(at: Situation) -> Problem | None:
    if at.torch_cuda is None:
        return Problem(f"torch {at.torch} has no CUDA", _other_torch(at))
    if at.torch_gpus:
        return None
    driver_problem = _driver_problem(at, f"torch {at.torch} was", at.torch_cuda, _other_torch(at))
    if driver_problem is not None:
        return driver_problem
    return Problem(
        f"torch {at.torch} sees no GPU",
        '`python -c "import torch; torch.cuda.init()"` says why',
    )


def _joined(problems: Sequence[Problem]) -> str:
    reasons = dict.fromkeys(problem.reason for problem in problems)
    remedies = dict.fromkeys(problem.remedy for problem in problems)
    return f"{', and '.join(reasons)}: {'; then '.join(remedies)}"


def verdict(at: Situation) -> str:
    """The sentence."""
    if not at.gpus:
        why = "there is no NVIDIA driver" if at.driver is None else "the driver shows none"
        return (
            f"this build serves this machine: {at.cpu_level} code on the CPU; no NVIDIA GPU ({why})"
        )
    problems = {gpu: build_problem(at, gpu.capability) for gpu in at.gpus}
    served = [gpu for gpu, problem in problems.items() if problem is None]
    unserved = [problem for problem in problems.values() if problem is not None]
    torch_problem = _torch_problem(at)
    if torch_problem is not None or not served:
        both = [torch_problem] if torch_problem is not None else []
        return f"CPU only, because {_joined([*both, *unserved])}"
    names = ", ".join(map(str, served))
    if unserved:
        others = ", ".join(str(gpu) for gpu, problem in problems.items() if problem is not None)
        return f"this build serves {names}, but not {others}, because {_joined(unserved)}"
    return f"this build serves this machine: CUDA {at.toolkit} kernels on {names}, torch {at.torch}"
