"""`fused-ssim compare`: two image files, or two folders of them."""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fused_ssim.cli.errors import CliError
from fused_ssim.cli.heatmap import heat_map
from fused_ssim.cli.images import (
    CHANNEL_NAMES,
    image_files,
    make_folder,
    parse_colour,
    read_image,
    save_image,
)
from fused_ssim.cli.measure import Scores, Settings, check_settings, measure
from fused_ssim.cli.progress import progress
from fused_ssim.cli.tables import json_number, psnr_text, ssim_text, text_table


@dataclass(frozen=True)
class Pair:
    """Two image files and what was measured."""

    a: Path
    b: Path
    width: int
    height: int
    scores: Scores

    @property
    def channels(self) -> dict[str, float]:
        """SSIM by the channel's name."""
        values = self.scores.per_channel
        return dict(zip(CHANNEL_NAMES[len(values)], values, strict=True))


@dataclass(frozen=True)
class Failure:
    """A pair that could not be compared."""

    a: Path
    b: Path
    reason: str


@dataclass(frozen=True)
class Matches:
    """The images of two folders, paired by name."""

    pairs: list[tuple[Path, Path]]
    only_a: list[Path]
    only_b: list[Path]


def run(arguments: argparse.Namespace) -> int:
    """Compare what the arguments name; the exit code is 2 when a pair of a folder failed."""
    a: Path = arguments.a
    b: Path = arguments.b
    for path in (a, b):
        if not path.exists():
            raise CliError(f"{path}: no such file or folder")
    if a.is_dir() != b.is_dir():
        folder, file = (a, b) if a.is_dir() else (b, a)
        raise CliError(f"{folder} is a folder and {file} is a file; give two files or two folders")

    settings = Settings(
        padding=arguments.padding,
        window_size=arguments.window_size,
        sigma=arguments.sigma,
        device=arguments.device,
    )
    check_settings(settings)
    parse_colour(arguments.background)
    if a.is_dir():
        return _run_folders(a, b, settings, arguments)
    if arguments.csv is not None:
        raise CliError("--csv is for two folders; use --json for two files")
    return _run_files(a, b, settings, arguments)


def _compare(
    a: Path, b: Path, settings: Settings, arguments: argparse.Namespace, map_path: Path | None
) -> Pair:
    image_a = read_image(a, arguments.background)
    image_b = read_image(b, arguments.background)
    try:
        scores = measure(image_a, image_b, settings, with_map=map_path is not None)
    except CliError as error:
        raise CliError(f"{a} and {b}: {error}") from None
    if map_path is not None and scores.ssim_map is not None:
        save_image(heat_map(scores.ssim_map, arguments.map_min), map_path)
    height, width = image_a.shape[-2:]
    return Pair(a, b, width, height, scores)


# --- two files ---


def _run_files(a: Path, b: Path, settings: Settings, arguments: argparse.Namespace) -> int:
    pair = _compare(a, b, settings, arguments, arguments.map)
    if arguments.json:
        report = {**_pair_json(pair), "settings": asdict(settings)}
        if arguments.map is not None:
            report["map"] = str(arguments.map)
        print(json.dumps(report, indent=2))
        return 0

    lines = [
        ("A", str(a)),
        ("B", str(b)),
        ("size", f"{pair.width} x {pair.height}, {_channels_text(pair)}"),
        ("window", _window_text(settings)),
        ("SSIM", ssim_text(pair.scores.ssim)),
        *((f"  {name}", ssim_text(value)) for name, value in pair.channels.items()),
        ("PSNR", _with_unit(pair.scores.psnr_db)),
    ]
    if arguments.map is not None:
        lines.append(("map", str(arguments.map)))
    print("\n".join(f"{label:<8}{text}" for label, text in lines))
    return 0


# --- two folders ---


def _run_folders(a: Path, b: Path, settings: Settings, arguments: argparse.Namespace) -> int:
    matches = match_by_name(image_files(a), image_files(b))
    if not matches.pairs:
        raise CliError(f"no image in {a} has a partner of the same name in {b}")
    if arguments.map is not None:
        make_folder(arguments.map)

    pairs: list[Pair] = []
    failures: list[Failure] = []
    bar = progress(matches.pairs, "comparing", "pair", show=not arguments.no_progress)
    for file_a, file_b in bar:
        # The whole name, so that a.png and a.jpg do not write the same map.
        map_path = arguments.map / f"{file_a.name}.png" if arguments.map is not None else None
        try:
            pairs.append(_compare(file_a, file_b, settings, arguments, map_path))
        except CliError as error:
            failures.append(Failure(file_a, file_b, str(error)))

    if arguments.csv is not None:
        _write_csv(arguments.csv, pairs, failures)
    if arguments.json:
        print(json.dumps(_folders_json(pairs, failures, matches, settings), indent=2))
    else:
        _print_folders(pairs, matches, settings)
    for failure in failures:
        print(f"fused-ssim: error: {failure.reason}", file=sys.stderr)
    return 2 if failures else 0


def match_by_name(files_a: Sequence[Path], files_b: Sequence[Path]) -> Matches:
    """Pair files by their whole name, then the rest by their stem where only one can be meant."""
    by_name = {path.name: path for path in files_b}
    pairs = [(path, by_name[path.name]) for path in files_a if path.name in by_name]
    matched = {path for pair in pairs for path in pair}

    rest_a = _by_unique_stem(path for path in files_a if path not in matched)
    rest_b = _by_unique_stem(path for path in files_b if path not in matched)
    pairs += [(path, rest_b[stem]) for stem, path in rest_a.items() if stem in rest_b]
    matched = {path for pair in pairs for path in pair}
    return Matches(
        pairs=sorted(pairs),
        only_a=[path for path in files_a if path not in matched],
        only_b=[path for path in files_b if path not in matched],
    )


def _by_unique_stem(paths: Iterable[Path]) -> dict[str, Path]:
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(path.stem, []).append(path)
    return {stem: group[0] for stem, group in groups.items() if len(group) == 1}


def _print_folders(pairs: Sequence[Pair], matches: Matches, settings: Settings) -> None:
    print(_window_text(settings))
    if pairs:
        rows = [
            (
                pair.a.name if pair.a.name == pair.b.name else f"{pair.a.name} | {pair.b.name}",
                ssim_text(pair.scores.ssim),
                psnr_text(pair.scores.psnr_db),
            )
            for pair in pairs
        ]
        mean = (f"mean of {len(pairs)}", ssim_text(_mean_ssim(pairs)), psnr_text(_mean_psnr(pairs)))
        print(text_table(("image", "SSIM", "PSNR (dB)"), rows, footer=mean))
    for folder, unmatched in (("A", matches.only_a), ("B", matches.only_b)):
        if unmatched:
            print(f"only in {folder}: {', '.join(path.name for path in unmatched)}")


def _write_csv(path: Path, pairs: Sequence[Pair], failures: Sequence[Failure]) -> None:
    columns = [
        *("name_a", "name_b", "width", "height", "ssim"),
        *("ssim_r", "ssim_g", "ssim_b", "ssim_gray", "psnr_db", "error"),
    ]
    rows: list[dict[str, object]] = [
        {
            "name_a": pair.a.name,
            "name_b": pair.b.name,
            "width": pair.width,
            "height": pair.height,
            "ssim": pair.scores.ssim,
            **{f"ssim_{name.lower()}": value for name, value in pair.channels.items()},
            "psnr_db": pair.scores.psnr_db,
        }
        for pair in pairs
    ]
    rows += [
        {"name_a": failure.a.name, "name_b": failure.b.name, "error": failure.reason}
        for failure in failures
    ]
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror}") from None


# --- pieces of both ---


def _folders_json(
    pairs: Sequence[Pair], failures: Sequence[Failure], matches: Matches, settings: Settings
) -> dict[str, object]:
    return {
        "pairs": [_pair_json(pair) for pair in pairs],
        "mean": {
            "count": len(pairs),
            "ssim": json_number(_mean_ssim(pairs)),
            "psnr_db": json_number(_mean_psnr(pairs)),
        },
        "failed": [{"a": str(f.a), "b": str(f.b), "error": f.reason} for f in failures],
        "only_in_a": [path.name for path in matches.only_a],
        "only_in_b": [path.name for path in matches.only_b],
        "settings": asdict(settings),
    }


def _pair_json(pair: Pair) -> dict[str, object]:
    return {
        "a": str(pair.a),
        "b": str(pair.b),
        "width": pair.width,
        "height": pair.height,
        "ssim": json_number(pair.scores.ssim),
        "ssim_per_channel": {name: json_number(value) for name, value in pair.channels.items()},
        "psnr_db": json_number(pair.scores.psnr_db),
    }


def _channels_text(pair: Pair) -> str:
    count = len(pair.channels)
    return f"{count} channel{'s' if count > 1 else ''}"


def _window_text(settings: Settings) -> str:
    return f"{settings.window_size} taps, sigma {settings.sigma:g}, padding {settings.padding}"


def _with_unit(psnr_db: float) -> str:
    unit = " dB" if math.isfinite(psnr_db) else " (identical)"
    return psnr_text(psnr_db) + unit


def _mean_ssim(pairs: Sequence[Pair]) -> float:
    return _mean([pair.scores.ssim for pair in pairs])


def _mean_psnr(pairs: Sequence[Pair]) -> float:
    return _mean([pair.scores.psnr_db for pair in pairs])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
