"""A page about a comparison that needs no other file. Needs Pillow and numpy."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

import fused_ssim
from fused_ssim.cli.ahead import ahead, cores
from fused_ssim.cli.errors import CliError
from fused_ssim.cli.heatmap import colour_table, colourise
from fused_ssim.cli.images import Pixels, to_pil
from fused_ssim.cli.measure import Scores
from fused_ssim.cli.settings import Metric, Settings
from fused_ssim.cli.tables import TITLES, metric_text

_MOST_PIXELS = 960  # a side of a picture in the page
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class Shown:
    """A pair of which the page has pictures."""

    title: str
    anchor: str
    scores: Scores
    load: Callable[[], tuple[Pixels, Pixels, Pixels]]
    """Both pictures [H, W, C] and the SSIM map [C, H', W']; called in a thread."""
    frame: int | None = None
    """Of videos, its number."""


@dataclass(frozen=True)
class Row:
    """Of the table: a name, numbers as text and to sort by, and where the pictures are."""

    name: str
    cells: list[tuple[str, float]]
    anchor: str | None

    @classmethod
    def of(cls, name: str, scores: Scores, settings: Settings, anchor: str | None) -> Row:
        """The numbers of all metrics."""
        numbers = [(metric, scores.values[metric]) for metric in settings.metrics]
        return cls(name, [(metric_text(m, v), v) for m, v in numbers], anchor)


@dataclass(frozen=True)
class Page:
    """What the page says."""

    title: str
    facts: list[tuple[str, str]]
    statistics: tuple[Sequence[str], Sequence[Sequence[str]]]
    """Names of columns, and rows that begin with their name."""
    plot: str
    """SVG, or nothing."""
    rows: list[Row]
    rows_title: str
    metrics: Sequence[Metric]
    shown: Sequence[Shown]
    failures: Sequence[str]
    map_min: float


def write(path: Path, page: Callable[[], Page]) -> None:
    """Write the page, with the pictures of a few pairs at a time in memory."""
    try:
        with path.open("w", encoding="utf-8", errors="surrogateescape") as file:
            file.writelines(f"{part}\n" for part in _parts(page()))
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror}") from None


def _parts(page: Page) -> Iterator[str]:
    heading = escape(page.title)
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{heading}</title><style>{_STYLE}</style></head><body>\n<h1>{heading}</h1>"
    )
    facts = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in page.facts)
    yield f"<dl>{facts}</dl>"
    yield _table("", *page.statistics)
    if page.failures:
        items = "".join(f"<li>{escape(failure)}</li>" for failure in page.failures)
        yield f'<h2>Failed</h2><ul class="failures">{items}</ul>'
    if page.plot:
        yield f'<h2>Over time</h2><div class="wide">{page.plot}</div>'
    yield f"<h2>{escape(page.rows_title)}</h2>"
    yield from _sortable(page)
    if page.shown:
        yield f"<h2>Pictures</h2><p>The worst {len(page.shown)} by {TITLES[page.metrics[0]]}, at most "
        yield f"{_MOST_PIXELS} pixels a side. Press A or B to see the other one in its place.</p>"
        yield _legend(page.map_min)
        yield from ahead(lambda one: _card(one, page), page.shown, cores())
    yield f"<footer>fused_ssim {fused_ssim.__version__}</footer><script>{_SCRIPT}</script></body></html>"


def _table(attributes: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in ("", *header))
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>\n"
        for name, *cells in rows
    )
    return f'<div class="wide"><table{attributes}><tr>{head}</tr>\n{body}</table></div>'


def _sortable(page: Page) -> Iterator[str]:
    head = "".join(
        f'<th aria-sort="none"><button>{escape(name)}</button></th>'
        for name in ("name", *(TITLES[metric] for metric in page.metrics))
    )
    yield f'<div class="wide"><table class="sortable"><thead><tr>{head}</tr></thead><tbody>'
    for row in page.rows:
        name = escape(row.name)
        if row.anchor is not None:
            name = f'<a href="#{row.anchor}">{name}</a>'
        cells = "".join(f'<td data-value="{value!r}">{text}</td>' for text, value in row.cells)
        yield f"<tr><th>{name}</th>{cells}</tr>"
    yield "</tbody></table></div>"


def _legend(map_min: float) -> str:
    stops = [to_pil(colour_table(9)[None]).getpixel((i, 0)) for i in range(9)]
    colours = ", ".join(f"rgb{stop}" for stop in stops)
    return (
        f'<p class="legend">SSIM 1 <span style="background: linear-gradient(to right, {colours})">'
        f"</span> {map_min:g} and below</p>"
    )


def _card(one: Shown, page: Page) -> str:
    """The pictures of a pair, in a thread."""
    try:
        a, b, ssim_map = one.load()
    except CliError as error:  # the file has changed since it was measured
        return f"<p>{escape(one.title)}: {escape(str(error))}</p>"
    heat = colourise(ssim_map.mean(axis=0), page.map_min)
    numbers = ", ".join(
        f"{TITLES[metric]} {metric_text(metric, one.scores.values[metric])}"
        for metric in page.metrics
    )
    figures = "".join(
        f'<figure><img class="{kind}" alt="{name}" src="{_data_uri(pixels)}">'
        f"<figcaption>{name}</figcaption></figure>"
        for kind, name, pixels in (("a", "A", a), ("b", "B", b), ("map", "SSIM map", heat))
    )
    return (
        f'<article id="{one.anchor}"><h3>{escape(one.title)}</h3><p>{numbers}</p>'
        f'<div class="pictures">{figures}</div></article>'
    )


def _data_uri(pixels: Pixels) -> str:
    picture = to_pil(pixels)
    picture.thumbnail((_MOST_PIXELS, _MOST_PIXELS), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    # Without subsampling of colours, which would hide faults in them.
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


_STYLE = """
:root { color-scheme: light dark; --ink: #1d2127; --faint: #69717c; --line: #d8dce2; --paper: #fff;
  --accent: #9a2458; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --faint: #98a0ab; --line: #383d45; --paper: #16181c; --accent: #f08aa8; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1200px; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin-top: 2rem; }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dt, footer, figcaption, article p { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; font-weight: normal; }
th:first-child { text-align: left; padding-left: 0; }
thead th, table:not(.sortable) tr:first-child th { color: var(--faint); }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
a { color: var(--accent); }
article { border-top: 1px solid var(--line); padding: 1rem 0; scroll-margin-top: 1rem; }
article p { margin: 0 0 .5rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr));
  gap: .75rem; }
figure { margin: 0; } img { width: 100%; height: auto; display: block; }
img.a, img.b { cursor: pointer; }
.legend span { display: inline-block; width: 12rem; max-width: 40%; height: .8rem; }
.failures { color: var(--accent); overflow-wrap: anywhere; }
svg { width: 100%; min-width: 48rem; height: auto; }
svg text { font-size: 13px; fill: var(--faint); } svg .grid { stroke: var(--line); }
svg .line { fill: none; stroke: var(--accent); stroke-width: 1.5; stroke-linejoin: round; }
svg .band { fill: var(--accent); opacity: .25; }
svg circle { fill: var(--paper); stroke: var(--accent); stroke-width: 2; }
footer { margin-top: 2rem; }
"""

_SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const number = row => Number(row.cells[column].dataset.value.replace("inf", "Infinity"));
    const order = column
      ? (a, b) => number(a) - number(b)
      : (a, b) => a.cells[0].textContent.localeCompare(b.cells[0].textContent, undefined, {numeric: true});
    body.append(...[...body.rows].sort((a, b) => up ? order(a, b) : order(b, a)));
  }));
}
for (const pictures of document.querySelectorAll(".pictures")) {
  const a = pictures.querySelector(".a"), b = pictures.querySelector(".b");
  const captions = [a, b].map(image => image.parentNode.querySelector("figcaption"));
  for (const image of [a, b]) image.addEventListener("click", () => {
    [a.src, b.src] = [b.src, a.src];
    [captions[0].textContent, captions[1].textContent] = captions.map(one => one.textContent).reverse();
  });
}
"""
