"""The drop-ins beside the packages that they stand in for, on this machine's CPU, in one run.

    pip install pytorch-msssim torchmetrics scikit-image
    python benchmarks/switching.py --threads 2

Prints the numbers of docs/switching.md; with --name NAME, writes NAME.json to benchmarks/results/, too.
Each pair takes turns, so that a disturbance of the machine meets both.
"""

from __future__ import annotations

import argparse
import datetime
import math
import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import pytorch_msssim
import skimage.metrics
import torch
import torchmetrics.image
from machine import commit, describe, recorded_command
from report import Results, Row, tables
from timing import cpu_times

from fused_ssim import metrics
from fused_ssim.compat import pytorch_msssim as compat_msssim
from fused_ssim.compat import skimage as compat_skimage

_SHAPE = (1, 3, 1080, 1920)
_STANDARD = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def _pairs() -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Theirs and ours of each call."""
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(_SHAPE, generator=generator)
    x = (y + 0.1 * torch.randn(_SHAPE, generator=generator)).clamp(0, 1)
    pictures = [(255 * image[0]).byte().permute(1, 2, 0).contiguous().numpy() for image in (x, y)]

    def step(function: Callable[..., torch.Tensor]) -> None:
        image = x.detach().requires_grad_()
        torch.autograd.grad(1 - function(image, y, data_range=1), image)

    def epoch(metric: Any) -> Any:
        metric.reset()
        metric.update(x, y)
        return metric.compute()

    def of(call: Callable[..., Any], theirs: Any, ours: Any) -> tuple[Any, Any]:
        return partial(call, theirs), partial(call, ours)

    with_no_gradient = torch.no_grad()(lambda function: function(x, y, data_range=1))
    ssim, scales = "StructuralSimilarityIndexMeasure", "MultiScaleStructuralSimilarityIndexMeasure"
    return {
        "pytorch_msssim.ssim": of(with_no_gradient, pytorch_msssim.ssim, compat_msssim.ssim),
        "pytorch_msssim.ssim, step": of(step, pytorch_msssim.ssim, compat_msssim.ssim),
        "pytorch_msssim.ms_ssim, step": of(step, pytorch_msssim.ms_ssim, compat_msssim.ms_ssim),
        f"torchmetrics.image.{ssim}": of(
            epoch,
            getattr(torchmetrics.image, ssim)(data_range=1.0),
            getattr(metrics, ssim)(data_range=1.0),
        ),
        f"torchmetrics.image.{scales}": of(
            epoch,
            getattr(torchmetrics.image, scales)(data_range=1.0),
            getattr(metrics, scales)(data_range=1.0),
        ),
        "skimage structural_similarity, uint8": of(
            lambda function: function(*pictures, channel_axis=-1),
            skimage.metrics.structural_similarity,
            compat_skimage.structural_similarity,
        ),
        "the same, Gaussian weights": of(
            lambda function: function(*pictures, channel_axis=-1, **_STANDARD),
            skimage.metrics.structural_similarity,
            compat_skimage.structural_similarity,
        ),
        "the same with full=True": of(
            lambda function: function(*pictures, channel_axis=-1, full=True, **_STANDARD),
            skimage.metrics.structural_similarity,
            compat_skimage.structural_similarity,
        ),
    }


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--budget", type=float, default=10.0, metavar="SECONDS", help="a call")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--name", help="of the file, without .json (default: none is written)")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    device = torch.device("cpu")
    packages = ("fused-ssim", "pytorch-msssim", "torchmetrics", "scikit-image")
    results = Results(
        subject="switching",
        command=recorded_command("benchmarks/switching.py"),
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        commit=commit(),
        device="cpu",
        dtype="float32",
        element_bytes=4,
        machine=describe(device),
        ceilings=None,
        libraries={package: metadata.version(package) for package in packages},
        notes=[],
    )
    for call, (theirs, ours) in _pairs().items():
        steps = {"ours": lambda _, f=ours: f(), "theirs": lambda _, f=theirs: f()}
        for name, timing in cpu_times(steps, arguments.budget).items():
            size = "x".join(map(str, _SHAPE))
            results.rows.append(Row(name, call, size, math.prod(_SHAPE), wall=timing))
    print(tables(results))
    if arguments.name is not None:
        results.write(arguments.out / f"{arguments.name}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
