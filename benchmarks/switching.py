"""The drop-ins beside the packages that they stand in for, on this machine's CPU, in one run.

    pip install pytorch-msssim torchmetrics scikit-image
    python benchmarks/switching.py --threads 2

Prints the table of docs/switching.md, and writes NAME.json to benchmarks/results/. Each pair takes turns,
so that a disturbance of the machine meets both.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib import metadata
from typing import Any

import pytorch_msssim
import skimage.metrics
import torch
import torchmetrics.image
from report import format_table
from script import parse, parser, record
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
    arguments = parse(parser(__doc__, 10.0))
    times = {
        name: cpu_times(
            {"theirs": lambda _, f=theirs: f(), "ours": lambda _, f=ours: f()}, arguments.budget
        )
        for name, (theirs, ours) in _pairs().items()
    }

    def cells(name: str) -> list[str]:
        theirs, ours = (times[name][of].median_s for of in ("theirs", "ours"))
        return [name, f"{theirs * 1e3:.0f} ms", f"{ours * 1e3:.1f} ms", f"{theirs / ours:.1f}x"]

    header = ["call", "theirs", "ours", "ratio"]
    print(f"{'x'.join(map(str, _SHAPE))}\n{format_table(header, map(cells, times))}")
    record(
        arguments,
        "switching",
        torch.device("cpu"),
        versions={
            package: metadata.version(package)
            for package in ("fused-ssim", "pytorch-msssim", "torchmetrics", "scikit-image")
        },
        times={
            name: {of: asdict(timing) for of, timing in both.items()}
            for name, both in times.items()
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
