"""The results of a run: collected as rows, kept as JSON, printed as tables."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from machine import Ceilings
from timing import Timing
from workload import ELEMENTS_MOVED, MULTIPLY_ADDS

RIVALS = ("pytorch-msssim", "torchmetrics")
YARDSTICK = "mse_loss"
_TITLES = {
    "inference": "inference (mean SSIM)",
    "training": "training step (mean SSIM, forward + backward)",
    "photometric": "training step of 0.8 L1 + 0.2 (1 - SSIM)",
}


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
    def best_known(self) -> Timing | None:
        """Time on the GPU where there is one, else the wall clock's."""
        return self.gpu or self.wall


@dataclass
class Results:
    """A whole run."""

    command: str
    date: str
    commit: str | None
    device: str
    dtype: str
    element_bytes: int
    machine: dict[str, object]
    ceilings: Ceilings
    libraries: dict[str, str]
    notes: list[str]
    rows: list[Row] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        """What write() wrote."""
        data: dict[str, Any] = json.loads(path.read_text())
        rows = [_row(row) for row in data.pop("rows")]
        return cls(**{**data, "ceilings": Ceilings(**data["ceilings"]), "rows": rows})

    def find(self, library: str, kind: str, size: str) -> Row | None:
        """The row, if it was measured."""
        wanted = (library, kind, size)
        return next((r for r in self.rows if (r.library, r.kind, r.size) == wanted), None)


def _row(data: dict[str, Any]) -> Row:
    timings = {name: Timing(**data[name]) for name in ("gpu", "wall") if data[name] is not None}
    return Row(**{**data, **timings})


def bytes_moved(row: Row, element_bytes: int) -> int:
    """The least that must go through memory: both images read, for training a gradient written."""
    return ELEMENTS_MOVED[row.kind] * element_bytes * row.values


def tables(results: Results) -> str:
    """Everything for the terminal, a table for each kind."""
    kinds = list(dict.fromkeys(row.kind for row in results.rows))
    parts = [_heading(results), *(_table(results, kind) for kind in kinds)]
    if any(row.peak_extra_bytes is not None for row in results.rows):
        parts.append(_memory_table(results))
    parts += [f"note: {note}" for note in results.notes]
    return "\n\n".join(parts)


def _heading(results: Results) -> str:
    machine, ceilings = results.machine, results.ceilings
    where = machine.get("gpu") or f"{machine['processor']}, {machine['threads']} threads"
    versions = ", ".join(f"{name} {version}" for name, version in results.libraries.items())
    return (
        f"{where}; torch {machine['torch']}; {results.dtype}\n{versions}\n"
        f"measured here: copy {ceilings.copy_bytes_per_s / 1e9:.1f} GB/s, "
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
    return f"{_TITLES[kind]}\n{format_table(header, rows)}"


def _cells(results: Results, row: Row, on_gpu: bool) -> list[str]:
    if row.error is not None:
        return [row.size, row.library, row.error]
    time = row.best_known
    assert time is not None
    cells = [row.size, row.library]
    cells += [_duration(row.gpu), _duration(row.wall)] if on_gpu else [_duration(row.wall)]
    clocks = ("gpu", "wall") if on_gpu else ("wall",)
    cells += [_speedup(results, row, rival, clock) for clock in clocks for rival in RIVALS]

    moved = bytes_moved(row, results.element_bytes)
    rate = moved / time.median_s
    cells += [
        str(ELEMENTS_MOVED[row.kind] * results.element_bytes),
        f"{rate / 1e9:.1f}",
        f"{rate / results.ceilings.copy_bytes_per_s:.0%}",
    ]
    # The count of multiply-adds is that of this package's algorithm; for others it means nothing.
    floor_s = MULTIPLY_ADDS[row.kind] * row.values / results.ceilings.multiply_adds_per_s
    cells.append(f"{floor_s / time.median_s:.0%}" if row.library == "fused_ssim" else "-")
    return cells


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
