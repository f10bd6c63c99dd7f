"""Medians of repeated steps, after a warm-up."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch

Step = Callable[[int], object]

_LEAST_SAMPLES = 5
_MOST_SAMPLES = 200
_MOST_PER_ROUND = 8
_LEAST_WALL_S = 0.02  # a wall-clock sample on CUDA is as many steps as take this long
# Replays of a graph on CUDA: so many, the first of them to warm up, or fewer where they take long.
_REPLAYS, _WARM_UP_REPLAYS, _MOST_REPLAYS_S = 30, 3, 1.0


@dataclass(frozen=True)
class Timing:
    """Seconds a step."""

    median_s: float
    best_s: float
    samples: int
    method: str

    def divided(self, parts: int) -> Timing:
        """Of one of so many equal parts."""
        return replace(self, median_s=self.median_s / parts, best_s=self.best_s / parts)


def cpu_times(steps: Mapping[str, Step], budget_s: float) -> dict[str, Timing]:
    """Time several steps by turns, so that a disturbance of the machine meets all of them.

    The budget is for all together; each gets at least five samples, and the fast ones more.
    """
    if not steps:
        return {}
    first = {}
    for name, step in steps.items():
        step(0)  # warm-up: thread pools, caches of primitives, first page faults
        first[name] = cpu_seconds(partial(step, 1))
    slowest = max(first.values())
    per_round = {
        name: min(_MOST_PER_ROUND, max(1, int(slowest / max(seconds, 1e-9))))
        for name, seconds in first.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in steps}
    start = time.perf_counter()
    turn = 0
    while turn < _LEAST_SAMPLES or (
        time.perf_counter() - start < budget_s and turn * _MOST_PER_ROUND < _MOST_SAMPLES
    ):
        for name, step in steps.items():
            samples[name] += [cpu_seconds(partial(step, turn + i)) for i in range(per_round[name])]
        turn += 1
    return {name: _timing(values, "wall clock") for name, values in samples.items()}


def cuda_kernel_time(
    step: Step, distinct: int, device: torch.device, *, on_default_stream: bool = False
) -> Timing:
    """GPU time a step: replays of a CUDA graph of many steps over different images (cold L2).

    A step that cannot be captured, or whose kernels always go to the default stream, is launched as
    usual between two events; where its kernels are short that counts the gaps between them too, and
    the method says so.
    """
    count = max(distinct, 8)
    # Captured and warmed up on a stream of this device: torch.cuda.graph's own belongs to the
    # first device, and autograd remembers on which stream a leaf was first used.
    stream = torch.cuda.default_stream(device)
    if not on_default_stream:
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for i in range(distinct):
            step(i)
    stream.synchronize()

    def launch() -> None:
        for i in range(count):
            step(i)

    run: Callable[[], None] = launch
    method = "CUDA events"
    if not on_default_stream:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=stream):
                launch()
            run, method = graph.replay, "CUDA graph"
        except RuntimeError:
            torch.cuda.synchronize(device)

    samples = []
    with torch.cuda.stream(stream):
        start = time.perf_counter()
        for replay in range(_REPLAYS):
            seconds = cuda_seconds(run)
            if replay >= _WARM_UP_REPLAYS:
                samples.append(seconds / count)
            if len(samples) >= _LEAST_SAMPLES and time.perf_counter() - start > _MOST_REPLAYS_S:
                break
    return _timing(samples, method)


def cuda_wall_times(steps: Mapping[str, Step], device: torch.device) -> dict[str, Timing]:
    """End to end, as a training loop sees it: steps launched one after the other.

    Several are timed by turns: how fast the host launches changes from one moment to the next, and
    shall meet all of them.
    """

    def batch(step: Step, count: int) -> float:
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        for i in range(count):
            step(i)
        torch.cuda.synchronize(device)
        return (time.perf_counter() - start) / count

    counts = {}
    for name, step in steps.items():
        batch(step, 3)
        counts[name] = max(3, math.ceil(_LEAST_WALL_S / batch(step, 3)))
    samples: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(_LEAST_SAMPLES + 10):
        for name, step in steps.items():
            samples[name].append(batch(step, counts[name]))
    return {name: _timing(values, "wall clock") for name, values in samples.items()}


def cuda_seconds(action: Callable[[], object]) -> float:
    """What passes on the current stream between two events around the action."""
    begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    begin.record()
    action()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) * 1e-3


def cpu_seconds(action: Callable[[], object]) -> float:
    """What passes on the wall clock."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _timing(samples: list[float], method: str) -> Timing:
    return Timing(statistics.median(samples), min(samples), len(samples), method)
