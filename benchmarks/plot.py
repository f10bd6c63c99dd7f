"""Time against pixels, a line for each library: the plot of README.md and docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from report import OURS, Results
from workload import KINDS

mpl.use("Agg")  # no display is needed, or asked for

import matplotlib.pyplot as plt

_KIND = "training"
# Line, marker and width by library: this package stands out, the yardstick stays back.
_STYLES = {
    "fused_ssim": ("#c2255c", "o", 2.6),
    "original": ("#e8890c", "s", 1.6),
    "frame-analytics": ("#7048e8", "v", 1.6),
    "pytorch-msssim": ("#1c5fa8", "^", 1.6),
    "torchmetrics": ("#2b8a3e", "D", 1.6),
    "kornia": ("#0b7285", "P", 1.6),
    "piqa": ("#5c940d", "h", 1.6),
    "mse_loss": ("#868e96", "x", 1.2),
}


def draw_sweep(runs: Mapping[str, Results], path: Path) -> None:
    """Training steps of the run that has most sizes of them, one on a GPU if there is any."""

    def sizes(results: Results) -> int:
        return len({row.size for row in results.rows if row.kind == _KIND})

    libraries = [results for results in runs.values() if results.subject == "libraries"]
    results = max(libraries, key=lambda r: (r.device == "cuda", sizes(r)))
    figure, axis = plt.subplots(figsize=(7.2, 4.4), layout="constrained")
    for library in results.libraries:
        rows = sorted(
            (
                row
                for row in results.rows
                if (row.library, row.kind) == (library, _KIND) and row.best_known is not None
            ),
            key=lambda row: row.values,
        )
        if not rows:
            continue
        has_gaps = any(row.has_gaps for row in rows)
        colour, marker, width = _STYLES.get(library, ("black", ".", 1.0))
        axis.plot(
            [row.values for row in rows],
            [row.best_known.median_s * 1e3 for row in rows],
            linestyle="--" if has_gaps else "-",
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=width,
            label=f"{library}, kernels and gaps" if has_gaps else library,
            zorder=3 if library == OURS else 2,
        )
    axis.set(xscale="log", yscale="log", xlabel="pixels x channels x batch")
    clock = "on the GPU" if results.device == "cuda" else "end to end"
    axis.set_ylabel(f"median time {clock} (ms)")
    axis.set_title(f"{KINDS[_KIND].title}: {results.where}, {results.dtype}", fontsize=11)
    axis.grid(visible=True, which="major", color="#dddddd", linewidth=0.8)
    axis.grid(visible=True, which="minor", color="#eeeeee", linewidth=0.5)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    # Without a date, with ids that are the same every time, and with words as words.
    with mpl.rc_context({"svg.hashsalt": "fused_ssim", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
