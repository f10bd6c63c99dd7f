"""What windows other than 11 taps cost, on this machine, in one run.

    python benchmarks/windows.py --device cpu
    python benchmarks/windows.py --device cuda

Prints a table of time against window size, and writes NAME.json to benchmarks/results/. The windows
take turns, so that a disturbance of the machine meets all of them.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial

import torch
from peers import Library
from report import format_table
from script import parse, parser, record
from timing import Timing, cpu_times, cuda_kernel_time
from workload import Size, make_images, make_step

import fused_ssim

_WINDOWS = (3, 5, 7, 9, 11, 13, 15, 21, 33)
_FAST = 11
_KINDS = ("inference", "training")
_CUDA_IMAGES = 8


def main() -> int:
    """Measure, print, write."""
    options = parser(__doc__, 30.0)
    options.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    options.add_argument("--size", type=Size.parse, default=Size(1, 3, 1080, 1920))
    arguments = parse(options)
    device = torch.device(arguments.device)
    results = {kind: _measure(kind, arguments.size, device, arguments.budget) for kind in _KINDS}

    def cells(window: int) -> list[str]:
        row = [f"{window} taps", ""]
        for kind in _KINDS:
            time, fast = results[kind][window].median_s, results[kind][_FAST].median_s
            row += [f"{time * 1e3:.3f} ms", f"{time / fast:.2f}x"]
        return row

    header = ["window", "", "inference", f"of {_FAST}", "training", f"of {_FAST}"]
    print(f"{arguments.size} float32\n{format_table(header, map(cells, _WINDOWS))}")

    record(
        arguments,
        "windows",
        device,
        size=str(arguments.size),
        times={
            kind: {str(window): asdict(time) for window, time in times.items()}
            for kind, times in results.items()
        },
    )
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
