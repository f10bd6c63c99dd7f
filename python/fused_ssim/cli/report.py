"""Results of images as text, JSON, CSV and a page."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from fused_ssim.cli.errors import CliError
from fused_ssim.cli.html_report import Page, Row, Shown
from fused_ssim.cli.measure import Scores
from fused_ssim.cli.results import Pair, Results
from fused_ssim.cli.settings import KEYS, Settings
from fused_ssim.cli.tables import TITLES, counted, json_number, metric_text, text_table

_CSV_CHANNELS = {
    "each": ("R", "G", "B", "gray"),
    "rgb": (),
    "y": (),
    "y-full": (),
}


def pair_text(pair: Pair, settings: Settings, more: list[tuple[str, str]]) -> str:
    """Of two files: a line for each fact, `more` at the end."""
    names = pair.scores.channel_names
    lines = [
        ("A", str(pair.a)),
        ("B", str(pair.b)),
        ("size", "{} x {}, {}".format(*pair.scores.size, counted(len(names), "channel"))),
        ("window", window_text(settings)),
    ]
    for metric in settings.metrics:
        value = pair.scores.values[metric]
        unit = ""
        if metric == "psnr":
            unit = " dB" if math.isfinite(value) else " (identical)"
        lines.append((TITLES[metric].split()[0], metric_text(metric, value) + unit))
        if settings.channels == "each" and metric != "psnr":
            numbers = zip(names, pair.scores.per_channel[metric], strict=True)
            lines += [(f"  {name}", metric_text(metric, number)) for name, number in numbers]
    return "\n".join(f"{label:<8}{text}" for label, text in [*lines, *more])


def folders_text(results: Results, settings: Settings) -> str:
    """Of two folders: a table with the means."""
    header = ("image", *(TITLES[metric] for metric in settings.metrics))
    rows = [
        (
            pair.name,
            *(metric_text(metric, pair.scores.values[metric]) for metric in settings.metrics),
        )
        for pair in results.pairs
    ]
    means = [metric_text(metric, results.mean(metric)) for metric in settings.metrics]
    footer = (f"mean of {len(results.pairs)}", *means)
    lines = [window_text(settings)]
    if rows:
        lines.append(text_table(header, rows, footer=footer))
    if 0 < results.identical < len(results.pairs):
        lines.append(f"the mean PSNR is without {counted(results.identical, 'identical pair')}")
    return "\n".join(lines)


def window_text(settings: Settings) -> str:
    """The definition of SSIM in words."""
    window = "" if settings.window == "gaussian" else "uniform, "
    if not isinstance(settings.window, str):
        window = "given, "
    sigma = f", sigma {settings.sigma:g}" if settings.window == "gaussian" else ""
    border = f", {counted(settings.crop_border, 'pixel')} cropped" if settings.crop_border else ""
    padding = _padding_text(settings)
    return f"{window}{settings.window_size} taps{sigma}, padding {padding}{border}"


def _padding_text(settings: Settings) -> str:
    """Of the metrics that are measured; PSNR has none."""
    ssim, ms_ssim = settings.ssim_padding, settings.ms_ssim_padding
    if "ms-ssim" not in settings.metrics or ssim == ms_ssim:
        return ssim
    has_other = not {"ssim", "l1-ssim"}.isdisjoint(settings.metrics)
    return f"{ssim} ({ms_ssim} for MS-SSIM)" if has_other else ms_ssim


def settings_json(settings: Settings, mask: Path | None) -> dict[str, object]:
    """How the numbers came about."""
    return {
        **asdict(settings),
        "padding": settings.ssim_padding,
        "ms_ssim_padding": settings.ms_ssim_padding if "ms-ssim" in settings.metrics else None,
        "mask": None if mask is None else str(mask),
    }


def numbers_json(scores: Scores, settings: Settings) -> dict[str, object]:
    """The numbers of a pair; null stands for infinity."""
    numbers: dict[str, object] = {}
    for metric in settings.metrics:
        key = KEYS[metric]
        numbers[key] = json_number(scores.values[metric])
        if settings.channels == "each":
            per_channel = zip(scores.channel_names, scores.per_channel[metric], strict=True)
            numbers[f"{key}_per_channel"] = {name: json_number(v) for name, v in per_channel}
    return numbers


def pair_json(pair: Pair, settings: Settings) -> dict[str, object]:
    """Files, size and numbers."""
    return {
        "a": str(pair.a),
        "b": str(pair.b),
        **dict(zip(("width", "height"), pair.scores.size, strict=True)),
        **numbers_json(pair.scores, settings),
    }


def folders_json(results: Results, settings: Settings) -> dict[str, object]:
    """Pairs, means and failures."""
    return {
        "pairs": [pair_json(pair, settings) for pair in results.pairs],
        "mean": {
            "count": len(results.pairs),
            "identical": results.identical,
            **{KEYS[metric]: json_number(results.mean(metric)) for metric in settings.metrics},
        },
        "failed": [
            {
                "a": None if failure.a is None else str(failure.a),
                "b": None if failure.b is None else str(failure.b),
                "error": failure.reason,
            }
            for failure in results.failures
        ],
    }


def numeric_columns(settings: Settings) -> list[str]:
    """Of a CSV: each metric, and its channels."""
    suffixes = ("", *(f"_{name.lower()}" for name in _CSV_CHANNELS[settings.channels]))
    return [f"{KEYS[metric]}{suffix}" for metric in settings.metrics for suffix in suffixes]


def numbers_row(scores: Scores, settings: Settings) -> dict[str, object]:
    """What stands in numeric_columns(), as far as the images have these channels."""
    row: dict[str, object] = {}
    for metric in settings.metrics:
        row[KEYS[metric]] = scores.values[metric]
        if _CSV_CHANNELS[settings.channels]:
            numbers = zip(scores.channel_names, scores.per_channel[metric], strict=True)
            row |= {f"{KEYS[metric]}_{name.lower()}": number for name, number in numbers}
    return row


def write_csv(path: Path, results: Results, settings: Settings) -> None:
    """A row for each pair and each failure."""
    columns = ["name_a", "name_b", "width", "height", *numeric_columns(settings), "error"]
    rows: list[dict[str, object]] = [
        {
            "name_a": pair.name_a,
            "name_b": pair.name_b,
            **dict(zip(("width", "height"), pair.scores.size, strict=True)),
            **numbers_row(pair.scores, settings),
        }
        for pair in results.pairs
    ]
    rows += [
        {"name_a": failure.name_a, "name_b": failure.name_b, "error": failure.reason}
        for failure in results.failures
    ]
    write_rows(path, columns, rows)


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """A CSV file with a header; what a row lacks stays empty."""
    try:
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror}") from None


def page(results: Results, settings: Settings, shown: Sequence[Shown], map_min: float) -> Page:
    """A row for each pair, and pictures of the worst ones."""
    anchors = {id(one.scores): one.anchor for one in shown}
    means = [(TITLES[m], metric_text(m, results.mean(m))) for m in settings.metrics]
    failed = [("failed", str(len(results.failures)))] if results.failures else []
    return Page(
        title=f"{counted(len(results.pairs), 'pair')} of images",
        facts=[("pairs", str(len(results.pairs))), *failed, ("window", window_text(settings))],
        statistics=(("mean",), means),
        plot="",
        rows=[
            Row.of(pair.name, pair.scores, settings, anchors.get(id(pair.scores)))
            for pair in results.pairs
        ],
        rows_title="Pairs",
        metrics=settings.metrics,
        shown=shown,
        failures=[failure.reason for failure in results.failures],
        map_min=map_min,
    )
