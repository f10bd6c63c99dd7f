"""How a comparison ends: files written, errors said, the exit code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from fused_ssim.cli.errors import CliError, report
from fused_ssim.cli.streams import without_a_reader

BELOW_MINIMUM, FAILED = 1, 2


def print_out(text: str) -> None:
    """Print; a reader that has gone (`| head`) takes neither files nor the exit code along."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        without_a_reader()


def conclude(
    failures: Iterable[str], outputs: Iterable[Callable[[], None]], too_low: Sequence[str]
) -> int:
    """Write what can be written, say what is wrong, and return the exit code.

    The numbers have been printed: a file that can't be written does not take them along.
    """
    errors = list(failures)
    for write in outputs:
        try:
            write()
        except CliError as error:
            errors.append(str(error))
    for line in (*errors, *too_low):
        report(line)
    return FAILED if errors else BELOW_MINIMUM if too_low else 0
