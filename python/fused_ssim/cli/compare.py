"""`fused-ssim compare`: two image files, or two folders of them; videos are compare_videos.py's."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from fused_ssim.cli import html_report, pipeline, report
from fused_ssim.cli.ahead import ahead, cores
from fused_ssim.cli.errors import CliError
from fused_ssim.cli.heatmap import heat_map
from fused_ssim.cli.html_report import Shown
from fused_ssim.cli.images import (
    Pixels,
    Reading,
    check_image_name,
    image_files,
    large_pictures,
    make_folder,
    names_a_picture,
    parse_colour,
    read_image,
    save_image,
)
from fused_ssim.cli.matching import match
from fused_ssim.cli.measure import Scores, check_settings, measure
from fused_ssim.cli.outcome import conclude, print_out
from fused_ssim.cli.pipeline import Work
from fused_ssim.cli.progress import progress
from fused_ssim.cli.results import Failure, Pair, Results, badness, below
from fused_ssim.cli.settings import Channels, Settings

_PICTURES = 40
_VIDEO = "a video"
_VIDEO_SUFFIXES = {
    *(".avi", ".flv", ".h264", ".h265", ".hevc", ".ivf", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".mxf", ".obu", ".ogv", ".ts", ".webm", ".wmv", ".y4m"),
}


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
    kinds = {_kind(path): path for path in (a, b)}
    if len(kinds) > 1:
        (one, first), (other, second) = kinds.items()
        raise CliError(
            f"{first} is {one} and {second} is {other}; give two images, two folders or two videos"
        )
    _check_outputs(arguments, of_files="a file" in kinds)
    parse_colour(arguments.background)
    of_videos = _VIDEO in kinds
    settings = _settings(arguments, "y" if of_videos else "each")
    with large_pictures(any_size=arguments.any_size):
        mask = None if arguments.mask is None else _read_mask(arguments.mask)
        check_settings(settings, mask)
        if of_videos:
            from fused_ssim.cli import compare_videos  # needs PyAV

            return compare_videos.run(arguments, settings, mask)
        return _compare_images(arguments, settings, mask)


def _check_outputs(arguments: argparse.Namespace, *, of_files: bool) -> None:
    """Refuse now what could not be written after hours of comparing."""
    files, maps = [arguments.csv, arguments.html], arguments.map
    if of_files:
        files.append(maps)
    for path in (*files, maps):
        if path is None:
            continue
        folder = path.absolute().parent
        if not folder.is_dir():
            raise CliError(f"cannot write {path}: there is no folder {folder}; make it")
        if path in files and path.is_dir():
            raise CliError(f"cannot write {path}: it is a folder; give the name of a file")
        if path.resolve() in (arguments.a.resolve(), arguments.b.resolve()) and path in files:
            raise CliError(f"cannot write {path}: it is one of the two that are compared")
    if maps is None:
        return
    if of_files:
        check_image_name(maps)
        return
    if names_a_picture(maps) and not maps.is_dir():
        raise CliError(
            f"--map {maps}: expected the name of a folder for the maps, got a picture's name; leave "
            f"out the suffix {maps.suffix}"
        )
    make_folder(maps)


def _kind(path: Path) -> str:
    if path.is_dir():
        return "a folder"
    return _VIDEO if path.suffix.lower() in _VIDEO_SUFFIXES else "a file"


def _compare_images(arguments: argparse.Namespace, settings: Settings, mask: Pixels | None) -> int:
    jobs, unmatched = _jobs(arguments)
    reading = Reading(arguments.background, arguments.data_range)
    work = Work(
        read=partial(_read, reading=reading, together=len(jobs) == 1),
        name=lambda job: f"{job.a} and {job.b}",
        finish=partial(_finish, map_min=arguments.map_min),
        settings=settings,
        mask=mask,
        with_map=arguments.map is not None,
    )
    results = _measure_all(jobs, work, arguments)
    results.failures += unmatched
    if not arguments.a.is_dir() and results.failures:
        raise CliError(results.failures[0].reason)
    _print(results, settings, arguments)
    outputs: list[Callable[[], None]] = []
    if arguments.csv is not None:
        outputs.append(partial(report.write_csv, arguments.csv, results, settings))
    if arguments.html is not None:
        worst = sorted(results.pairs, key=lambda pair: badness(pair.scores, settings), reverse=True)
        most = arguments.pictures or _PICTURES
        shown = [_shown(place, pair, work) for place, pair in enumerate(worst[:most])]
        page = partial(report.page, results, settings, shown, arguments.map_min)
        outputs.append(partial(html_report.write, arguments.html, page))
    failures = [failure.reason for failure in results.failures]
    return conclude(failures, outputs, below(results, arguments.min))


def _settings(arguments: argparse.Namespace, channels: Channels) -> Settings:
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
        channels=arguments.channels or channels,
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
    empty = [str(folder) for folder, files in ((a, files_a), (b, files_b)) if not files]
    if empty:
        remedy = "" if arguments.recursive else "; --recursive searches sub-folders, too"
        raise CliError(
            f"no image in {' or '.join(empty)}: expected visible files with a suffix that Pillow "
            f"reads, such as .png, .jpg or .tif{remedy}"
        )
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
    taken = set() if maps is None else {path.resolve() for path in (*files_a, *files_b)}
    jobs = []
    for file_a, file_b in matches.pairs:
        map_path = None
        if maps is not None:
            # The whole name, so that a.png and a.jpg do not write the same map, and a map in the
            # images' own folder replaces none of them.
            map_path = maps / f"{_name(file_a, a)}.png"
            if map_path.resolve() in taken:
                raise CliError(
                    f"--map {maps}: the map of {file_a} would replace the picture {map_path}; give "
                    "another folder"
                )
            make_folder(map_path.parent)
        jobs.append(Job(file_a, file_b, _name(file_a, a), _name(file_b, b), map_path))
    return jobs, unmatched


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _measure_all(
    jobs: list[Job], work: Work[Job, Pair | Failure], arguments: argparse.Namespace
) -> Results:
    found = pipeline.run(jobs, work, min(len(jobs), cores()))
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


def _shown(place: int, pair: Pair, work: Work[Job, Pair | Failure]) -> Shown:
    """For a page; the files are read once more."""

    def load() -> tuple[Pixels, Pixels, Pixels]:
        a, b = work.read(Job(pair.a, pair.b, pair.name_a, pair.name_b, None))
        settings = replace(work.settings, metrics=("ssim",))
        found = measure(a, b, settings, mask=work.mask, with_map=True, threads=1)
        assert found.ssim_map is not None  # it was asked for
        return a, b, found.ssim_map

    return Shown(pair.name, f"pair_{place}", pair.scores, load)


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
        print_out(json.dumps(facts, indent=2))
    elif of_folders:
        print_out(report.folders_text(results, settings))
    else:
        more = [] if arguments.map is None else [("map", str(arguments.map))]
        print_out(report.pair_text(results.pairs[0], settings, more))
