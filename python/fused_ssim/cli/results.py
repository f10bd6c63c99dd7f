"""What a comparison found, and its means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fused_ssim.cli.measure import Scores
from fused_ssim.cli.settings import Metric, Settings


@dataclass(frozen=True)
class Pair:
    """Two image files and what was measured."""

    a: Path
    b: Path
    name_a: str
    name_b: str
    scores: Scores

    @property
    def name(self) -> str:
        """Both names, or the one that they share."""
        return self.name_a if self.name_a == self.name_b else f"{self.name_a} | {self.name_b}"


@dataclass(frozen=True)
class Failure:
    """A pair that could not be compared, or a file without a partner."""

    a: Path | None
    b: Path | None
    name_a: str
    name_b: str
    reason: str


@dataclass
class Results:
    """Of one run."""

    pairs: list[Pair] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def mean(self, metric: Metric) -> float:
        """Over the pairs."""
        return mean(finite(self.numbers(metric)))

    def numbers(self, metric: Metric) -> list[float]:
        """Of each pair."""
        return [pair.scores.values[metric] for pair in self.pairs]

    @property
    def identical(self) -> int:
        """Pairs whose PSNR is infinite and not in its mean."""
        return sum(math.isinf(pair.scores.values.get("psnr", 0.0)) for pair in self.pairs)


def below(results: Results, minima: Sequence[tuple[Metric, float]]) -> list[str]:
    """A line for each number below its minimum. NaN is below every one."""
    return [
        f"{pair.name}: {metric} {pair.scores.values[metric]:.6g} is below the minimum of {least:g}"
        for pair in results.pairs
        for metric, least in minima
        if not pair.scores.values[metric] >= least
    ]


def badness(scores: Scores, settings: Settings) -> float:
    """Larger for what is less alike, by the first metric."""
    value = scores.values[settings.metrics[0]]
    if math.isnan(value):
        return math.inf
    return value if settings.metrics[0] == "l1-ssim" else -value


def finite(numbers: Sequence[float]) -> Sequence[float]:
    """PSNR is infinite for identical images: means are of the others, unless there is none."""
    return [number for number in numbers if math.isfinite(number)] or numbers


def mean(numbers: Sequence[float]) -> float:
    """NaN over nothing."""
    return math.fsum(numbers) / len(numbers) if numbers else math.nan
