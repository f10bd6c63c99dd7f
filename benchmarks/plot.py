"""Time against pixels, a line for each library.

python benchmarks/plot.py benchmarks/results/NAME.json    draws NAME.png again
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
from report import Results, Row

mpl.use("Agg")  # no display is needed, or asked for

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

_TITLES = {
    "training": "Training step",
    "inference": "Inference",
    "photometric": "Training step, L1 + SSIM",
}
_CLOCKS = {"gpu": "time on the GPU", "wall": "end to end"}
# Line, marker and width by library: this package stands out, the yardstick stays back.
_STYLES = {
    "fused_ssim": ("#c2255c", "o", 2.6),
    "original": ("#e8890c", "s", 1.6),
    "pytorch-msssim": ("#1c5fa8", "^", 1.6),
    "torchmetrics": ("#2b8a3e", "D", 1.6),
    "mse_loss": ("#868e96", "x", 1.2),
}


def draw(results: Results, path: Path) -> None:
    """Write the picture: a row of panels for each clock, a column for each kind of step."""
    clocks = [clock for clock in _CLOCKS if any(getattr(r, clock) for r in results.rows)]
    kinds = [kind for kind in _TITLES if any(row.kind == kind for row in results.rows)]
    figure, axes = plt.subplots(
        len(clocks),
        len(kinds),
        figsize=(5.4 * len(kinds), 0.6 + 4.4 * len(clocks)),
        squeeze=False,
        sharey="row",
        layout="constrained",
    )
    for row, clock in zip(axes, clocks, strict=True):
        for axis, kind in zip(row, kinds, strict=True):
            _panel(axis, results, kind, clock)
            axis.set_title(f"{_TITLES[kind]}, {_CLOCKS[clock]}")
        row[0].set_ylabel("median time (ms)")
    machine = results.machine
    where = machine.get("gpu") or f"{machine['processor']}, {machine['threads']} threads"
    figure.suptitle(f"{where}, {results.dtype}, torch {machine['torch']}", fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _panel(axis: Axes, results: Results, kind: str, clock: str) -> None:
    for library in results.libraries:
        points = _points([r for r in results.rows if (r.library, r.kind) == (library, kind)], clock)
        if not points:
            continue
        colour, marker, width = _STYLES.get(library, ("black", ".", 1.0))
        axis.plot(
            [values for values, _ in points],
            [milliseconds for _, milliseconds in points],
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=width,
            label=library,
            zorder=3 if library == "fused_ssim" else 2,
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("pixels x channels x batch")
    axis.grid(visible=True, which="major", color="#dddddd", linewidth=0.8)
    axis.grid(visible=True, which="minor", color="#eeeeee", linewidth=0.5)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="upper left", frameon=False, fontsize=9)


def _points(rows: list[Row], clock: str) -> list[tuple[int, float]]:
    timings = [(row.values, getattr(row, clock)) for row in rows]
    return sorted((values, t.median_s * 1e3) for values, t in timings if t is not None)


def _main() -> None:
    parser = argparse.ArgumentParser(description="draw the plot of a benchmark's JSON again")
    parser.add_argument("json", type=Path)
    path: Path = parser.parse_args().json
    draw(Results.read(path), path.with_suffix(".png"))


if __name__ == "__main__":
    _main()
