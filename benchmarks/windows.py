"""What windows other than 11 taps cost, or masks, on this machine, in one run.

    python benchmarks/windows.py --device cpu
    python benchmarks/windows.py --device cuda
    python benchmarks/windows.py --masks

Prints a table of times, and writes NAME.json to benchmarks/results/. The forms take turns, so that a
disturbance of the machine meets all of them.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial

import torch
from peers import Library, Loss
from report import format_table
from script import add_device, chosen_device, parse, parser, record
from timing import Timing, cpu_times, cuda_kernel_time
from workload import Size, make_images, make_step

import fused_ssim

_WINDOWS = (3, 5, 7, 9, 11, 13, 15, 21, 33)
_FAST = "11"
_KINDS = ("inference", "training")
_CUDA_IMAGES = 8


def main() -> int:
    """Measure, print, write."""
    options = parser(__doc__, 30.0)
    add_device(options)
    options.add_argument("--masks", action="store_true", help="masks instead of windows")
    options.add_argument("--size", type=Size.parse, default=Size(1, 3, 1080, 1920))
    arguments = parse(options)
    device = chosen_device(arguments)
    forms = _masks(arguments.size, device) if arguments.masks else _windows()
    first = "none" if arguments.masks else _FAST
    results = {
        kind: _measure(forms, kind, arguments.size, device, arguments.budget) for kind in _KINDS
    }

    def cells(form: str) -> list[str]:
        row = [form if arguments.masks else f"{form} taps", ""]
        for kind in _KINDS:
            time, fast = results[kind][form].median_s, results[kind][first].median_s
            row += [f"{time * 1e3:.3f} ms", f"{time / fast:.2f}x"]
        return row

    what = "masks" if arguments.masks else "windows"
    header = [what, "", "inference", f"of {first}", "training", f"of {first}"]
    print(f"{arguments.size} float32\n{format_table(header, map(cells, forms))}")

    record(
        arguments,
        "windows",
        device,
        subject=what,
        size=str(arguments.size),
        times={
            kind: {form: asdict(time) for form, time in times.items()}
            for kind, times in results.items()
        },
    )
    return 0


def _measure(
    forms: dict[str, Loss], kind: str, size: Size, device: torch.device, budget_s: float
) -> dict[str, Timing]:
    on_gpu = device.type == "cuda"
    images = make_images(size, _CUDA_IMAGES if on_gpu else 1, torch.float32, device, kind)
    libraries = {
        form: Library("fused_ssim", fused_ssim.__version__, {kind: function})
        for form, function in forms.items()
    }
    steps = {form: make_step(library, kind, images) for form, library in libraries.items()}
    if on_gpu:
        return {form: cuda_kernel_time(step, len(images), device) for form, step in steps.items()}
    return cpu_times(steps, budget_s)


def _windows() -> dict[str, Loss]:
    # Sigma grows with the window as 1.5 does with 11 taps.
    return {
        str(taps): partial(fused_ssim.ssim, window_size=taps, sigma=taps * 1.5 / int(_FAST))
        for taps in _WINDOWS
    }


def _masks(size: Size, device: torch.device) -> dict[str, Loss]:
    """No mask, and both modes with one of bools for all planes and one of numbers for each."""
    generator = torch.Generator(device).manual_seed(1)
    shape = (size.batch, size.channels, size.height, size.width)
    numbers = torch.rand(shape, generator=generator, device=device)
    forms: dict[str, Loss] = {"none": fused_ssim.ssim}
    for kind, mask in {"bool": numbers[0, 0] > 0.1, "float": numbers}.items():
        forms[f"weighted, {kind}"] = partial(fused_ssim.ssim, mask=mask)
        forms[f"normalized, {kind}"] = partial(fused_ssim.ssim, mask=mask, mask_mode="normalized")
    return forms


if __name__ == "__main__":
    sys.exit(main())
