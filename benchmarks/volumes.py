"""SSIM of volumes beside other code, on this machine's CPU, in one run.

    pip install pytorch-msssim
    python benchmarks/volumes.py --threads 2

Prints a table for each size, and writes NAME.json to benchmarks/results/. All take whole windows
alone (padding "valid"), as pytorch-msssim does. "torch operations" is this package's composite.
They take turns, so that a disturbance of the machine meets all of them; a library that is not
installed is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path

import torch
from machine import commit, describe, file_name, recorded_command
from peers import Library, Loss
from report import format_table
from timing import Timing, cpu_times
from torch import Tensor
from workload import make_step

from fused_ssim import _route, fused_ssim3d

_KINDS = ("inference", "training")
_OURS = "fused-ssim"
_ssim = partial(fused_ssim3d, padding="valid")
_SHAPES = ((1, 1, 64, 64, 64), (1, 1, 64, 128, 128))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--budget", type=float, default=20.0, metavar="SECONDS", help="a kind")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--name", help="file name (default: from the processor)")
    return parser.parse_args()


def main() -> int:
    """Measure, print, write."""
    arguments = parse_arguments()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    libraries = _libraries()
    results = {}
    for shape in _SHAPES:
        size = "x".join(map(str, shape))
        results[size] = times = _measure(shape, libraries, arguments.budget)
        header = ["library", "version", "inference", "of ours", "training", "of ours"]
        rows = [_cells(library, times) for library in libraries]
        print(f"{size} float32\n{format_table(header, rows)}\n")

    machine = describe(torch.device("cpu"))
    path = arguments.out / f"{arguments.name or file_name(machine, 'cpu', 'volumes')}.json"
    contents = {
        "command": recorded_command("benchmarks/volumes.py"),
        "commit": commit(),
        "machine": machine,
        "versions": {library.name: library.version for library in libraries},
        "times": {
            size: {
                kind: {name: asdict(time) for name, time in of_kind.items()}
                for kind, of_kind in times.items()
            }
            for size, times in results.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents, indent=1) + "\n")
    print(f"written: {path}")
    return 0


def _measure(
    shape: tuple[int, ...], libraries: list[Library], budget: float
) -> dict[str, dict[str, Timing]]:
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(shape, generator=generator)
    x = (y + 0.1 * torch.randn(shape, generator=generator)).clamp(0.0, 1.0)
    results = {}
    for kind in _KINDS:
        images = [(x.clone().requires_grad_(kind == "training"), y)]
        steps = {library.name: make_step(library, kind, images) for library in libraries}
        results[kind] = cpu_times(steps, budget)
    return results


def _cells(library: Library, times: dict[str, dict[str, Timing]]) -> list[str]:
    row = [library.name, library.version]
    for kind in _KINDS:
        time, ours = (times[kind][name].median_s for name in (library.name, _OURS))
        row += [f"{time * 1e3:.1f} ms", f"{time / ours:.1f}x"]
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
