#!/usr/bin/env python3
"""Registers and spills of the CUDA kernels, from what ptxas reports during a build.

    tools/ci/spills.sh               compiles the kernels that matter, and calls this
    cmake --preset dev-cuda -DFUSED_SSIM_PTXAS_REPORT=ON -DCMAKE_CUDA_ARCHITECTURES="80-real;86-real;90-real"
    cmake --build --preset dev-cuda --clean-first | tee build.log
    tools/check_spills.py build.log

Prints one line for each kernel and architecture, and exits with 1 if a main kernel spills more than
LIMITS allows, or if the log does not have it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# With the loader of marching kernels for values of dense rows there.
ARCHITECTURES = {"sm_80": "kWords", "sm_86": "kWords", "sm_90": "kFloatQuads"}
# The variants that matter: float32, 11 taps, dense rows. By name: StripKind, StripLoader.
MAIN = ("kValue kFloatQuads", "kOneGradient kFloatQuads", "kTwoGradients kFloatQuads")
# Bytes of spill stores a thread, of each kernel the variant with the most; all others have none. With nvcc
# 13.0.88. Where a change lowers a number, lower it here.
LIMITS: dict[tuple[str, str], int] = {}
KINDS = ("kValue", "kMap", "kOneGradient", "kTwoGradients", "kWeighted", "kMasked", "kNormalized")
LOADERS = (
    "kFloatQuads",
    "kHalfQuads",
    "kAnyQuads",
    "kWords",
    "kHalfWords",
    "kAnyWords",
    "kHalfBoxes",
    "kByteBoxes",
)


def main_kernels() -> Iterator[tuple[str, str]]:
    """Name and architecture of each."""
    for architecture, of_values in ARCHITECTURES.items():
        yield f"march_kernel kValue {of_values}", architecture
        for variant in MAIN[1:]:
            yield f"march_kernel {variant}", architecture
        for variant in MAIN:
            yield f"tile_kernel {variant}", architecture


@dataclass(frozen=True)
class Kernel:
    name: str
    architecture: str
    registers: int
    spill_stores: int
    spill_loads: int


def plain_name(demangled: str) -> str:
    """`void ...::march_kernel<...MarchTraits<..., (...StripKind)2, ...>>(...)`, shortened."""
    function = re.search(r"(\w+)(<|\()", re.sub(r"\(anonymous namespace\)|\w+::", "", demangled))
    parts = [function[1] if function else demangled]
    for enum, values in (("StripKind", KINDS), ("StripLoader", LOADERS)):
        number = re.search(rf"{enum}\)(\d+)", demangled)
        if number:
            parts.append(values[int(number[1])])
    return " ".join(parts)


def demangle(symbols: list[str]) -> list[str]:
    done = subprocess.run(
        ["c++filt"], input="\n".join(symbols), check=True, capture_output=True, text=True
    )
    return done.stdout.splitlines()


def parse(log: str) -> Iterator[Kernel]:
    report = re.compile(
        r"Compiling entry function '(\w+)' for '(sm_\w+)'.*?"
        r"(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
        re.DOTALL,
    )
    found = report.findall(log)
    for row, name in zip(found, demangle([row[0] for row in found]), strict=True):
        _, architecture, stores, loads, registers = row
        yield Kernel(plain_name(name), architecture, int(registers), int(stores), int(loads))


def problems(kernels: Iterable[Kernel]) -> Iterator[str]:
    worst: dict[tuple[str, str], int] = {}
    for kernel in kernels:
        key = (kernel.name, kernel.architecture)
        worst[key] = max(worst.get(key, 0), kernel.spill_stores)
    for name, architecture in main_kernels():
        limit = LIMITS.get((name, architecture), 0)
        if (name, architecture) not in worst:
            yield f"{name} for {architecture} is not in the log"
        elif worst[name, architecture] > limit:
            spilled = worst[name, architecture]
            yield f"{name} for {architecture} spills {spilled} bytes, expected at most {limit}"


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    kernels = list(parse(Path(arguments[0]).read_text(encoding="utf-8", errors="replace")))
    for kernel in sorted(kernels, key=lambda k: (k.name, k.architecture, k.registers)):
        print(
            f"{kernel.name:<45} {kernel.architecture:<7} {kernel.registers:>4} registers, "
            f"spills {kernel.spill_stores} B stored, {kernel.spill_loads} B loaded"
        )
    found = list(problems(kernels))
    print("\n".join(found) if found else "main kernels: as expected")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
