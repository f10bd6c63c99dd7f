"""SSIM of volumes beside other code, on this machine's CPU or GPU, in one run.

    pip install pytorch-msssim
    python benchmarks/volumes.py --threads 2
    python benchmarks/volumes.py --device cuda

On a GPU both the kernels' own time (replays of a CUDA graph over images that L2 cannot hold) and what
passes on the clock. Prints a table for each size, and writes NAME.json to benchmarks/results/. All take whole windows
alone (padding "valid"), as pytorch-msssim does. "torch operations" is this package's composite.
They take turns, so that a disturbance of the machine meets all of them; a library that is not
installed is left out.
"""

from __future__ import annotations

import math
import sys
from dataclasses import asdict
from functools import partial
from importlib import metadata

import torch
from peers import Library, Loss
from report import format_table
from script import add_device, chosen_device, parse, parser, record
from timing import Timing, sets_of_images, times_by_clock
from torch import Tensor
from workload import make_step

from fused_ssim import _route, fused_ssim3d

_KINDS = ("inference", "training")
_OURS = "fused-ssim"
_ssim = partial(fused_ssim3d, padding="valid")
_SHAPES = {
    "cpu": ((1, 1, 64, 64, 64), (1, 1, 64, 128, 128)),
    "cuda": ((1, 1, 64, 64, 64), (1, 1, 128, 256, 256)),
}


def main() -> int:
    """Measure, print, write."""
    options = parser(__doc__, 20.0)
    add_device(options)
    arguments = parse(options)
    device = chosen_device(arguments)
    libraries = _libraries()
    results = {}
    for shape in _SHAPES[device.type]:
        size = "x".join(map(str, shape))
        results[size] = times = _measure(shape, libraries, device, arguments.budget)
        header = ["library", "version"]
        for column in times:
            header += [column, "of ours"]
        rows = [_cells(library, times) for library in libraries]
        print(f"{size} float32\n{format_table(header, rows)}\n")

    record(
        arguments,
        "volumes",
        device,
        versions={library.name: library.version for library in libraries},
        times={
            size: {
                column: {name: asdict(time) for name, time in of_column.items()}
                for column, of_column in times.items()
            }
            for size, times in results.items()
        },
    )
    return 0


def _measure(
    shape: tuple[int, ...], libraries: list[Library], device: torch.device, budget: float
) -> dict[str, dict[str, Timing]]:
    """By kind of step and clock, and by library."""
    generator = torch.Generator(device).manual_seed(0)
    distinct = sets_of_images(4 * math.prod(shape), device)

    def pair(kind: str) -> tuple[Tensor, Tensor]:
        y = torch.rand(shape, generator=generator, device=device)
        x = (y + 0.1 * torch.randn(shape, generator=generator, device=device)).clamp(0.0, 1.0)
        return x.requires_grad_(kind == "training"), y

    results = {}
    for kind in _KINDS:
        images = [pair(kind) for _ in range(distinct)]
        steps = {library.name: make_step(library, kind, images) for library in libraries}
        for clock, times in times_by_clock(steps, distinct, device, budget).items():
            results[f"{kind}, {clock}"] = times
    return results


def _cells(library: Library, results: dict[str, dict[str, Timing]]) -> list[str]:
    row = [library.name, library.version]
    for times in results.values():
        time, ours = (times[name].median_s for name in (library.name, _OURS))
        row += [f"{time * 1e3:.3f} ms", f"{time / ours:.1f}x"]
    return row


def _by_torch_operations(x: Tensor, y: Tensor) -> Tensor:
    _route.composite_is_forced = True
    try:
        return _ssim(x, y)
    finally:
        _route.composite_is_forced = False


def _libraries() -> list[Library]:
    functions: dict[str, tuple[str, Loss]] = {
        _OURS: (metadata.version("fused-ssim"), _ssim),
        "torch operations": (torch.__version__, _by_torch_operations),
    }
    try:
        from pytorch_msssim import ssim
    except ImportError as error:
        print(f"pytorch-msssim is left out: {error}")
    else:
        version = metadata.version("pytorch-msssim")
        functions["pytorch-msssim"] = (version, partial(ssim, data_range=1.0))
    return [
        Library(name, version, dict.fromkeys(_KINDS, function))
        for name, (version, function) in functions.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
