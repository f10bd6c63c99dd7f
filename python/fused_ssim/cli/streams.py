"""Standard streams that are closed, or whose reader has gone."""

from __future__ import annotations

import io
import os
import sys


def prepare() -> None:
    """Give Python what it has not: a stream that the shell closed (`>&-`) is None."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (open until the end)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The name of a file need not be text; one that is not shall not end the table.
        sys.stdout.reconfigure(errors="backslashreplace")


def without_a_reader() -> None:
    """From here on what is printed goes nowhere. Python flushes once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
