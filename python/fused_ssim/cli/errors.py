"""The one exception that the command line turns into a single line on stderr."""

from __future__ import annotations


class CliError(Exception):
    """Something that the user can put right; its text says what and how."""


def first_line(error: BaseException) -> str:
    """The error's message without the details that follow, for use inside a one-line report."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
