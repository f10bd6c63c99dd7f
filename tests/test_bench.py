"""The benchmark runs, and its JSON and tables say what was measured. Its numbers are not judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "benchmarks" / "bench.py"
SIZE = "1x2x24x32"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One small run: what it printed, and the JSON that it wrote."""
    out = tmp_path_factory.mktemp("results")
    command = [sys.executable, str(BENCH), "--sizes", SIZE, "--budget", "0.01"]
    command += ["--out", str(out), "--name", "small"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((out / "small.json").read_text())


def test_every_library_did_every_kind_of_step(run):
    _, results = run
    ssim_libraries = {"fused_ssim", "pytorch-msssim", "torchmetrics"}
    expected = {(name, kind) for name in ssim_libraries for kind in ("inference", "training")}
    expected |= {(name, "photometric") for name in ssim_libraries}
    expected |= {("mse_loss", "inference"), ("mse_loss", "training")}
    assert {(row["library"], row["kind"]) for row in results["rows"]} == expected
    for row in results["rows"]:
        assert row["error"] is None
        assert row["size"] == SIZE
        assert row["values"] == 2 * 24 * 32
        assert row["wall"]["median_s"] >= row["wall"]["best_s"] > 0
        assert row["wall"]["samples"] >= 5


def test_libraries_computed_the_same_thing(run):
    _, results = run
    for kind in ("inference", "training", "photometric"):
        means = {r["library"]: r["mean"] for r in results["rows"] if r["kind"] == kind}
        means.pop("mse_loss", None)
        # They differ at the border, which is most of so small an image.
        assert max(means.values()) - min(means.values()) < 0.05
    ours = {row["kind"]: row["mean"] for row in results["rows"] if row["library"] == "fused_ssim"}
    assert ours["inference"] == pytest.approx(ours["training"], abs=1e-6)


def test_memory_of_a_training_step(run):
    _, results = run
    peaks = [r["peak_extra_bytes"] for r in results["rows"] if r["kind"] == "training"]
    assert len(peaks) == 4
    if sys.platform == "linux":
        assert all(0 <= peak < 2**28 for peak in peaks)


def test_json_says_where_it_comes_from(run):
    _, results = run
    # Without --out: that names a folder of this machine.
    expected = f"python benchmarks/bench.py --sizes {SIZE} --budget 0.01 --name small"
    assert results["command"] == expected
    assert results["machine"]["processor"]
    assert results["machine"]["threads"] >= 1
    assert results["ceilings"]["copy_bytes_per_s"] > 1e8
    assert results["ceilings"]["multiply_adds_per_s"] > 1e8
    assert set(results["libraries"]) == {
        "fused_ssim",
        "pytorch-msssim",
        "torchmetrics",
        "mse_loss",
    }


def test_table_holds_the_ratios(run):
    printed, results = run
    rows = {(row["library"], row["kind"]): row["wall"]["median_s"] for row in results["rows"]}
    ratio = rows["pytorch-msssim", "training"] / rows["fused_ssim", "training"]
    section = printed[printed.index("training step (mean SSIM") :]
    line = next(line for line in section.splitlines() if "fused_ssim" in line)
    assert f" {ratio:.1f}x " in line
    assert line.split()[-4] == "12"  # bytes a pixel


def test_missing_gpu_or_wrong_size_is_one_line():
    for options, message in (
        (["--device", "cuda:99"], "error: "),
        (["--sizes", "3x4"], "expected BxCxHxW, got '3x4'"),
    ):
        command = [sys.executable, str(BENCH), *options]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 2
        assert message in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "forms", "row"),
    [([], {"3", "11", "33"}, "{} taps"), (["--masks"], {"none", "normalized, bool"}, "{}")],
)
def test_windows_and_masks(tmp_path, options, forms, row):
    command = [sys.executable, str(BENCH.with_name("windows.py")), "--size", "1x1x40x48", *options]
    command += ["--budget", "0.01", "--out", str(tmp_path), "--name", "windows"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "windows.json").read_text())
    for times in results["times"].values():
        assert forms <= set(times)
        assert all(time["median_s"] > 0 for time in times.values())
        assert all(row.format(form) in done.stdout for form in times)
