"""A curve over time, as SVG for a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

_WIDTH, _HEIGHT = 960, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 28, 34
_MOST_POINTS = 800  # more than pixels can tell apart: then each stands for several frames
_TICKS = 5


def timeline(
    values: Sequence[float],
    times_s: Sequence[float | None],
    marks: Mapping[int, str],
    title: str,
) -> str:
    """The values of frames over time, or over their number where a time is missing.

    Where a point stands for several frames, the line is their mean and the band behind it reaches
    from the lowest to the highest. Infinite values are left out.

    Args:
        values: one for each frame.
        times_s: likewise.
        marks: frames with a dot, and the anchor in the page that it leads to.
        title: of the vertical axis.
    """
    known = [time for time in times_s if time is not None]
    over_time = len(known) == len(values)
    xs = known if over_time else [float(index) for index in range(len(values))]
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    x_ticks = _nice_ticks(min(xs), max(xs))
    y_ticks = _nice_ticks(min(finite), max(finite))
    left, right = min(xs), max(max(xs), min(xs) + 1e-9)
    low, high = min(y_ticks[0], *finite), max(y_ticks[-1], *finite)

    def x_of(x: float) -> float:
        return _LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)

    def y_of(y: float) -> float:
        return _TOP + (high - y) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for tick in y_ticks:
        y = y_of(tick)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.6g}</text>')
    for tick in x_ticks:
        if not left <= tick <= right:
            continue
        parts.append(
            f'<text x="{x_of(tick):.1f}" y="{_HEIGHT - 14}" text-anchor="middle">{tick:.6g}</text>'
        )
    unit = "seconds" if over_time else "frame"
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 1}" text-anchor="end">{unit}</text>')
    parts.append(f'<text x="{_LEFT}" y="14">{title}</text>')

    step = math.ceil(len(values) / _MOST_POINTS)
    line, upper, lower = [], [], []
    for start in range(0, len(values), step):
        some = [v for v in values[start : start + step] if math.isfinite(v)]
        if some:
            x = x_of(xs[start])
            line.append(f"{x:.1f},{y_of(sum(some) / len(some)):.1f}")
            upper.append(f"{x:.1f},{y_of(max(some)):.1f}")
            lower.append(f"{x:.1f},{y_of(min(some)):.1f}")
    if step > 1:
        parts.append(f'<polygon class="band" points="{" ".join(upper + lower[::-1])}"/>')
    parts.append(f'<polyline class="line" points="{" ".join(line)}"/>')
    for index, anchor in marks.items():
        if math.isfinite(values[index]):
            parts.append(
                f'<a href="#{anchor}"><circle cx="{x_of(xs[index]):.1f}" '
                f'cy="{y_of(values[index]):.1f}" r="5"><title>frame {index}: '
                f"{values[index]:.6g}</title></circle></a>"
            )
    body = "\n".join(parts)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title} over time">\n'
        f"{body}\n</svg>"
    )


def _nice_ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, from at most `low` to at least `high`."""
    least = 1e-6 if low < high else 1e-3  # two numbers that can be told apart where all are one
    span = max(high - low, least * max(abs(high), 1.0))
    power = 10.0 ** math.floor(math.log10(span / _TICKS))
    step = next(m * power for m in (1, 2, 5, 10) if m * power * _TICKS >= span)
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]
