"""tools/wheels: the checks of finished wheels see what they are there for; the record is in order."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import library_rules
from installation import ROOT

SCRIPTS = ROOT / "tools/wheels"
sys.path.insert(0, str(SCRIPTS))
import check
import matrix
import sets

TABLE = sets.read()


@pytest.fixture
def library(tmp_path):
    """Compiles a small shared library, linked as ours are, to a stand-in for libtorch."""

    def compile_c(name: str, source: str, *options: str) -> Path:
        (tmp_path / "source.c").write_text(source)
        command = [shutil.which("cc") or "gcc", "-shared", "-fPIC", "-o", str(tmp_path / name)]
        subprocess.run([*command, str(tmp_path / "source.c"), *options], check=True)
        return tmp_path / name

    for name in ("libtorch", "libfused_ssim_kernels", "libcudart"):
        compile_c(
            f"{name}.so", f"int {name}_function(void) {{ return 0; }}", f"-Wl,-soname,{name}.so"
        )
    linked = [f"-L{tmp_path}", "-Wl,--no-as-needed", "-ltorch", "-lfused_ssim_kernels"]

    def make(source: str, *options: str, rpath: str = "$ORIGIN:$ORIGIN/../torch/lib") -> Path:
        path = [f"-Wl,-rpath,{rpath}"] if rpath else []
        return compile_c("libfused_ssim.so", source, *linked, *path, *options)

    return make


GOOD = "void torch_function(void); void fused_ssim_build_facts(void) { torch_function(); }"


def problems(path: Path) -> str:
    return "\n".join(library_rules.library_problems("libfused_ssim", path))


def test_accepts_a_library_as_ours_are(library):
    assert problems(library(GOOD)) == ""


def test_sees_symbols_that_others_might_pick_up(library):
    assert "beside it ['helper']" in problems(library(GOOD + " void helper(void) {}"))


def test_sees_symbols_outside_the_stable_abi(library):
    source = GOOD.replace("torch_function", "_ZN2at5emptyEv")
    assert "outside the stable ABI: ['_ZN2at5emptyEv']" in problems(library(source))


def test_sees_that_a_declared_function_is_missing(library):
    assert "without ['fused_ssim_build_facts']" in problems(library("static int nothing;"))


def test_sees_a_cuda_runtime_that_is_not_inside(library):
    assert "'libcudart.so'" in problems(library(GOOD, "-lcudart"))


@pytest.mark.parametrize("rpath", ["", "/opt/build/torch/lib", "$ORIGIN"])
def test_sees_another_run_path(library, rpath):
    assert "expected RUNPATH" in problems(library(GOOD, rpath=rpath))


def test_reports_the_newest_version_of_system_symbols(library):
    path = library("#include <math.h>\ndouble f(double x) { return exp(x); }", "-lm")
    version = tuple(map(int, check.glibc_versions([path])["GLIBC"].split(".")))
    assert version >= (2, 29)  # when exp last changed


@pytest.mark.parametrize(
    ("wheels", "name", "expected"),
    [
        ("cu130", "fused_ssim-0.1.0-py3-none-any.whl", "cpXY"),
        ("cu130", "fused_ssim-0.1.0+cu130-cp311-cp311-win_amd64.whl", "expected a platform of"),
        ("cu130", "fused_ssim-0.1.0-cp311-cp311-manylinux_2_28_x86_64.whl", "local version cu130"),
        ("cu128", "fused_ssim-1.0+cu128-cp311-cp311-manylinux_2_28_x86_64.whl", "local version (none)"),
        ("cu130", "fused_ssim-0.1.0+cu130-cp311-cp311-linux_x86_64.whl", "a platform tag like"),
        ("cu130", "fused_ssim-1.0+cu130-cp311-cp311-manylinux_2_35_x86_64.whl", "a platform tag like"),
    ],
)  # fmt: skip
def test_sees_a_wrong_name(wheels, name, expected, monkeypatch):
    monkeypatch.setattr(check, "audit", lambda path: ("linux_x86_64", {library_rules.TORCH}))
    found = check.check_name(TABLE.sets[wheels], TABLE, Path(name))
    assert expected in "\n".join(found)


# ==================================================================================================
# The record of what was run
# ==================================================================================================


def test_the_page_is_what_its_record_says():
    rows = json.loads(matrix.RECORD.read_text(encoding="utf-8"))
    assert matrix.PAGE.read_text(encoding="utf-8") == matrix.page(rows)
    # A failure stands in the record only with its reason, and none on a CPU, where all can be installed.
    assert all(row["passed"] > 0 for row in rows)
    assert all(row["failed"] == 0 or (row["note"] and row["device"] == "cuda") for row in rows)


def test_a_newer_run_takes_the_place_of_the_old(tmp_path, monkeypatch):
    monkeypatch.setattr(matrix, "RECORD", tmp_path / "record.json")
    row = {"wheel": "a.whl", "torch": "2.10.0", "device": "cpu", "suite": "full", "passed": 1}
    matrix.record([row])
    matrix.record([{**row, "passed": 2}, {**row, "torch": "2.9.0"}])
    rows = json.loads(matrix.RECORD.read_text())
    assert [(r["torch"], r["passed"]) for r in rows] == [("2.9.0", 1), ("2.10.0", 2)]
