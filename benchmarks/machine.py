"""The machine's name, and its two ceilings: bytes copied and multiply-adds issued a second."""

from __future__ import annotations

import platform
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from timing import cpu_seconds, cuda_seconds

_REPEATS = 12
_COPY_BYTES = {"cpu": 256 * 2**20, "cuda": 2**30}

# Eight independent chains keep the multiply-add units busy; b and c are known at run time only, so
# that the compiler cannot shorten them.
_CHAINS, _LENGTH = 8, 512
_FMA_KERNEL = """
template <typename T> T multiply_adds(T x, T b, T c) {
    T a0 = x, a1 = x + 1, a2 = x + 2, a3 = x + 3, a4 = x + 4, a5 = x + 5, a6 = x + 6, a7 = x + 7;
    for (int i = 0; i < 512; ++i) {
        a0 = a0 * b + c; a1 = a1 * b + c; a2 = a2 * b + c; a3 = a3 * b + c;
        a4 = a4 * b + c; a5 = a5 * b + c; a6 = a6 * b + c; a7 = a7 * b + c;
    }
    return ((a0 + a1) + (a2 + a3)) + ((a4 + a5) + (a6 + a7));
}
"""


@dataclass(frozen=True)
class Ceilings:
    """What the machine can do at best, measured."""

    copy_bytes_per_s: float
    multiply_adds_per_s: float
    multiply_adds_from: str


def describe(device: torch.device) -> dict[str, object]:
    """Facts about the hardware and software that a reader of the numbers needs."""
    import fused_ssim

    facts: dict[str, object] = {
        "processor": cpu_name(),
        "cpu_level": fused_ssim.build_info().cpu_level,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "gpu": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": properties.L2_cache_size,
            "torch_cuda": torch.version.cuda,
        }
    return facts


def cpu_name() -> str:
    """The model of the CPU, as the system reports it."""
    try:
        match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit of the source tree that this file stands in."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def recorded_command(script: str) -> str:
    """The command of this process, but for where the results go and which commit they are of."""
    left_out = ("--out", "--commit")
    words = ["python", script]
    arguments = iter(sys.argv[1:])
    for word in arguments:
        if word in left_out:
            next(arguments, None)
        elif not word.startswith(tuple(f"{option}=" for option in left_out)):
            words.append(word)
    return shlex.join(words)


def measure_ceilings(device: torch.device) -> Ceilings:
    """The two ceilings, in a few seconds."""
    copied = _copy_rate(device)
    if device.type == "cuda":
        try:
            return Ceilings(copied, _cuda_chain_rate(device), "chains of multiply-adds")
        except RuntimeError:
            pass  # no run-time compiler: the matrix product below is the next best
    return Ceilings(copied, _matrix_product_rate(device), "float32 matrix product")


def _copy_rate(device: torch.device) -> float:
    source = torch.rand(_COPY_BYTES[device.type] // 4, device=device)
    target = torch.zeros_like(source)
    seconds = _median_seconds(lambda: target.copy_(source), device)
    return 2 * source.numel() * source.element_size() / seconds


def _cuda_chain_rate(device: torch.device) -> float:
    from torch.cuda import jiterator

    kernel = jiterator._create_jit_fn(_FMA_KERNEL, b=0.0, c=0.0)
    x = torch.rand(2**22, device=device)
    seconds = _median_seconds(lambda: kernel(x, b=0.999, c=0.001), device)
    return x.numel() * _CHAINS * _LENGTH / seconds


def _matrix_product_rate(device: torch.device) -> float:
    # Float32 products must not be lowered to TF32: that is another unit.
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        side = 1536 if device.type == "cpu" else 8192
        a, b = torch.rand(2, side, side, device=device)
        seconds = _median_seconds(lambda: torch.mm(a, b), device)
    finally:
        torch.set_float32_matmul_precision(before)
    return side**3 / seconds


def _median_seconds(action: Callable[[], object], device: torch.device) -> float:
    seconds = cuda_seconds if device.type == "cuda" else cpu_seconds
    for _ in range(3):
        seconds(action)
    return statistics.median(seconds(action) for _ in range(_REPEATS))
