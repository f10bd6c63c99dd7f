"""Two builds of the package on one CPU, in turns, so that a disturbance meets both.

    pip install --no-deps --target old fused_ssim-OLD.whl
    pip install --no-deps --target new fused_ssim-NEW.whl
    python benchmarks/against.py old new --threads 2

Each build lives in a process of its own; a round times every case once in each. Prints the smallest
time of each case and the ratio; cases that only one build knows are left empty. Writes JSON with --out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_FULL_HD = (1, 3, 1080, 1920)


def _cases() -> dict[str, Callable[[], Any]]:
    """Name to what is timed; made in a worker, which has one of the builds."""
    import torch

    from fused_ssim import FusedSSIMMap, fused_ssim, l1_ssim_loss, ssim

    def pair(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(shape, generator=generator)
        y = (x + 0.1 * torch.rand(shape, generator=generator)).clamp(0, 1)
        if dtype == torch.uint8:
            return (255 * x).round().to(dtype), (255 * y).round().to(dtype)
        return x.to(dtype), y.to(dtype)

    def step(function: Callable[..., Any], x: Any, y: Any, both: bool = False) -> Callable[[], Any]:
        x = x.clone().requires_grad_()
        y = y.clone().requires_grad_(both)

        def run() -> None:
            function(x, y).backward()
            x.grad = y.grad = None

        return run

    cases: dict[str, Callable[[], Any]] = {}
    for name, shape in (
        ("1x1x1x1", (1, 1, 1, 1)),
        ("1x3x64x64", (1, 3, 64, 64)),
        ("1x3x256x256", (1, 3, 256, 256)),
        ("1x3x1080x1920", _FULL_HD),
    ):
        x, y = pair(shape)
        cases[f"value {name}"] = lambda x=x, y=y: fused_ssim(x, y, train=False)
        cases[f"step {name}"] = step(fused_ssim, x, y)
    x, y = pair(_FULL_HD)
    cases["step of both images"] = step(fused_ssim, x, y, both=True)
    cases["step of l1_ssim_loss"] = step(l1_ssim_loss, x, y)
    cases["map"] = lambda: FusedSSIMMap.apply(1e-4, 9e-4, x, y)
    cases["step through a map"] = step(lambda a, b: ssim(a, b, reduction="none").mean(), x, y)
    half, other = pair(_FULL_HD, torch.float16)
    cases["value float16"] = lambda: fused_ssim(half, other, train=False)
    last, first = (image.contiguous(memory_format=torch.channels_last) for image in (x, y))
    cases["value channels_last"] = lambda: fused_ssim(last, first, train=False)
    double = pair((1, 3, 540, 960), torch.float64)
    cases["value float64 1x3x540x960"] = lambda: fused_ssim(*double, train=False)
    for size, sigma in ((3, 1.5), (7, 1.0), (7, 1.5), (9, 1.5), (11, 2.0), (13, 1.5), (33, 5.0)):
        window = {"window_size": size, "sigma": sigma}
        cases[f"value {size} taps, sigma {sigma}"] = lambda w=window: ssim(x, y, **w)
        cases[f"step {size} taps, sigma {sigma}"] = step(
            lambda a, b, w=window: ssim(a, b, **w), x, y
        )
    for size in (3, 7, 11):
        window = {"window": "uniform", "window_size": size}
        cases[f"value uniform {size}x{size}"] = lambda w=window: ssim(x, y, **w)
        cases[f"step uniform {size}x{size}"] = step(lambda a, b, w=window: ssim(a, b, **w), x, y)
    u, v = pair(_FULL_HD, torch.uint8)
    cases["value uint8"] = lambda: fused_ssim(u, v, train=False)
    cases["step uint8 target"] = step(lambda a, _: fused_ssim(a, v), x, y)
    uniform = {"window": "uniform", "window_size": 7, "padding": "valid"}
    cases["value uint8, uniform 7x7"] = lambda: ssim(u, v, **uniform)
    rgb = tuple(image.contiguous(memory_format=torch.channels_last) for image in (u, v))
    cases["value uint8 interleaved, uniform 7x7"] = lambda: ssim(*rgb, **uniform)
    return cases


def _time(run: Callable[[], Any]) -> float:
    """Seconds a call: the smallest of some repetitions, each long enough for the clock."""
    begin = time.perf_counter()
    run()
    once = time.perf_counter() - begin
    calls = max(1, int(2e-3 / max(once, 1e-7)))
    best = once
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(calls):
            run()
        best = min(best, (time.perf_counter() - begin) / calls)
    return best


def _work(threads: int) -> None:
    """A worker: names in, seconds out, one a line."""
    import torch

    torch.set_num_threads(threads)
    cases = _cases()
    print(json.dumps(list(cases)), flush=True)
    for line in sys.stdin:
        try:
            print(_time(cases[line.strip()]), flush=True)
        except (TypeError, ValueError):  # the build has no such form
            print("nan", flush=True)


def _start(folder: Path, threads: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder.resolve())}
    return subprocess.Popen(
        [sys.executable, __file__, "--work", "--threads", str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def _ask(worker: subprocess.Popen[str], name: str) -> float:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(f"{name}\n")
    worker.stdin.flush()
    return float(worker.stdout.readline())


def _rounds(
    workers: list[subprocess.Popen[str]], names: list[str], rounds: int
) -> Iterator[tuple[str, list[float]]]:
    for number in range(rounds):
        for name in names:
            order = workers if number % 2 == 0 else workers[::-1]
            times = {id(worker): _ask(worker, name) for worker in order}
            yield name, [times[id(worker)] for worker in workers]


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("builds", nargs="*", type=Path, metavar="FOLDER", help="old, then new")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--out", type=Path, help="a JSON file")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        _work(arguments.threads)
        return 0
    if len(arguments.builds) != 2:
        parser.error("expected two folders, each with one build of fused_ssim")
    workers = [_start(folder, arguments.threads) for folder in arguments.builds]
    known = [json.loads(worker.stdout.readline()) for worker in workers if worker.stdout]
    names = [name for name in known[-1] if arguments.only in name]
    best: dict[str, list[float]] = {name: [float("inf")] * 2 for name in names}
    for name, times in _rounds(workers, names, arguments.rounds):
        best[name] = [min(pair) for pair in zip(best[name], times, strict=True)]
    for worker in workers:
        worker.communicate()
    print(f"{'ms':<40}{'old':>10}{'new':>10}{'ratio':>8}")
    for name, (old, new) in best.items():
        known_to_both = 0 < old < float("inf")
        before = f"{old * 1e3:10.4f}" if known_to_both else f"{'':>10}"
        ratio = f"{new / old:8.3f}" if known_to_both else ""
        print(f"{name:<40}{before}{new * 1e3:10.4f}{ratio}")
    if arguments.out is not None:
        import torch
        from machine import describe, recorded_command

        contents = {
            "command": recorded_command("benchmarks/against.py"),
            "machine": describe(torch.device("cpu")),
            "threads": arguments.threads,
            "builds": [folder.name for folder in arguments.builds],
            "seconds": best,
        }
        arguments.out.write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
