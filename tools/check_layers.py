#!/usr/bin/env python3
"""Checks that each folder of src/ includes only what it may, and that kernels stay in src/cuda.

    tools/check_layers.py [ROOT]

Prints one line for each violation and exits with 1 if there is any. docs/building.md says why.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

# Folder of src/ -> folders of src/ whose headers it may include.
ARROWS = {
    "core": {"core"},
    "cpu": {"core", "cpu"},
    "cuda": {"core", "cuda"},
    "c_api": {"core", "cpu", "cuda", "c_api"},
    "operators": set(),  # their schemas, which need no torch
    "torch": {"operators", "torch"},  # reaches the kernels through the public C interface
    "python": {"operators"},
}
# Folder of src/ -> public headers (include/fused_ssim) that it may include.
PUBLIC_HEADERS = {
    "core": {"kernels.h"},
    "c_api": {"kernels.h", "version.h"},
    "torch": {"kernels.h", "version.h", "build_facts.h"},
    "python": {"kernels.h"},
}
# The stable ABI. A library that uses anything else of torch breaks with the next torch.
STABLE_HEADERS = (
    "torch/csrc/stable/",
    "torch/headeronly/",
    "torch/csrc/inductor/aoti_torch/c/",
)
SUFFIXES = {".h", ".hpp", ".cpp", ".cc", ".cu", ".cuh"}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
LAUNCH = "<<<"


def violations_in_line(folder: str, line: str) -> Iterator[str]:
    if LAUNCH in line.split("//")[0] and folder != "cuda":
        yield f"a kernel launch ({LAUNCH}) belongs in src/cuda"
    match = INCLUDE.match(line)
    if match is None:
        return
    quote, header = match.groups()
    top = header.split("/")[0]
    own = quote == '"' and top in ARROWS
    if own:
        if top not in ARROWS[folder]:
            yield f"src/{folder} may not include {header} (src/{top})"
    elif top == "fused_ssim":
        if header.removeprefix("fused_ssim/") not in PUBLIC_HEADERS.get(folder, set()):
            yield f"src/{folder} may not include {header}"
    elif top in {"torch", "ATen", "c10"}:
        if folder != "torch":
            yield f"{header}: torch's headers belong in src/torch"
        elif not header.startswith(STABLE_HEADERS):
            yield f"{header} is not of the stable ABI ({', '.join(STABLE_HEADERS)})"
    elif top.startswith("cuda") and folder not in {"cuda", "c_api"}:
        yield f"{header}: CUDA's headers belong in src/cuda and src/c_api"
    elif header in {"thread", "mutex", "future", "omp.h"} and folder in {"core", "cpu", "cuda"}:
        yield f"{header}: threads belong in src/c_api and src/torch"


def violations(root: Path) -> Iterator[str]:
    for path in sorted((root / "src").rglob("*")):
        if path.suffix not in SUFFIXES:
            continue
        name = path.relative_to(root)
        folder = name.parts[1]
        if folder not in ARROWS:
            yield f"{name}: src/ has no folder {folder}; expected {', '.join(sorted(ARROWS))}"
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            for what in violations_in_line(folder, line):
                yield f"{name}:{number}: {what}"


def main(arguments: list[str]) -> int:
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    found = list(violations(root))
    print("\n".join(found) if found else f"layers of {root.name}/src: in order")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
