"""Compare fused_ssim with its peers on this machine, in one run.

    python benchmarks/bench.py --device cpu --threads 2
    python benchmarks/bench.py --device cuda
    python benchmarks/bench.py --device cuda --preset sweep --kinds training inference
    python benchmarks/bench.py --subject windows --sizes 1x3x1080x1920
    python benchmarks/bench.py --subject masks --sizes 1x3x1080x1920

Prints a table for each kind of step; with --name NAME, writes NAME.json to benchmarks/results/, too
(docs/benchmark.schema.json describes it). docs/benchmarks.md has the method in words; how the times are taken stands in timing.py,
what is timed in workload.py and peers.py, the memory in memory.py, the ceilings in machine.py.
"""

from __future__ import annotations

import argparse
import datetime
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from machine import commit, describe, measure_ceilings, recorded_command
from memory import cpu_peak, cuda_peak
from peers import NAMES, forms, load
from report import Results, Row, tables
from timing import Step, Timing, cpu_times, cuda_kernel_time, cuda_wall_times
from workload import KINDS, Images, Library, Size, make_images, make_step

_RESULTS = Path(__file__).parent / "results"
_PRESETS = {
    "table": ["1x3x256x256", "1x3x512x512", "1x3x1080x1920", "1x3x2160x3840", "1x1x32x64x64"],
    "sweep": [f"1x3x{side}x{side}" for side in (64, 128, 256, 512, 1024, 2048)],
}
# Minutes a step for the slowest peer on a CPU, so on a GPU alone.
_PRESETS_CUDA = {
    "table": [*_PRESETS["table"], "5x5x1080x1920", "1x1x128x256x256"],
    "sweep": [*_PRESETS["sweep"], "1x3x4096x4096"],
}
_LEAST_SIDE_OF_SCALES = 161
# Enough different images that none is still in the L2 cache when its turn comes again.
_CACHES_FULL, _MOST_IMAGES = 3, 96
# A peer that knows not the dtype or the size, or needs more memory than there is.
_FAILURES = (RuntimeError, ValueError, TypeError, AssertionError, OSError)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument(
        "--preset",
        choices=_PRESETS,
        default="table",
        help="table: the sizes of the README's table; sweep: squares, for the plot",
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=_size,
        metavar="BxCxHxW",
        help="sizes of your own; BxCxDxHxW of volumes",
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument(
        "--libraries",
        nargs="+",
        choices=NAMES,
        default=[name for name in NAMES if name != "original"],
        help="default: all that are installed",
    )
    parser.add_argument(
        "--subject",
        choices=["libraries", "windows", "masks"],
        default="libraries",
        help="windows, masks: forms of this package's SSIM in place of libraries",
    )
    parser.add_argument(
        "--original",
        metavar="MODULE",
        help="compare with the original fused_ssim, importable under this other name",
    )
    parser.add_argument(
        "--dtype", choices=["float32", "float16", "bfloat16", "float64"], default="float32"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument(
        "--budget",
        type=float,
        default=20.0,
        metavar="SECONDS",
        help="CPU: time for each size and kind, five samples of each library apart (default: 20)",
    )
    parser.add_argument("--no-memory", action="store_true", help="leave the peak memory out")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="folder for the JSON")
    parser.add_argument("--name", help="its name without .json (default: none is written)")
    parser.add_argument(
        "--commit", help="of the source tree, where this is a copy of it (default: what git says)"
    )
    arguments = parser.parse_args()
    if arguments.original is not None and "original" not in arguments.libraries:
        arguments.libraries.append("original")
    return arguments


def _size(text: str) -> Size:
    try:
        return Size.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main() -> int:
    """Measure, print, write."""
    arguments = parse_arguments()
    device = torch.device(arguments.device)
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        if device.index >= torch.cuda.device_count():
            print(f"bench.py: error: torch sees no GPU {device.index}", file=sys.stderr)
            return 2
        torch.cuda.set_device(device)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)

    if arguments.subject == "libraries":
        libraries, notes = load(arguments.libraries, arguments.original)
    else:
        libraries, notes = forms(arguments.subject), []
    libraries = [library for library in libraries if device.type in library.on]
    if device.type == "cpu":
        load_before = os.getloadavg()[0]  # of others: nothing has been timed yet
        notes.append(f"{load_before:.1f} other processes on {os.cpu_count()} processors before")
    dtype: torch.dtype = getattr(torch, arguments.dtype)
    versions = {library.name: library.version for library in libraries}
    if arguments.subject != "libraries":
        versions = {"fused_ssim": libraries[0].version}
    results = Results(
        subject=arguments.subject,
        command=recorded_command("benchmarks/bench.py"),
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        commit=arguments.commit or commit(),
        device=device.type,
        dtype=arguments.dtype,
        element_bytes=torch.empty(0, dtype=dtype).element_size(),
        machine=describe(device),
        ceilings=measure_ceilings(device),
        libraries=versions,
        notes=notes,
    )
    presets = _PRESETS_CUDA if device.type == "cuda" else _PRESETS
    sizes = arguments.sizes or [Size.parse(text) for text in presets[arguments.preset]]
    for kind in arguments.kinds:
        candidates = [library for library in libraries if kind in library.functions]
        if not candidates:
            continue
        for size in sizes:
            if size.axes != KINDS[kind].axes:
                continue
            if kind.startswith("ms_ssim") and min(size.shape[2:]) < _LEAST_SIDE_OF_SCALES:
                continue
            print(f"measuring {kind} at {size} ...", file=sys.stderr, flush=True)
            if device.type == "cuda":
                rows = _cuda_rows(candidates, kind, size, dtype, device)
            else:
                rows = _cpu_rows(candidates, kind, size, dtype, arguments.budget)
            if kind == "training" and arguments.subject == "libraries" and not arguments.no_memory:
                _add_memory(rows, libraries, size, device, arguments)
            results.rows += rows

    if any(row.gpu is not None and row.gpu.method == "CUDA events" for row in results.rows):
        results.notes.append("* not capturable in a CUDA graph: includes gaps between launches")
    print(tables(results))
    if arguments.name is not None:
        path = arguments.out / f"{arguments.name}.json"
        results.write(path)
        print(f"\nwritten: {path}")
    return 0


def _cpu_rows(
    libraries: list[Library], kind: str, size: Size, dtype: torch.dtype, budget_s: float
) -> list[Row]:
    images = make_images(size, 1, dtype, torch.device("cpu"), kind)
    rows, steps = _try_libraries(libraries, kind, size, images, lambda row, step: None)
    pairs = {library.name: library.pairs_per_call for library in libraries}
    times = cpu_times(steps, budget_s)
    _set_wall_times(rows, {name: time.divided(pairs[name]) for name, time in times.items()})
    return rows


def _cuda_rows(
    libraries: list[Library], kind: str, size: Size, dtype: torch.dtype, device: torch.device
) -> list[Row]:
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    one_set = 3 * size.values * torch.empty(0, dtype=dtype).element_size()
    distinct = min(_MOST_IMAGES, max(2, math.ceil(_CACHES_FULL * cache / one_set)))
    images = make_images(size, distinct, dtype, device, kind)
    on_default_stream = {library.name for library in libraries if library.on_default_stream}

    def time_kernels(row: Row, step: Step) -> None:
        try:
            row.gpu = cuda_kernel_time(
                step, distinct, device, on_default_stream=row.library in on_default_stream
            )
        finally:
            torch.cuda.empty_cache()  # what one library kept shall not crowd the next

    rows, steps = _try_libraries(libraries, kind, size, images, time_kernels)
    _set_wall_times(rows, cuda_wall_times(steps, device))
    return rows


def _try_libraries(
    libraries: list[Library],
    kind: str,
    size: Size,
    images: Images,
    measure: Callable[[Row, Step], None],
) -> tuple[list[Row], dict[str, Step]]:
    """A row for each library, with its mean and what `measure` adds; the steps of those that ran."""
    rows, steps = [], {}
    for library in libraries:
        row = Row(library.name, kind, str(size), size.values)
        rows.append(row)
        step = make_step(library, kind, images)
        try:
            row.mean = float(step(0))
            measure(row, step)
            steps[library.name] = step
        except _FAILURES as error:  # of one library: the others go on
            row.error = _one_line(error)
    return rows, steps


def _set_wall_times(rows: list[Row], times: Mapping[str, Timing]) -> None:
    for row in rows:
        row.wall = times.get(row.library)


def _add_memory(
    rows: list[Row],
    libraries: list[Library],
    size: Size,
    device: torch.device,
    arguments: argparse.Namespace,
) -> None:
    by_name = {library.name: library for library in libraries}
    for row in rows:
        if row.error is not None:
            continue
        if device.type == "cuda":
            dtype: torch.dtype = getattr(torch, arguments.dtype)
            row.peak_extra_bytes = cuda_peak(by_name[row.library], size, dtype, device)
            torch.cuda.empty_cache()
        else:
            row.peak_extra_bytes = cpu_peak(row.library, size, arguments.dtype, arguments.original)


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:100]


if __name__ == "__main__":
    sys.exit(main())
