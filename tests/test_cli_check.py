"""`fused-ssim check`: one line for each form, a verdict, and a file for an issue.

The gate runs the whole check once; here a few kinds, right and wrong.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import pytest
import torch

import fused_ssim
from commandline import call, fails, run
from fused_ssim.cli import check
from installation import ROOT

SIZE = (1, 2, 13, 20)


@pytest.fixture
def kinds(monkeypatch):
    """The kinds to check, which a test may replace."""
    chosen = [
        ("value", check._value(fused_ssim.ssim), "11", {}, SIZE),
        ("value, gradient", check._step(fused_ssim.ssim), "7", {"window_size": 7}, SIZE),
    ]
    monkeypatch.setattr(check, "_kinds", lambda device: iter(chosen))
    return chosen


def test_a_line_for_each_form_and_a_verdict(capsys, device, kinds):
    kinds.insert(1, ("value", check._value(fused_ssim.ssim), "7", {"window_size": 7}, SIZE))
    *lines, verdict = call(capsys, "check", "--device", device).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["value", "value, gradient"]
    assert "40 cases" in lines[0]  # five types in four layouts, by two windows
    assert "16 cases" in lines[1]  # no gradient by 8-bit pixels
    assert all(line.endswith("ok") for line in lines)
    assert verdict.startswith("verdict: all 56 cases right, ")
    *lines, again = call(capsys, "check", "--device", device, "--verbose").splitlines()
    assert [line.split()[-10] for line in lines] == ["1x2x13x20"] * 3
    assert again == verdict
    assert f"torch {torch.__version__}" in verdict


def off_by(error):
    """A form that is right by torch operations and wrong by kernels."""

    def ssim(x, y, **arguments):
        wrong = 0.0 if check._route.composite_is_forced else error
        return fused_ssim.ssim(x, y, **arguments) + wrong

    return ssim


@pytest.mark.parametrize(
    ("error", "message"),
    [(1e-3, "the error is 50 times what is allowed"), (torch.nan, "the error is inf times")],
)
def test_a_wrong_kind(capsys, tmp_path, kinds, error, message):
    kinds[0] = ("value", check._value(off_by(error)), "11", {}, SIZE)
    report = tmp_path / "check.json"
    lines = call(capsys, "check", "--json", report, code=1).splitlines()
    assert lines[0].endswith("20 WRONG")
    assert "1x2x13x20" in lines[1]
    assert f"float32, contiguous: {message}" in lines[2]
    assert lines[-1].startswith("verdict: 20 of 36 cases wrong, CPU level ")
    written = json.loads(report.read_text())
    assert (written["right"], written["wrong"]) == (16, 20)
    assert {case["message"] is None for case in written["kinds"][1]["cases"]} == {True}


def test_other_bits_the_second_time(capsys, kinds):
    turns = iter(range(10**6))

    def ssim(x, y, **arguments):
        return fused_ssim.ssim(x, y, **arguments) + 1e-7 * (next(turns) % 2)

    kinds[:] = [("value", check._value(ssim), "11", {}, SIZE)]
    assert "a second run gives other bits" in call(capsys, "check", code=1)


def test_a_kernel_that_fails(capsys, kinds):
    def ssim(x, y, **arguments):
        if not check._route.composite_is_forced:
            raise RuntimeError("no kernel image is available\nmore")
        return fused_ssim.ssim(x, y, **arguments)

    kinds[:] = [("value", check._value(ssim), "11", {}, SIZE)]
    assert "float64, channels last: no kernel image is available" in call(capsys, "check", code=1)


def test_times(capsys, tmp_path, kinds):
    report = tmp_path / "check.json"
    code, out, _ = run(capsys, "check", "--bench", "--json", report)  # torch may speak of CUDA
    assert code == 0
    *_, step, _, copy, bandwidth, _ = out.splitlines()
    assert "times mse_loss" in step
    assert copy.startswith("copy ")
    assert bandwidth.endswith("GB/s")
    assert set(json.loads(report.read_text())["times_us"]) == {
        "fused_ssim",
        "fused_ssim, training step",
        "mse_loss",
        "mse_loss, training step",
        "copy",
    }


def test_what_is_written_has_what_the_schema_requires(capsys, tmp_path, kinds):
    # The gate validates the whole of it.
    schema = json.loads((ROOT / "docs/check.schema.json").read_text())
    report = tmp_path / "check.json"
    call(capsys, "check", "--json", report)
    written = json.loads(report.read_text())
    assert set(written) == set(schema["required"])
    assert set(written["kinds"][0]) == set(schema["$defs"]["kind"]["required"])
    assert set(written["kinds"][0]["cases"][0]) == set(schema["$defs"]["case"]["required"])


def test_it_needs_no_extra():
    """Who has only installed the package is told to run it."""
    code = "import sys; sys.modules.update(PIL=None, tqdm=None); import fused_ssim.cli.check"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_devices_without_kernels(capsys):
    assert "expected cpu or cuda" in fails(capsys, "check", "--device", "meta")
    assert "unknown device" in fails(capsys, "check", "--device", "gpu")


def test_every_form_and_window_is_among_the_kinds():
    names = [(form, window) for form, _, window, _, _ in check._kinds(torch.device("cpu"))]
    assert {
        "normalized mask, gradient",
        "MS-SSIM, both gradients",
        "volume, normalized, gradient",
    } <= {form for form, _ in names}
    assert {window for _, window in names} == set(check._WINDOWS)
    assert len(names) > 100
    # A page that can be read: each form has one line, so its kinds follow one another.
    forms = [form for form, _ in itertools.groupby(form for form, _ in names)]
    assert len(forms) == len({*forms}) < 20
