"""The benchmark runs, and its JSON and tables say what was measured. Its numbers are not judged."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "benchmarks" / "bench.py"
SIZE = "1x3x176x178"  # five scales, for torchmetrics, too
VOLUME = "1x1x11x12x13"
LIBRARIES = ["fused_ssim", "pytorch-msssim", "torchmetrics", "scikit-image", "mse_loss"]


def bench(out, *options):
    """A small run: what it printed, and the JSON that it wrote."""
    command = [sys.executable, str(BENCH), "--budget", "0.01", "--out", str(out), "--name", "small"]
    command += options
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((out / "small.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    sizes = ["--sizes", SIZE, VOLUME]
    return bench(tmp_path_factory.mktemp("results"), *sizes, "--libraries", *LIBRARIES)


def test_every_library_did_every_kind_of_step(run):
    _, results = run
    of_torch = ("fused_ssim", "pytorch-msssim", "torchmetrics")
    kinds = ("inference", "training", "photometric", "ms_ssim", "ms_ssim_training")
    expected = {(name, kind, SIZE) for name in of_torch for kind in kinds}
    expected |= {(name, f"volume{end}", VOLUME) for name in of_torch for end in ("", "_training")}
    expected |= {("mse_loss", "inference", SIZE), ("mse_loss", "training", SIZE)}
    expected |= {("fused_ssim", "masked", SIZE), ("scikit-image", "volume", VOLUME)}
    expected |= {("scikit-image", kind, SIZE) for kind in ("inference", "uint8", "uint8_uniform")}
    expected |= {("fused_ssim", "uint8", SIZE), ("fused_ssim", "uint8_uniform", SIZE)}
    expected |= {("pytorch-msssim", "uint8", SIZE)}
    assert {(row["library"], row["kind"], row["size"]) for row in results["rows"]} == expected
    for row in results["rows"]:
        assert row["error"] is None, row
        assert row["values"] == math.prod(map(int, row["size"].split("x")))
        assert row["wall"]["median_s"] >= row["wall"]["best_s"] > 0
        assert row["wall"]["samples"] >= 5


def test_libraries_computed_the_same_thing(run):
    _, results = run
    means = {}
    for row in results["rows"]:
        means.setdefault(row["kind"], {})[row["library"]] = row["mean"]
    for kind, values in means.items():
        values.pop("mse_loss", None)
        if kind.startswith("ms_ssim"):
            values.pop("torchmetrics")  # it crops the scales and averages otherwise
        # Others differ at the border.
        bound = 1e-5 if kind.startswith(("uint8", "ms_ssim")) else 0.05
        assert max(values.values()) - min(values.values()) < bound, (kind, values)
    ours = [means[kind]["fused_ssim"] for kind in ("inference", "training")]
    assert ours[0] == pytest.approx(ours[1], abs=1e-6)


def test_memory_of_a_training_step(run):
    _, results = run
    peaks = [r["peak_extra_bytes"] for r in results["rows"] if r["kind"] == "training"]
    assert len(peaks) == 4
    if sys.platform == "linux":
        assert all(0 <= peak < 2**28 for peak in peaks)


def test_json_says_where_it_comes_from(run):
    _, results = run
    # Without --out: that names a folder of this machine.
    sizes, libraries = f"{SIZE} {VOLUME}", " ".join(LIBRARIES)
    expected = "python benchmarks/bench.py --budget 0.01 --name small"
    assert results["command"] == f"{expected} --sizes {sizes} --libraries {libraries}"
    assert results["machine"]["processor"]
    assert results["machine"]["threads"] >= 1
    assert results["ceilings"]["copy_bytes_per_s"] > 1e8
    assert results["ceilings"]["multiply_adds_per_s"] > 1e8
    assert list(results["libraries"]) == LIBRARIES


def test_json_is_what_the_schema_says(run):
    schema = json.loads((BENCH.parents[1] / "docs/benchmark.schema.json").read_text())
    _, results = run
    assert set(results) == set(schema["required"]) == set(schema["properties"])
    row = schema["properties"]["rows"]["items"]
    for found in results["rows"]:
        assert set(found) == set(row["required"]) == set(row["properties"])


def test_table_holds_the_ratios(run):
    printed, results = run
    rows = {(row["library"], row["kind"]): row["wall"]["median_s"] for row in results["rows"]}
    ratio = rows["pytorch-msssim", "training"] / rows["fused_ssim", "training"]
    section = printed[printed.index("SSIM, training step") :]
    line = next(line for line in section.splitlines() if "fused_ssim" in line)
    assert f" {ratio:.1f}x " in line
    assert line.split()[-4] == "12"  # bytes a pixel


def test_without_a_name_nothing_is_written(tmp_path):
    command = [
        sys.executable,
        str(BENCH),
        "--budget",
        "0.01",
        "--out",
        str(tmp_path),
        "--no-memory",
    ]
    command += ["--sizes", "1x1x11x12", "--kinds", "inference", "--libraries", "fused_ssim"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "fused_ssim" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_missing_gpu_or_wrong_size_is_one_line():
    for options, message in (
        (["--device", "cuda:99"], "error: "),
        (["--sizes", "3x4"], "expected BxCxHxW or BxCxDxHxW, got '3x4'"),
    ):
        command = [sys.executable, str(BENCH), *options]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 2
        assert message in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("subject", "forms"),
    [("windows", {"3 taps", "11 taps", "33 taps"}), ("masks", {"none", "normalized, bool"})],
)
def test_forms_of_our_own(tmp_path, subject, forms):
    printed, results = bench(tmp_path, "--subject", subject, "--sizes", "1x1x40x48")
    assert results["subject"] == subject
    for kind in ("inference", "training"):
        rows = {row["library"]: row for row in results["rows"] if row["kind"] == kind}
        assert forms <= set(rows)
        assert all(row["wall"]["median_s"] > 0 for row in rows.values())
        assert all(name in printed for name in rows)


def test_a_number_changed_by_hand_is_seen(tmp_path):
    """In the page, whose tables are made from the files; the lint step compares those of this tree."""
    for name in ("benchmarks", "docs"):
        shutil.copytree(BENCH.parents[1] / name, tmp_path / name)
    shutil.copy(BENCH.parents[1] / "README.md", tmp_path)
    page = tmp_path / "docs/benchmarks.md"
    page.write_text(page.read_text().replace("<!-- end -->", "| faster |\n<!-- end -->"))
    check = [sys.executable, str(tmp_path / "benchmarks/report.py"), "--check"]
    done = subprocess.run(check, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "docs/benchmarks.md: not what" in done.stdout
