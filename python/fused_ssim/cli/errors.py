"""What the command line says on stderr: one line for each thing that the user can put right."""

from __future__ import annotations

import sys

PROGRAM = "fused-ssim"


class CliError(Exception):
    """Something that the user can put right; its text says what and how."""


def report(message: str, kind: str = "error") -> None:
    """One line on stderr."""
    # In one write: threads report, too.
    sys.stderr.write(f"{PROGRAM}: {kind}: {' '.join(message.split())}\n")


def note(message: str) -> None:
    """What the user should know about results that are there all the same."""
    report(message, "note")


def first_line(error: BaseException) -> str:
    """The error's message without the details that follow, for use inside a one-line report."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
