"""What the smaller benchmark scripts share: options of the command line, and the record of a run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from machine import commit, describe, file_name, recorded_command


def parser(description: str | None, budget_s: float) -> argparse.ArgumentParser:
    """The options that all have; `budget_s` is for each kind of step."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    result.add_argument("--budget", type=float, default=budget_s, metavar="SECONDS", help="a kind")
    result.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    result.add_argument("--name", help="file name (default: from device and processor)")
    return result


def add_device(options: argparse.ArgumentParser) -> None:
    """The option that chosen_device() reads."""
    options.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")


def chosen_device(arguments: argparse.Namespace) -> torch.device:
    """The device of the command line, which becomes the current one."""
    device = torch.device(arguments.device)
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    return device


def parse(options: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments; sets the number of threads."""
    arguments = options.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    return arguments


def record(
    arguments: argparse.Namespace,
    script: str,
    device: torch.device,
    *,
    subject: str | None = None,
    **contents: Any,
) -> None:
    """Writes a JSON of the machine and `contents`; named by the subject (the script's by default)."""
    machine = describe(device)
    path = (
        arguments.out
        / f"{arguments.name or file_name(machine, device.type, subject or script)}.json"
    )
    heading = {
        "command": recorded_command(f"benchmarks/{script}.py"),
        "commit": commit(),
        "machine": machine,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(heading | contents, indent=1) + "\n")
    print(f"\nwritten: {path}")
