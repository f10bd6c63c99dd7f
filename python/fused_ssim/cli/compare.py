"""`fused-ssim compare`: two image files, or two folders of them."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fused_ssim.cli import pipeline, report
from fused_ssim.cli.ahead import ahead, cores
from fused_ssim.cli.errors import CliError
from fused_ssim.cli.errors import report as to_stderr
from fused_ssim.cli.heatmap import heat_map
from fused_ssim.cli.images import (
    Pixels,
    Reading,
    image_files,
    large_pictures,
    make_folder,
    parse_colour,
    read_image,
    save_image,
)
from fused_ssim.cli.matching import match
from fused_ssim.cli.measure import Scores, check_settings
from fused_ssim.cli.pipeline import Work
from fused_ssim.cli.progress import progress
from fused_ssim.cli.results import Failure, Pair, Results, below
from fused_ssim.cli.settings import Settings

BELOW_MINIMUM, FAILED = 1, 2


@dataclass(frozen=True)
class Job:
    """A pair that is to be compared."""

    a: Path
    b: Path
    name_a: str
    name_b: str
    map_path: Path | None


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
    parse_colour(arguments.background)
    settings = _settings(arguments)
    with large_pictures(any_size=arguments.any_size):
        mask = None if arguments.mask is None else _read_mask(arguments.mask)
        check_settings(settings, mask)
        jobs, unmatched = _jobs(arguments)
        results = _measure_all(jobs, settings, mask, arguments)
        results.failures += unmatched

    if not a.is_dir() and results.failures:
        raise CliError(results.failures[0].reason)
    _print(results, settings, arguments)
    errors = [failure.reason for failure in results.failures]
    if arguments.csv is not None:
        try:
            report.write_csv(arguments.csv, results, settings)
        except CliError as error:
            errors.append(str(error))
    too_low = below(results, arguments.min)
    for line in (*errors, *too_low):
        to_stderr(line)
    return FAILED if errors else BELOW_MINIMUM if too_low else 0


def _settings(arguments: argparse.Namespace) -> Settings:
    for metric, _ in arguments.min:
        if metric not in arguments.metric:
            raise CliError(f"--min {metric}: expected one of --metric {','.join(arguments.metric)}")
    window = arguments.window
    return Settings(
        metrics=arguments.metric,
        window=window,
        window_size=arguments.window_size if isinstance(window, str) else len(window),
        sigma=arguments.sigma,
        padding=arguments.padding,
        channels=arguments.channels,
        crop_border=arguments.crop_border,
        device=arguments.device,
    )


def _read_mask(path: Path) -> Pixels:
    mask = read_image(path)
    if (mask != mask[..., :1]).any():
        raise CliError(f"{path}: a mask is gray, white where pixels count; this one has colours")
    return mask[..., :1]


def _jobs(arguments: argparse.Namespace) -> tuple[list[Job], list[Failure]]:
    """What to compare, and the files without a partner."""
    a, b, maps = arguments.a, arguments.b, arguments.map
    if not a.is_dir():
        return [Job(a, b, a.name, b.name, maps)], []
    files_a, files_b = (image_files(folder, recursive=arguments.recursive) for folder in (a, b))
    matches = match(a, b, files_a, files_b, arguments.match)
    if not matches.pairs:
        raise CliError(f"no image in {a} has a partner in {b} by --match {arguments.match}")
    unmatched = [
        Failure(path, None, _name(path, a), "", f"{path}: has no partner in {b}")
        for path in matches.only_a
    ]
    unmatched += [
        Failure(None, path, "", _name(path, b), f"{path}: has no partner in {a}")
        for path in matches.only_b
    ]
    jobs = []
    for file_a, file_b in matches.pairs:
        map_path = None
        if maps is not None:
            # The whole name, so that a.png and a.jpg do not write the same map.
            map_path = maps / f"{_name(file_a, a)}.png"
            make_folder(map_path.parent)
        jobs.append(Job(file_a, file_b, _name(file_a, a), _name(file_b, b), map_path))
    return jobs, unmatched


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _measure_all(
    jobs: list[Job],
    settings: Settings,
    mask: Pixels | None,
    arguments: argparse.Namespace,
) -> Results:
    workers = min(len(jobs), cores())
    reading = Reading(arguments.background, arguments.data_range)
    work = Work(
        read=partial(_read, reading=reading, together=len(jobs) == 1),
        name=lambda job: f"{job.a} and {job.b}",
        finish=partial(_finish, map_min=arguments.map_min),
        settings=settings,
        mask=mask,
        with_map=arguments.map is not None,
    )
    found = pipeline.run(jobs, work, workers)
    results = Results()
    show = arguments.a.is_dir() and not arguments.no_progress
    for result in progress(found, "comparing", "pair", show=show, total=len(jobs)):
        if isinstance(result, Pair):
            results.pairs.append(result)
        else:
            results.failures.append(result)
    return results


def _read(job: Job, reading: Reading, together: bool) -> tuple[Pixels, Pixels]:
    a, b = ahead(partial(read_image, reading=reading), (job.a, job.b), 2 if together else 1)
    return a, b


def _finish(job: Job, scores: Scores | CliError, map_min: float) -> Pair | Failure:
    try:
        if isinstance(scores, CliError):
            raise scores
        if job.map_path is not None and scores.ssim_map is not None:
            save_image(heat_map(scores.ssim_map, map_min), job.map_path)
    except CliError as error:
        return Failure(job.a, job.b, job.name_a, job.name_b, str(error))
    # The map is in its file: those of a thousand pairs would fill the memory.
    return Pair(job.a, job.b, job.name_a, job.name_b, scores.without_map())


def _print(results: Results, settings: Settings, arguments: argparse.Namespace) -> None:
    of_folders = arguments.a.is_dir()
    if arguments.json:
        facts = (
            report.folders_json(results, settings)
            if of_folders
            else report.pair_json(results.pairs[0], settings)
        )
        facts["settings"] = report.settings_json(settings, arguments.mask)
        if arguments.map is not None:
            facts["map"] = str(arguments.map)
        print(json.dumps(facts, indent=2))
    elif of_folders:
        print(report.folders_text(results, settings))
    else:
        more = [] if arguments.map is None else [("map", str(arguments.map))]
        print(report.pair_text(results.pairs[0], settings, more))
