"""Progress bars, drawn by tqdm on stderr."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar, cast

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Bar(Protocol[T_co]):
    """What the commands use of tqdm."""

    def __iter__(self) -> Iterator[T_co]: ...

    def set_postfix_str(self, text: str, /, *, refresh: bool) -> None:
        """Show `text` at the end of the bar: at once, or when the bar is next drawn."""


def progress(
    items: Iterable[T], title: str, unit: str, *, show: bool, total: int | None = None
) -> Bar[T]:
    """Iterate over `items` behind a bar, which terminals alone show; without `show`, tqdm is not needed.

    `total` is how many there are, where `items` itself does not tell.
    """
    if not show:
        return _NoBar(items)
    tqdm = importlib.import_module("tqdm")  # imported by name: it ships no types
    # `disable=None`: not in a log, where the bar could not be redrawn in place.
    bar = tqdm.tqdm(items, desc=title, unit=unit, total=total, dynamic_ncols=True, disable=None)
    return cast("Bar[T]", bar)


class _NoBar(Generic[T]):
    def __init__(self, items: Iterable[T]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def set_postfix_str(self, text: str, /, *, refresh: bool) -> None:
        """Nowhere to show it."""
