"""The results of a run: collected as rows, kept as JSON, printed as tables.

python benchmarks/report.py            puts the tables of benchmarks/results/*.json into docs/benchmarks.md and
                                       README.md, and draws the plot
python benchmarks/report.py --check    says whether the tables are what the files hold
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from machine import Ceilings
from timing import Timing
from workload import KINDS

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results"
RIVALS = ("pytorch-msssim", "torchmetrics")
OURS = "fused_ssim"
YARDSTICK = "mse_loss"
_README_SIZE = "1x3x1080x1920"
_README_LIBRARIES = (OURS, "original", *RIVALS)
_README_KINDS = ("inference", "training", "photometric")
_BLOCK = re.compile(r"(<!-- benchmarks/report\.py -->\n)(.*?)(<!-- end -->)", re.DOTALL)


@dataclass
class Row:
    """One library, one kind, one size."""

    library: str
    kind: str
    size: str
    values: int
    mean: float | None = None  # what the step computed, as proof that it did
    gpu: Timing | None = None
    wall: Timing | None = None
    peak_extra_bytes: int | None = None  # of a training step, beyond the two images
    error: str | None = None

    @property
    def has_gaps(self) -> bool:
        """Whether the time on the GPU holds the gaps between kernels: no graph captured them."""
        return self.gpu is not None and self.gpu.method == "CUDA events"

    @property
    def best_known(self) -> Timing | None:
        """Time on the GPU where there is one, else the wall clock's."""
        return self.gpu or self.wall


@dataclass
class Results:
    """A whole run."""

    command: str
    date: str | None
    commit: str | None
    device: str
    dtype: str
    element_bytes: int
    machine: dict[str, Any]
    ceilings: Ceilings | None
    libraries: dict[str, str]
    notes: list[str]
    rows: list[Row] = field(default_factory=list)
    subject: str = "libraries"  # or "windows", "masks", "switching": what stands in their place

    def write(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        """What write() wrote."""
        data: dict[str, Any] = json.loads(path.read_text())
        rows = [_row(row) for row in data.pop("rows")]
        ceilings = data.pop("ceilings")
        ceilings = None if ceilings is None else Ceilings(**ceilings)
        return cls(**data, ceilings=ceilings, rows=rows)

    def find(self, library: str, kind: str, size: str) -> Row | None:
        """The row, if it was measured."""
        wanted = (library, kind, size)
        return next((r for r in self.rows if (r.library, r.kind, r.size) == wanted), None)

    @property
    def where(self) -> str:
        """The device in words."""
        if self.device == "cuda":
            return str(self.machine["gpu"])
        level = self.machine.get("cpu_level")
        level = f", {level}" if level else ""
        return f"{self.machine['processor']}{level}, {self.machine['threads']} threads"


def _row(data: dict[str, Any]) -> Row:
    timings = {name: Timing(**data[name]) for name in ("gpu", "wall") if data[name] is not None}
    return Row(**{**data, **timings})


def _title(kind: str) -> str:
    return KINDS[kind].title if kind in KINDS else kind


def tables(results: Results) -> str:
    """Everything for the terminal, a table for each kind."""
    kinds = list(dict.fromkeys(row.kind for row in results.rows))
    parts = [_heading(results), *(_table(results, kind) for kind in kinds)]
    if any(row.peak_extra_bytes is not None for row in results.rows):
        parts.append(_memory_table(results))
    parts += [f"note: {note}" for note in results.notes]
    return "\n\n".join(parts)


def _heading(results: Results) -> str:
    ceilings = results.ceilings
    versions = ", ".join(f"{name} {version}" for name, version in results.libraries.items())
    heading = f"{results.where}; torch {results.machine['torch']}; {results.dtype}\n{versions}"
    if ceilings is None:
        return heading
    return (
        f"{heading}\nmeasured here: copy {ceilings.copy_bytes_per_s / 1e9:.1f} GB/s, "
        f"{ceilings.multiply_adds_per_s / 1e9:.1f} G multiply-adds/s "
        f"({ceilings.multiply_adds_from})"
    )


def _table(results: Results, kind: str) -> str:
    on_gpu = any(row.gpu is not None for row in results.rows)
    header = ["size", "library"]
    header += ["GPU time", "wall time"] if on_gpu else ["time"]
    header += [f"vs {rival}" for rival in RIVALS]
    if on_gpu:
        header += [f"wall vs {rival}" for rival in RIVALS]
    header += ["B/pixel", "GB/s", "of copy", "of FMA"]
    rows = [_cells(results, row, on_gpu) for row in results.rows if row.kind == kind]
    return f"{_title(kind)}\n{format_table(header, rows)}"


def _cells(results: Results, row: Row, on_gpu: bool) -> list[str]:
    if row.error is not None:
        return [row.size, row.library, row.error]
    time = row.best_known
    assert time is not None
    cells = [row.size, row.library]
    cells += [_duration(row.gpu), _duration(row.wall)] if on_gpu else [_duration(row.wall)]
    clocks = ("gpu", "wall") if on_gpu else ("wall",)
    cells += [_speedup(results, row, rival, clock) for clock in clocks for rival in RIVALS]
    kind = KINDS.get(row.kind)
    if kind is None or results.ceilings is None:
        return [*cells, "-", "-", "-", "-"]
    # The least that must go through memory, and the share of the device's rates that this is.
    element = results.element_bytes if kind.dtype is None else kind.dtype.itemsize
    moved = kind.images_moved * element
    rate = moved * row.values / time.median_s
    cells += [str(moved), f"{rate / 1e9:.1f}"]
    cells.append(f"{rate / results.ceilings.copy_bytes_per_s:.0%}")
    # The count of multiply-adds is that of this package's algorithm; for others it means nothing.
    if kind.multiply_adds is None or row.library != OURS:
        return [*cells, "-"]
    floor_s = kind.multiply_adds * row.values / results.ceilings.multiply_adds_per_s
    return [*cells, f"{floor_s / time.median_s:.0%}"]


def _speedup(results: Results, row: Row, rival: str, clock: str) -> str:
    if row.library == YARDSTICK:
        return "-"  # it computes something else
    other = results.find(rival, row.kind, row.size)
    mine: Timing | None = getattr(row, clock)
    theirs: Timing | None = getattr(other, clock) if other is not None else None
    if mine is None or theirs is None:
        return "-"
    return f"{theirs.median_s / mine.median_s:.1f}x"


def _duration(timing: Timing | None) -> str:
    if timing is None:
        return "-"
    # A mark for kernels that could not be captured in a graph: the gaps between them count too.
    mark = "*" if timing.method == "CUDA events" else ""
    seconds = timing.median_s
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} us{mark}"
    return f"{seconds * 1e3:.2f} ms{mark}"


def _memory_table(results: Results) -> str:
    header = ["size", "library", "peak beyond the images", "of it the gradient"]
    rows = [
        [
            row.size,
            row.library,
            f"{row.peak_extra_bytes / 2**20:.1f} MiB",
            f"{row.values * results.element_bytes / 2**20:.1f} MiB",
        ]
        for row in results.rows
        if row.peak_extra_bytes is not None
    ]
    return f"memory of a training step\n{format_table(header, rows)}"


def format_table(header: list[str], rows: Iterable[list[str]]) -> str:
    """Aligned columns: two to the left, the others to the right; short rows are allowed."""
    cells = [header, *rows]
    # The last cell of a short row is a message, which may run over the columns that it lacks.
    full = [row for row in cells if len(row) == len(header)]
    widths = [max(len(row[i]) for row in full) for i in range(len(header))]
    widths[:2] = [max(len(row[i]) for row in cells) for i in (0, 1)]
    lines = [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in (header, ["-" * width for width in widths], *cells[1:])
    ]
    return "\n".join(lines)


# The page and the README.


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _short(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} us"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s"


def _page_cell(row: Row | None, first: Row | None) -> str:
    """The time, on a GPU that of its kernels and in brackets the wall clock's, and how many times ours by both."""
    if row is None or row.best_known is None:
        return "" if row is None or row.error is None else "fails"
    clocks = {"{}": row.best_known}
    if row.gpu is not None and row.wall is not None:
        clocks = ({} if row.has_gaps else {"{}": row.gpu}) | {"({})": row.wall}
    times = [form.format(_short(timing.median_s)) for form, timing in clocks.items()]
    if first is None or first is row or first.best_known is None:
        return " ".join(times)
    own = {"{}": first.best_known, "({})": first.wall}
    ratios = [
        form.format(f"{timing.median_s / ours.median_s:.3g}x")
        for form, timing in clocks.items()
        if (ours := own[form]) is not None
    ]
    return f"{' '.join(times)}, {' '.join(ratios)}"


def _section(name: str, results: Results) -> str:
    """A run: what and where, and a table for each kind, the libraries as columns."""
    versions = ", ".join(f"{library} {version}" for library, version in results.libraries.items())
    date = f", {results.date[:10]}" if results.date else ""
    about = (
        f"`{results.command}`, torch {results.machine['torch']}, {results.dtype}; commit "
        f"{results.commit or 'unknown'}{date}; [{name}](../benchmarks/results/{name}). {versions}.\n"
    )
    parts = [f"**{results.subject.capitalize()}**: {about}"]
    for kind in dict.fromkeys(row.kind for row in results.rows):
        rows = [row for row in results.rows if row.kind == kind]
        sizes, libraries = (
            list(dict.fromkeys(getattr(row, key) for row in rows)) for key in ("size", "library")
        )
        # The long side goes down: few sizes beside many libraries, or the other way round.
        cells = {
            (size, library): _page_cell(
                results.find(library, kind, size), results.find(libraries[0], kind, size)
            )
            for size in sizes
            for library in libraries
        }
        body = [[library, *(cells[size, library] for size in sizes)] for library in libraries]
        parts.append(f"{_title(kind)}:\n\n{_markdown(['', *sizes], body)}")
    # What a mark of the terminal's table means is no note of the page, which says it once for all runs.
    parts += [f"Note: {note}\n" for note in results.notes if not note.startswith("*")]
    return "\n".join(parts)


def _runs() -> dict[str, Results]:
    """GPUs first, then by device and name."""
    runs = {path.name: Results.read(path) for path in RESULTS.glob("*.json")}

    def place(run: tuple[str, Results]) -> tuple[bool, str, str]:
        return (run[1].device != "cuda", run[1].where, run[0])

    return dict(sorted(runs.items(), key=place))


def _page(runs: dict[str, Results]) -> str:
    parts, where = [""], ""
    for name, results in runs.items():
        if results.where != where:
            where = results.where
            parts.append(f"### {where}\n")
        parts.append(_section(name, results))
    return "\n".join(parts) + "\n"


def _readme(runs: dict[str, Results]) -> str:
    """Ours, the original and the rivals at one size, a line for each kind and run."""
    body = []
    for results in runs.values():
        for kind in _README_KINDS:
            rows = [results.find(name, kind, _README_SIZE) for name in _README_LIBRARIES]
            timed = [row is not None and row.best_known is not None for row in rows]
            if results.subject == "libraries" and timed[0] and any(timed[1:]):
                cells = [_page_cell(row, rows[0]) for row in rows]
                body.append([f"{_title(kind)}; {results.where}", *cells])
    return _markdown([f"float32, {_README_SIZE}", *_README_LIBRARIES], body)


def main() -> int:
    """Write or check."""
    check = sys.argv[1:] == ["--check"]
    runs = _runs()
    wrong = False
    for name, made in (("docs/benchmarks.md", _page(runs)), ("README.md", _readme(runs))):
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        new = _BLOCK.sub(lambda match, made=made: match[1] + made + match[3], text)
        if check and new != text:
            print(
                f"{name}: not what benchmarks/results holds; python benchmarks/report.py mends it"
            )
            wrong = True
        elif not check:
            path.write_text(new, encoding="utf-8")
    if not check:
        from plot import draw_sweep

        draw_sweep(runs, ROOT / "docs/pictures/speed.svg")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
