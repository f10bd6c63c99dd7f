"""Results of videos as text, JSON, CSV and a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fused_ssim.cli.html_report import Page, Row, Shown
from fused_ssim.cli.plot import timeline
from fused_ssim.cli.report import (
    numbers_json,
    numbers_row,
    numeric_columns,
    settings_json,
    window_text,
    write_rows,
)
from fused_ssim.cli.results import badness
from fused_ssim.cli.settings import KEYS, Settings
from fused_ssim.cli.tables import TITLES, json_number, metric_text, text_table
from fused_ssim.cli.video_results import PERCENTILES, VideoResults
from fused_ssim.cli.videos import Video

_STATISTICS = {
    "mean": "mean",
    "harmonic_mean": "harmonic mean",
    "min": "min",
    **{f"p{p}": f"{p} %" for p in PERCENTILES},
    "max": "max",
}
_CHANNELS = {
    "y": "luma as stored",
    "y-full": "luma of the colours, in full swing",
    "rgb": "R, G and B",
    "each": "R, G and B",
}


def text(results: VideoResults, settings: Settings) -> str:
    """Facts, and a table of statistics."""
    worst = max(results.frames, key=lambda frame: badness(frame.scores, settings))
    time = "" if worst.time_s is None else f" at {worst.time_s:.2f} s"
    lines = [*_facts(results, settings), ("worst", f"frame {worst.index}{time}")]
    table = text_table(("", *_STATISTICS.values()), _statistics(results, settings))
    return "\n".join([*(f"{label:<8}{words}" for label, words in lines), table])


def _facts(results: VideoResults, settings: Settings) -> list[tuple[str, str]]:
    return [
        *((name, f"{v.path}, {v.facts}") for name, v in (("A", results.a), ("B", results.b))),
        ("frames", str(len(results.frames))),
        ("of", _CHANNELS[settings.channels]),
        ("window", window_text(settings)),
    ]


def _statistics(results: VideoResults, settings: Settings) -> list[tuple[str, ...]]:
    """A row for each metric."""
    return [
        (
            TITLES[metric],
            *(metric_text(metric, value) for value in results.statistics(metric).values()),
        )
        for metric in settings.metrics
    ]


def facts(results: VideoResults, settings: Settings, mask: Path | None) -> dict[str, object]:
    """For JSON: null stands for infinity, and for what is not defined."""
    return {
        "a": _video_json(results.a),
        "b": _video_json(results.b),
        "statistics": {
            "count": len(results.frames),
            **{
                KEYS[metric]: {
                    name: json_number(value) for name, value in results.statistics(metric).items()
                }
                for metric in settings.metrics
            },
        },
        "frames": [
            {
                "frame": frame.index,
                "time_s": frame.time_s,
                **numbers_json(frame.scores, settings),
            }
            for frame in results.frames
        ],
        "failed": results.failures,
        "settings": settings_json(settings, mask),
    }


def _video_json(video: Video) -> dict[str, object]:
    return {
        "file": str(video.path),
        "width": video.width,
        "height": video.height,
        "bits": video.bits,
        "frames_per_second": None if video.rate is None else float(video.rate),
    }


def write_csv(path: Path, results: VideoResults, settings: Settings) -> None:
    """A row for each pair of frames and each failure."""
    columns = ["frame", "time_s", *numeric_columns(settings), "error"]
    rows: list[dict[str, object]] = [
        {
            "frame": frame.index,
            "time_s": "" if frame.time_s is None else frame.time_s,
            **numbers_row(frame.scores, settings),
        }
        for frame in results.frames
    ]
    write_rows(path, columns, [*rows, *({"error": failure} for failure in results.failures)])


def page(results: VideoResults, settings: Settings, shown: Sequence[Shown], map_min: float) -> Page:
    """With a plot over time, and the worst frames' pictures."""
    metric = settings.metrics[0]
    marks = {frame.frame: frame.anchor for frame in shown if frame.frame is not None}
    return Page(
        title=f"{results.a.path.name} and {results.b.path.name}",
        facts=_facts(results, settings),
        statistics=(tuple(_STATISTICS.values()), _statistics(results, settings)),
        plot=timeline(
            results.numbers(metric),
            [frame.time_s for frame in results.frames],
            marks,
            TITLES[metric],
        ),
        rows=[Row.of(frame.title, frame.scores, settings, frame.anchor) for frame in shown],
        rows_title="Worst frames, of each second one",
        metrics=settings.metrics,
        shown=shown,
        failures=results.failures,
        map_min=map_min,
    )
