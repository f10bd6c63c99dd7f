"""How far two results are apart, running code in a process of its own, and what torch calls otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

TESTS = Path(__file__).resolve().parent


def max_error(actual: Tensor, expected: Tensor) -> float:
    """The largest absolute difference; infinite where one of them is not a number."""
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} != {tuple(expected.shape)}"
    error = (actual.detach().cpu().double() - expected.detach().cpu().double()).abs()
    return torch.nan_to_num(error, nan=torch.inf).max().item()


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The norm of the difference by the norm of `expected`."""
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} != {tuple(expected.shape)}"
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu().double()
    error = (actual - expected).norm() / expected.norm()
    return torch.nan_to_num(error, nan=torch.inf).item()


def leaf(image: Tensor) -> Tensor:
    """The same pixels in the same place in memory, as a tensor to differentiate by."""
    return image.detach().requires_grad_()


def run_python(
    code: str, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 240
) -> str:
    """Runs `code` in a fresh interpreter that can import the tests' helpers; returns its output."""
    completed = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **(env or {}), "PYTHONPATH": _python_path()},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


def _python_path() -> str:
    inherited = os.environ.get("PYTHONPATH")
    return str(TESTS) if not inherited else os.pathsep.join([str(TESTS), inherited])


def gradient_scaler(device: str, scale: float, *, enabled: bool = True) -> Any:
    """torch's own, which torch before 2.3 has under another name and for CUDA alone."""
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler(device, init_scale=scale, enabled=enabled)
    if enabled and device == "cpu":
        pytest.skip("before torch 2.3 the CPU has no gradient scaler")
    return torch.cuda.amp.GradScaler(init_scale=scale, enabled=enabled)
