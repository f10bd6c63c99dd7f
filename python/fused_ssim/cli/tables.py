"""Plain-text tables, and numbers as text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fused_ssim.cli.settings import Metric

TITLES: dict[Metric, str] = {
    "ssim": "SSIM",
    "ms-ssim": "MS-SSIM",
    "psnr": "PSNR (dB)",
    "l1-ssim": "L1+SSIM",
}


def text_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], footer: Sequence[str] | None = None
) -> str:
    """Columns aligned, the first to the left and the others to the right."""
    rows = [[_printable(cell) for cell in row] for row in rows]
    cells = [header, *rows, *([footer] if footer is not None else [])]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    rule = ["-" * width for width in widths]
    lines = [header, rule, *rows, *([rule, footer] if footer is not None else [])]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in lines
    )


def _printable(cell: str) -> str:
    """With what would break a line, or a terminal, as Python writes it: names of files hold anything."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in cell)


def counted(count: int, noun: str) -> str:
    """A number of things, whose name has a plural in -s."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def metric_text(metric: Metric, value: float) -> str:
    """A metric's number with its decimals."""
    return psnr_text(value) if metric == "psnr" else ssim_text(value)


def ssim_text(value: float) -> str:
    """Six decimals: the package promises the mean to 1e-6."""
    return f"{value:.6f}"


def psnr_text(value: float) -> str:
    """Two decimals, or "inf" for identical images."""
    return f"{value:.2f}" if math.isfinite(value) else "inf"


def json_number(value: float) -> float | None:
    """JSON has no infinity; null stands for it."""
    return value if math.isfinite(value) else None
