"""What windows other than 11 taps cost, on this machine, in one run.

    python benchmarks/windows.py --device cpu
    python benchmarks/windows.py --device cuda

Prints a table of time against window size, and writes NAME.json to benchmarks/results/. The windows
take turns, so that a disturbance of the machine meets all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from machine import commit, describe, file_name, recorded_command
from peers import Library
from report import format_table
from timing import Timing, cpu_times, cuda_kernel_time
from workload import Size, make_images, make_step

import fused_ssim

_WINDOWS = (3, 5, 7, 9, 11, 13, 15, 21, 33)
_FAST = 11
_KINDS = ("inference", "training")
_CUDA_IMAGES = 8


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--size", type=Size.parse, default=Size(1, 3, 1080, 1920))
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--budget", type=float, default=30.0, metavar="SECONDS", help="CPU, a kind")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--name", help="file name (default: from device and processor)")
    return parser.parse_args()


def main() -> int:
    """Measure, print, write."""
    arguments = parse_arguments()
    device = torch.device(arguments.device)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    results = {kind: _measure(kind, arguments.size, device, arguments.budget) for kind in _KINDS}

    def cells(window: int) -> list[str]:
        row = [f"{window} taps", ""]
        for kind in _KINDS:
            time, fast = results[kind][window].median_s, results[kind][_FAST].median_s
            row += [f"{time * 1e3:.3f} ms", f"{time / fast:.2f}x"]
        return row

    header = ["window", "", "inference", f"of {_FAST}", "training", f"of {_FAST}"]
    print(f"{arguments.size} float32\n{format_table(header, map(cells, _WINDOWS))}")

    machine = describe(device)
    name = arguments.name or file_name(machine, device.type, "windows")
    path = arguments.out / f"{name}.json"
    contents = {
        "command": recorded_command("benchmarks/windows.py"),
        "commit": commit(),
        "machine": machine,
        "size": str(arguments.size),
        "times": {
            kind: {str(window): asdict(time) for window, time in times.items()}
            for kind, times in results.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents, indent=1) + "\n")
    print(f"\nwritten: {path}")
    return 0


def _measure(kind: str, size: Size, device: torch.device, budget_s: float) -> dict[int, Timing]:
    on_gpu = device.type == "cuda"
    images = make_images(size, _CUDA_IMAGES if on_gpu else 1, torch.float32, device, kind)
    steps = {window: make_step(_library(window), kind, images) for window in _WINDOWS}
    if on_gpu:
        return {w: cuda_kernel_time(step, len(images), device) for w, step in steps.items()}
    times = cpu_times({str(window): step for window, step in steps.items()}, budget_s)
    return {window: times[str(window)] for window in _WINDOWS}


def _library(window: int) -> Library:
    # Sigma grows with the window as 1.5 does with 11 taps.
    function = partial(fused_ssim.ssim, window_size=window, sigma=window * 1.5 / _FAST)
    return Library("fused_ssim", fused_ssim.__version__, dict.fromkeys(_KINDS, function))


if __name__ == "__main__":
    sys.exit(main())
