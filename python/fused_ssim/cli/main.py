"""Entry point: parse, run the command, turn the user's errors into one line and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fused_ssim.cli import streams
from fused_ssim.cli.errors import CliError, report
from fused_ssim.cli.memory import keep_freed_memory
from fused_ssim.cli.parser import build_parser

USER_ERROR = 2
INTERRUPTED = 130  # what a shell reports for SIGINT

# Top-level module of an optional package -> (its name on PyPI, the extra that brings it).
_OPTIONAL = {
    "PIL": ("pillow", "cli"),
    "numpy": ("numpy", "cli"),
    "tqdm": ("tqdm", "cli"),
    "skimage": ("scikit-image", "demo"),
    "av": ("av", "video"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments, unknown = build_parser().parse_known_args(argv)
    if unknown:
        # parse_args() would show the usage of the whole program.
        arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if argv is None:  # this process is the program, and no other's
        keep_freed_memory()
    streams.prepare()
    try:
        code: int = arguments.run(arguments)
        # Flush here, where a closed pipe can still be caught.
        sys.stdout.flush()
        return code
    except CliError as error:
        report(str(error))
        return USER_ERROR
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _OPTIONAL:
            raise
        package, extra = _OPTIONAL[missing]
        report(
            f"this command needs {package}: pip install {package} "
            f"(all that it needs: the extra [{extra}] of fused-ssim)"
        )
        return USER_ERROR
    except BrokenPipeError:
        streams.without_a_reader()
        return 1
    except OSError as error:
        # What is asked of a path before it is opened: a name that is too long, a folder in the way.
        report(f"{error.filename or 'standard output'}: {error.strerror}")
        return USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
