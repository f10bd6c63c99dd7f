"""MS-SSIM beside other libraries, on this machine's CPU or GPU, in one run.

    pip install pytorch-msssim frame-analytics
    python benchmarks/scales.py --threads 2
    python benchmarks/scales.py --device cuda

On a GPU both the kernels' own time (replays of a CUDA graph over images that L2 cannot hold) and what
passes on the clock. Prints a table, and writes NAME.json to benchmarks/results/. The libraries take turns, so that a
disturbance of the machine meets all of them; one that is not installed is left out.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import asdict
from functools import partial
from importlib import metadata

import torch
from peers import Library
from report import format_table
from script import add_device, chosen_device, parse, parser, record
from timing import Timing, sets_of_images, times_by_clock
from workload import Size, make_images, make_step

_OURS = "fused-ssim"
_MODULES = {
    _OURS: "fused_ssim",
    "pytorch-msssim": "pytorch_msssim",
    "frame-analytics": "frame_analytics",
}
_KINDS = ("inference", "training")


def main() -> int:
    """Measure, print, write."""
    options = parser(__doc__, 30.0)
    add_device(options)
    options.add_argument("--size", type=Size.parse, default=Size(1, 3, 1080, 1920))
    arguments = parse(options)
    device = chosen_device(arguments)
    libraries = _libraries()
    results = {
        kind: _times(libraries, kind, arguments.size, device, arguments.budget) for kind in _KINDS
    }
    columns = [(kind, clock) for kind in _KINDS for clock in results[kind]]

    def cells(library: Library) -> list[str]:
        row = [library.name, library.version]
        for kind, clock in columns:
            time, ours = (results[kind][clock][name].median_s for name in (library.name, _OURS))
            row += [f"{time * 1e3:.3f} ms", f"{time / ours:.1f}x"]
        return row

    header = ["library", "version"]
    for kind, clock in columns:
        header += [f"{kind}, {clock}", "of ours"]
    print(f"MS-SSIM, {arguments.size} float32\n{format_table(header, map(cells, libraries))}")

    record(
        arguments,
        "scales",
        device,
        size=str(arguments.size),
        versions={library.name: library.version for library in libraries},
        times={
            f"{kind}, {clock}": {name: asdict(time) for name, time in results[kind][clock].items()}
            for kind, clock in columns
        },
    )
    return 0


def _times(
    libraries: list[Library], kind: str, size: Size, device: torch.device, budget_s: float
) -> dict[str, dict[str, Timing]]:
    """By clock and library."""
    distinct = sets_of_images(4 * size.values, device)
    images = make_images(size, distinct, torch.float32, device, kind)
    steps = {library.name: make_step(library, kind, images) for library in libraries}
    return times_by_clock(steps, distinct, device, budget_s)


def _libraries() -> list[Library]:
    found = []
    for name, module in _MODULES.items():
        try:
            function = partial(importlib.import_module(module).ms_ssim, data_range=1.0)
        except ImportError as error:
            print(f"{name} is left out: {error}")
            continue
        found.append(Library(name, metadata.version(name), dict.fromkeys(_KINDS, function)))
    return found


if __name__ == "__main__":
    sys.exit(main())
