"""The CPU kernels of every instruction set that this machine can run, not only of the best one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import fused_ssim
from measure import TESTS, run_python

VARIABLE = "FUSED_SSIM_CPU_LEVEL"
INFO = fused_ssim.build_info()
SUPPORTED = INFO.cpu_levels_supported
# What this process runs is tested by all the other files.
OTHERS = [level for level in SUPPORTED if level != INFO.cpu_level]

OPTIONS = ["-m", "reduced", "--device=cpu", "-q", "--tb=line", "--no-showlocals"]

SHOW_LEVEL = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fused_ssim
print(fused_ssim.build_info().cpu_level, len(caught), *(w.message for w in caught))
"""


def test_baseline_runs_everywhere():
    assert "baseline" in SUPPORTED
    assert set(SUPPORTED) <= set(INFO.cpu_levels_compiled)


@pytest.mark.parametrize("level", SUPPORTED)
def test_forced(level):
    assert run_python(SHOW_LEVEL, env={VARIABLE: level}).split()[:2] == [level, "0"]


def test_the_best_is_the_default():
    assert run_python(SHOW_LEVEL, env={VARIABLE: ""}).split()[:2] == [SUPPORTED[-1], "0"]


def test_unknown_level_is_reported_and_harmless():
    level, warnings, text = run_python(SHOW_LEVEL, env={VARIABLE: "mmx"}).split(maxsplit=2)
    assert level == SUPPORTED[-1]
    assert warnings == "1"
    assert "mmx" in text
    assert "avx2" in text


@pytest.mark.parametrize("level", OTHERS)
def test_numbers(level):
    """The reduced suite, in a process of its own: a level is chosen once, at the first call."""
    # It is no worker of ours, which plugins conclude from the environment.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    completed = subprocess.run(
        [sys.executable, "-m", "pytest", str(TESTS), *OPTIONS],
        env={**inherited, VARIABLE: level},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout[-5000:] + completed.stderr[-2000:]
    assert " passed" in completed.stdout
