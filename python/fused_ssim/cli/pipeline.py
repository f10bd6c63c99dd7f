"""Pairs of images through reading, measuring and what is done with the numbers, side by side.

On the CPU a thread takes a pair through all of it. What torch measures (by_torch.py) goes in batches:

    read, decode (threads, ahead)  ->  batches of one shape (this thread)  ->  the rest (threads)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from fused_ssim.cli.ahead import ahead, cores
from fused_ssim.cli.errors import CliError
from fused_ssim.cli.images import Pixels
from fused_ssim.cli.measure import (
    Prepared,
    Scores,
    measure_by_kernels,
    measure_by_torch,
    needs_torch,
    prepare,
)
from fused_ssim.cli.settings import Settings

T = TypeVar("T")
R = TypeVar("R")

_BATCH_PAIRS, _BATCH_PIXELS = 16, 2**24  # of 1920x1080: 8 pairs, 100 MB as bytes


@dataclass(frozen=True)
class Work(Generic[T, R]):
    """What is done with each item; all of it in threads."""

    read: Callable[[T], tuple[Pixels, Pixels]]
    """The item's two images; its errors say which file they are of."""
    name: Callable[[T], str]
    """What to call the item in errors about both images."""
    finish: Callable[[T, Scores | CliError], R]
    settings: Settings
    mask: Pixels | None = None
    with_map: bool = False


def run(items: Iterable[T], work: Work[T, R], workers: int) -> Iterator[R]:
    """What `work.finish` makes of each item, in order."""
    if needs_torch(work.settings, work.mask):
        prepared = ahead(lambda item: (item, _prepare(item, work)), items, workers)
        yield from ahead(lambda done: work.finish(*done), _in_batches(prepared, work), workers)
        return
    # A core for each pair is better than many for one, but for the last few pairs.
    threads = max(1, cores() // workers)
    yield from ahead(lambda item: work.finish(item, _measure(item, work, threads)), items, workers)


def _measure(item: T, work: Work[T, R], threads: int) -> Scores | CliError:
    images = _prepare(item, work)
    if isinstance(images, CliError):
        return images
    try:
        return measure_by_kernels(images, work.settings, with_map=work.with_map, threads=threads)
    except CliError as error:
        return _named(error, item, work)


def _prepare(item: T, work: Work[T, R]) -> Prepared | CliError:
    try:
        a, b = work.read(item)
    except CliError as error:
        return error
    try:
        return prepare(a, b, work.settings, work.mask)
    except CliError as error:
        return _named(error, item, work)


def _named(error: CliError, item: T, work: Work[T, R]) -> CliError:
    return CliError(f"{work.name(item)}: {error}")


def _in_batches(
    prepared: Iterable[tuple[T, Prepared | CliError]], work: Work[T, R]
) -> Iterator[tuple[T, Scores | CliError]]:
    """Measures neighbours of one shape and dtype together."""
    batch: list[tuple[T, Prepared]] = []
    for item, images in prepared:
        if batch and (isinstance(images, CliError) or _is_full(batch, images)):
            yield from _measure_batch(batch, work)
            batch = []
        if isinstance(images, CliError):
            yield item, images
        else:
            batch.append((item, images))
    if batch:
        yield from _measure_batch(batch, work)


def _is_full(batch: list[tuple[T, Prepared]], images: Prepared) -> bool:
    """Whether the batch has no place for these images."""
    first = batch[0][1]
    alike = all(
        x.shape == y.shape and x.dtype == y.dtype
        for x, y in ((first.a, images.a), (first.b, images.b))
    )
    height, width = images.a.shape[:2]
    return not alike or len(batch) >= min(_BATCH_PAIRS, _BATCH_PIXELS // (height * width))


def _measure_batch(
    batch: list[tuple[T, Prepared]], work: Work[T, R]
) -> Iterator[tuple[T, Scores | CliError]]:
    items = [item for item, _ in batch]
    try:
        pairs = [images for _, images in batch]
        scores = measure_by_torch(pairs, work.settings, with_map=work.with_map)
    except CliError as error:
        # They have one shape, so what fails for one fails for all.
        yield from ((item, _named(error, item, work)) for item in items)
        return
    yield from zip(items, scores, strict=True)
