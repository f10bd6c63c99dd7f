"""`fused-ssim compare`: two videos, frame by frame.

    decoder of A (its own threads) \\
                                    pairs  ->  arrays, kernels (a thread a core)  ->  numbers
    decoder of B (its own threads) /
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from av import VideoFrame

from fused_ssim.cli import html_report, pipeline, video_report
from fused_ssim.cli.ahead import cores, taken_ahead
from fused_ssim.cli.errors import CliError, note
from fused_ssim.cli.heatmap import heat_map
from fused_ssim.cli.html_report import Shown
from fused_ssim.cli.images import Pixels, save_image
from fused_ssim.cli.measure import Scores, measure
from fused_ssim.cli.outcome import conclude, print_out
from fused_ssim.cli.pipeline import Work
from fused_ssim.cli.progress import progress
from fused_ssim.cli.results import badness
from fused_ssim.cli.settings import Settings
from fused_ssim.cli.tables import counted
from fused_ssim.cli.video_results import FrameScores, VideoResults
from fused_ssim.cli.videos import Video, frames, luma, probe, rgb

_RATE_TOLERANCE = 5e-4  # 23.976 and 24 frames a second differ by twice that
_PICTURES = 8


@dataclass(frozen=True)
class FramePair:
    """The frames at one place of two videos."""

    index: int
    time_s: float | None
    a: VideoFrame
    b: VideoFrame


Reader = Callable[[FramePair], tuple[Pixels, Pixels]]


def run(arguments: argparse.Namespace, settings: Settings, mask: Pixels | None) -> int:
    """Compare two videos; the exit code is 2 when a part of one has no partner or can't be read."""
    if arguments.match not in ("name", "order"):
        raise CliError(f"--match {arguments.match}: frames have no names; expected order")
    if arguments.data_range is not None:
        raise CliError("--data-range is for images: videos tell what white is")
    a, b = probe(arguments.a), probe(arguments.b)
    by_order = arguments.match == "order"
    _check_comparable(a, b, settings, by_order=by_order)
    results = VideoResults(a, b)
    wants_pictures = arguments.map is not None or arguments.html is not None
    worst = _Worst(arguments.pictures or _PICTURES if wants_pictures else 0, settings)
    read, measured = _reading(a, b, settings)
    work: Work[FramePair, tuple[FramePair, Scores | CliError]] = Work(
        read=read,
        name=lambda pair: f"{a.path} and {b.path}: frame {pair.index}",
        finish=lambda pair, scores: (pair, scores),
        settings=measured,
        mask=mask,
    )
    found = pipeline.run(_pairs(results, by_order=by_order), work, cores())
    total = min(a.frame_count or 0, b.frame_count or 0) or None
    show = not arguments.no_progress
    for pair, scores in progress(found, "comparing", "frame", show=show, total=total):
        if isinstance(scores, CliError):
            # What is wrong with a frame, as its size, is wrong with the ones after it.
            results.failures.append(str(scores))
            break
        results.frames.append(FrameScores(pair.index, pair.time_s, scores))
        worst.add(pair, scores)
    if not results.frames:
        raise CliError([*results.failures, f"{a.path} and {b.path}: no frame to compare"][0])

    if arguments.json:
        print_out(json.dumps(video_report.facts(results, settings, arguments.mask), indent=2))
    else:
        print_out(video_report.text(results, settings))
    shown = [_shown(pair, scores, work) for pair, scores in worst.sorted()]
    outputs: list[Callable[[], None]] = []
    if arguments.csv is not None:
        outputs.append(partial(video_report.write_csv, arguments.csv, results, settings))
    if arguments.map is not None:
        outputs.append(partial(_write_maps, arguments.map, shown, arguments.map_min))
    if arguments.html is not None:
        page = partial(video_report.page, results, settings, shown, arguments.map_min)
        outputs.append(partial(html_report.write, arguments.html, page))
    return conclude(results.failures, outputs, results.below(arguments.min))


def _check_comparable(a: Video, b: Video, settings: Settings, *, by_order: bool) -> None:
    names = f"{a.path} and {b.path}"
    if (a.width, a.height) != (b.width, b.height):
        raise CliError(
            f"{names}: different sizes: {a.width}x{a.height} and {b.width}x{b.height} pixels; "
            "scale or crop one of them"
        )
    if a.rate and b.rate and abs(a.rate - b.rate) > _RATE_TOLERANCE * a.rate and not by_order:
        raise CliError(
            f"{names}: {float(a.rate):.6g} and {float(b.rate):.6g} frames a second, so that frames "
            "of one number show different moments; --match order compares them all the same"
        )
    in_yuv = [video for video in (a, b) if not video.is_rgb]
    if settings.channels == "y" and len({video.full_swing for video in in_yuv}) > 1:
        full, studio = (a, b) if a.full_swing else (b, a)
        raise CliError(
            f"{full.path} has luma in full swing (0 to 255) and {studio.path} in studio swing "
            "(16 to 235); --channels rgb compares their colours"
        )


def _reading(a: Video, b: Video, settings: Settings) -> tuple[Reader, Settings]:
    """How pairs of frames become arrays, and how these are measured."""
    if settings.channels != "y":
        return (lambda pair: (rgb(pair.a), rgb(pair.b))), settings
    of_frame = partial(
        luma,
        bits=max(a.bits, b.bits),
        full_swing=any(video.full_swing for video in (a, b) if not video.is_rgb),
    )
    # The arrays are luma, of which none is left to take.
    return (lambda pair: (of_frame(pair.a), of_frame(pair.b))), replace(settings, channels="rgb")


def _pairs(results: VideoResults, *, by_order: bool) -> Iterator[FramePair]:
    """Frames in the order in which they are shown, until one video ends; says what is wrong."""
    videos = (results.a, results.b)
    sources = [taken_ahead(frames(video.path)) for video in videos]
    clock = _Clock(results, silent=by_order)
    damaged: dict[Path, list[int]] = {}
    index = 0
    try:
        for index in count():
            a, b = (next(source, None) for source in sources)
            if a is None or b is None:
                if a is not b:
                    results.failures.append(_left_over(results, index, b is None))
                return
            for video, frame in zip(videos, (a, b), strict=True):
                if frame.is_corrupt:
                    damaged.setdefault(video.path, []).append(index)
            yield FramePair(index, clock.time_of(index, a, b), a, b)
    except CliError as error:
        results.failures.append(f"{error}; {index} frames of each were compared")
    finally:
        results.failures += [
            f"{path}: {counted(len(indices), 'damaged frame')}, the first is frame {indices[0]}; what the "
            "decoder made of them was compared"
            for path, indices in damaged.items()
        ]
        for source in sources:
            source.close()


class _Clock:
    """When frames are shown; notes where the two videos first disagree about it."""

    def __init__(self, results: VideoResults, *, silent: bool) -> None:
        self._results = results
        self._silent = silent
        rate = max(results.a.rate or 0, results.b.rate or 0) or 1
        self._half_a_frame_s = 0.5 / float(rate)
        self._starts: tuple[float | None, float | None] = (None, None)

    def time_of(self, index: int, a: VideoFrame, b: VideoFrame) -> float | None:
        """Of A's frame, after A's first one."""
        if index == 0:
            self._starts = (a.time, b.time)
        time_a, time_b = _since(self._starts[0], a.time), _since(self._starts[1], b.time)
        if time_a is not None and time_b is not None and not self._silent:
            self._silent = abs(time_a - time_b) > self._half_a_frame_s
            if self._silent:
                note(
                    f"{self._results.a.path} and {self._results.b.path}: frame {index} is shown "
                    f"after {time_a:.3f} s and after {time_b:.3f} s; frames are compared in their "
                    "order all the same"
                )
        return time_a


def _since(start: float | None, time: float | None) -> float | None:
    return None if start is None or time is None else time - start


def _left_over(results: VideoResults, index: int, a_is_longer: bool) -> str:
    longer, shorter = results.a, results.b
    if not a_is_longer:
        longer, shorter = shorter, longer
    ends = f"ends after {index} frames" if index else "has no frame"
    count = "" if longer.frame_count is None else f" ({longer.frame_count} by its header)"
    return f"{shorter.path} {ends}, {longer.path} has more{count}; these have no partner"


class _Worst:
    """Of each second the worst frame, and of these the worst ones.

    Frames of one scene are alike, and to show a second once is enough.
    """

    def __init__(self, most: int, settings: Settings) -> None:
        self._most = most
        self._settings = settings
        self._by_second: dict[int, tuple[float, FramePair, Scores]] = {}

    def add(self, pair: FramePair, scores: Scores) -> None:
        """In any order."""
        second = pair.index if pair.time_s is None else int(pair.time_s)
        found = badness(scores, self._settings)
        known = self._by_second.get(second)
        if known is None or found > known[0]:
            self._by_second[second] = (found, pair, scores)
        if len(self._by_second) > self._most:
            del self._by_second[min(self._by_second, key=lambda key: self._by_second[key][0])]

    def sorted(self) -> list[tuple[FramePair, Scores]]:
        """The worst first."""
        ranked = sorted(self._by_second.values(), key=lambda one: (-one[0], one[1].index))
        return [(pair, scores) for _, pair, scores in ranked]


def _shown(pair: FramePair, scores: Scores, work: Work[FramePair, Any]) -> Shown:
    def load() -> tuple[Pixels, Pixels, Pixels]:
        settings = replace(work.settings, metrics=("ssim",))
        found = measure(*work.read(pair), settings, mask=work.mask, with_map=True)
        assert found.ssim_map is not None  # it was asked for
        return rgb(pair.a), rgb(pair.b), found.ssim_map

    time = "" if pair.time_s is None else f", {pair.time_s:.2f} s"
    return Shown(f"frame {pair.index}{time}", f"frame_{pair.index:06}", scores, load, pair.index)


def _write_maps(folder: Path, shown: list[Shown], map_min: float) -> None:
    for frame in shown:
        save_image(heat_map(frame.load()[2], map_min), folder / f"{frame.anchor}.png")
