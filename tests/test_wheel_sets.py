"""tools/wheels/sets.toml, the table of the wheels that are made, and what is made of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from installation import ROOT, environment

SCRIPT = ROOT / "tools/wheels/sets.py"
sys.path.insert(0, str(SCRIPT.parent))
import sets

TABLE = sets.read()
WITH_CUDA = [wheels for wheels in TABLE.sets.values() if wheels.toolkit]


def names(given: list[sets.WheelSet]) -> list[str]:
    return [wheels.name for wheels in given]


def cmake_default(tmp_path: Path, toolkit: str) -> set[str]:
    """The architectures that CMake would choose for an nvcc of this version."""
    script = tmp_path / "default.cmake"
    script.write_text(
        f'include("{ROOT}/cmake/CudaArchitectures.cmake")\n'
        f'fused_ssim_cuda_architectures(result "{toolkit}" "")\n'
        'fused_ssim_describe_architectures(described "${result}")\n'
        'message(STATUS "described=${described};")\n'
    )
    done = subprocess.run(
        ["cmake", "-P", script], check=True, capture_output=True, text=True, env=environment()
    )
    return set(re.findall(r"described=([^;]*);", done.stdout)[0].split())


@pytest.mark.parametrize("wheels", WITH_CUDA, ids=names(WITH_CUDA))
def test_architectures_are_the_defaults_of_the_toolkit(wheels, tmp_path):
    assert wheels.architectures == cmake_default(tmp_path, wheels.toolkit)


@pytest.mark.parametrize("wheels", TABLE.sets.values(), ids=names(TABLE.sets.values()))
def test_a_set_is_whole(wheels):
    assert set(wheels.platforms) <= set(TABLE.platforms)
    assert set(wheels.pypi) <= set(wheels.platforms)
    assert set(wheels.ptx) <= set(wheels.real)  # torch's syntax, which builds it, has no other way
    assert set(wheels.images) == {n for n in wheels.platforms if n.startswith("linux-")}
    assert bool(wheels.toolkit) == bool(wheels.real) == bool(wheels.driver)
    # Without a local version it can only go where there is no need of one.
    assert wheels.local or wheels.pypi == wheels.platforms
    if wheels.toolkit:
        assert wheels.name == "cu" + wheels.toolkit.replace(".", "")
        assert all(f"cuda{wheels.toolkit}" in image for image in wheels.images.values())


def test_pypi_gets_one_wheel_for_a_platform():
    given = [name for wheels in TABLE.sets.values() for name in wheels.pypi]
    assert sorted(given) == sorted(set(given))
    assert set(given) == set(TABLE.platforms)


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout


def test_matrix_is_json_with_a_job_for_each_published_set_and_platform():
    jobs = json.loads(run("matrix"))["include"]
    expected = {
        (wheels.name, platform)
        for wheels in TABLE.sets.values()
        if wheels.publish
        for platform in wheels.platforms
    }
    assert {(job["set"], job["platform"]) for job in jobs} == expected
    assert len(jobs) == len(expected)


def test_environment():
    said = dict(line.split("=", 1) for line in run("environment", "cu130", "x86_64").splitlines())
    assert said["CIBW_MANYLINUX_X86_64_IMAGE"] == TABLE.sets["cu130"].images["linux-x86_64"]
    assert 'FUSED_SSIM_LOCAL_VERSION="cu130"' in said["CIBW_ENVIRONMENT"]
    assert "9.0 10.0 11.0 12.0+PTX" in said["CIBW_ENVIRONMENT"]
    assert said["CIBW_BUILD"].split()[0] == "cp310-*"
    # What goes to PyPI has no local version.
    assert "LOCAL_VERSION" not in run("environment", "cu128", "linux-aarch64")
    assert "LOCAL_VERSION" not in run("environment", "cpu", "macos-arm64")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["cu99"], "expected a set"), (["cu130", "macos-arm64"], "not for macos-arm64")],
)
def test_refuses_what_is_not_in_the_table(arguments, expected):
    done = subprocess.run(
        [sys.executable, SCRIPT, "environment", *arguments],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert expected in done.stderr
