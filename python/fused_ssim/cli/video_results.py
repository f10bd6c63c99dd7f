"""What a comparison of two videos found, and its statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fused_ssim.cli.measure import Scores
from fused_ssim.cli.results import finite, mean
from fused_ssim.cli.settings import Metric

if TYPE_CHECKING:
    from fused_ssim.cli.videos import Video

PERCENTILES = (1, 5, 50, 95)


@dataclass(frozen=True)
class FrameScores:
    """The numbers of a pair of frames."""

    index: int
    time_s: float | None
    """After A's first frame; None where the file does not tell."""
    scores: Scores


@dataclass
class VideoResults:
    """Of one run."""

    a: Video
    b: Video
    frames: list[FrameScores] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def numbers(self, metric: Metric) -> list[float]:
        """Of each frame."""
        return [frame.scores.values[metric] for frame in self.frames]

    def statistics(self, metric: Metric) -> dict[str, float]:
        """Over the frames."""
        numbers = self.numbers(metric)
        # Of the order statistics themselves: between infinities nothing can be interpolated.
        percentiles = np.percentile(numbers, PERCENTILES, method="nearest")
        return {
            "mean": mean(finite(numbers)),
            "harmonic_mean": harmonic_mean(finite(numbers)),
            "min": min(numbers),
            **{f"p{p}": float(v) for p, v in zip(PERCENTILES, percentiles, strict=True)},
            "max": max(numbers),
        }

    def below(self, minima: Sequence[tuple[Metric, float]]) -> list[str]:
        """A line for each mean below its minimum. NaN is below every one."""
        means = [(metric, mean(finite(self.numbers(metric))), least) for metric, least in minima]
        return [
            f"{self.a.path} and {self.b.path}: mean {metric} {value:.6g} is below the minimum of "
            f"{least:g}"
            for metric, value, least in means
            if not value >= least
        ]


def harmonic_mean(numbers: Sequence[float]) -> float:
    """It weighs bad frames more than the mean does; NaN where a number is not positive."""
    if not all(number > 0.0 for number in numbers):
        return math.nan
    reciprocal = mean([1.0 / number for number in numbers])
    return 1.0 / reciprocal if reciprocal else math.inf
