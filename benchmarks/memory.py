"""Peak memory that a training step needs beyond the two images.

CUDA: torch's allocator keeps the high-water mark. CPU: nothing does but the system, so the step
runs in a fresh process whose mark of resident memory is reset just before it (Linux only).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import torch
from peers import load_one
from workload import Library, Size, make_images, make_step

_WARM_UP = Size((1, 3, 32, 32))


def cuda_peak(library: Library, size: Size, dtype: torch.dtype, device: torch.device) -> int:
    """Bytes, the gradient included."""
    images = make_images(size, 1, dtype, device, "training")
    step = make_step(library, "training", images)
    step(0)
    images[0][0].grad = None
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step(0)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def cpu_peak(library: str, size: Size, dtype: str, original_module: str | None) -> int | None:
    """Bytes, the gradient included; None where the system cannot tell."""
    command = [sys.executable, __file__, library, str(size), dtype, str(torch.get_num_threads())]
    if original_module is not None:
        command.append(original_module)
    # A fixed threshold: glibc otherwise learns to keep freed blocks, and counts them as resident.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        return None
    peak: int | None = json.loads(done.stdout)
    return peak


def _measure_here(library: Library, size: Size, dtype: torch.dtype) -> int | None:
    device = torch.device("cpu")
    # Thread pools and libraries are loaded by a small step first: they are no cost of a step.
    make_step(library, "training", make_images(_WARM_UP, 1, dtype, device, "training"))(0)
    step = make_step(library, "training", make_images(size, 1, dtype, device, "training"))
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        before = _status("VmRSS")
        step(0)
        return _status("VmHWM") - before
    except OSError:
        return None


def _status(field: str) -> int:
    match = re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def _main() -> None:
    parser = argparse.ArgumentParser(description="print the peak bytes of one training step (CPU)")
    parser.add_argument("library")
    parser.add_argument("size", type=Size.parse)
    parser.add_argument("dtype")
    parser.add_argument("threads", type=int)
    parser.add_argument("original_module", nargs="?")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    library = load_one(arguments.library, arguments.original_module)
    print(json.dumps(_measure_here(library, arguments.size, getattr(torch, arguments.dtype))))


if __name__ == "__main__":
    _main()
