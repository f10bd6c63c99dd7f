"""Progress bars, drawn by tqdm on stderr."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar, cast

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_REDRAW_S, _APPEND_S = 0.1, 5.0


class Bar(Protocol[T_co]):
    """What the commands use of tqdm."""

    def __iter__(self) -> Iterator[T_co]: ...

    def set_postfix_str(self, text: str, /, *, refresh: bool) -> None:
        """Show `text` at the end of the bar: at once, or when the bar is next drawn."""


def progress(
    items: Iterable[T], title: str, unit: str, *, show: bool, total: int | None = None
) -> Bar[T]:
    """Iterate over `items` behind a bar; without a bar, tqdm is not needed.

    `total` is how many there are, where `items` itself does not tell.
    """
    if not show:
        return _NoBar(items)
    tqdm = importlib.import_module("tqdm")  # imported by name: it ships no types
    # Where the bar is not redrawn in place but appended to, as in a log, it is drawn seldom.
    interval = _REDRAW_S if sys.stderr.isatty() else _APPEND_S
    bar = tqdm.tqdm(
        items, desc=title, unit=unit, total=total, dynamic_ncols=True, mininterval=interval
    )
    return cast("Bar[T]", bar)


class _NoBar(Generic[T]):
    def __init__(self, items: Iterable[T]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def set_postfix_str(self, text: str, /, *, refresh: bool) -> None:
        """Nowhere to show it."""
