"""Types of arguments, and arguments that commands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TypeAlias

# argparse has no public names for what add_subparsers() and add_argument_group() return.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Group: TypeAlias = "argparse._ActionsContainer"


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None


def positive_number(text: str) -> float:
    value = number(text)
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return value


def below_one(text: str) -> float:
    value = number(text)
    if not -1.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"expected a number from -1 to below 1, got {text}")
    return value


def integer_from(smallest: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected an integer, got {text!r}") from None
        if value < smallest:
            raise argparse.ArgumentTypeError(f"expected at least {smallest}, got {text}")
        return value

    return integer


def add_device(parser: Group) -> None:
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="DEVICE",
        help="where to compute: cpu, cuda, cuda:1, ... (default: %(default)s)",
    )


def add_no_progress(parser: Group) -> None:
    parser.add_argument(
        "--no-progress",
        action="store_true",
        help="show no progress bar, which terminals alone have",
    )
