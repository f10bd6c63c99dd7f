"""The build scripts of the conda packages, run as rattler-build runs them, against a plain prefix.

The prefix is a virtual environment that has libtorch where conda-forge's package has it. CPU alone.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from installation import DEPENDENCIES, QUICK_BUILD, ROOT, environment, project_version, run_python
from test_wheel import Environment

LIBRARIES = {"libfused_ssim.so", "libfused_ssim_kernels.so"}


class Prefix(Environment):
    def __init__(self, folder: Path, source: Path) -> None:
        super().__init__(folder)
        self.folder = folder
        self.source = source
        torch = DEPENDENCIES / "torch"
        for directory in ("include", "lib"):
            (folder / directory).mkdir(exist_ok=True)
        (folder / "include/torch").symlink_to(torch / "include/torch")
        for library in (torch / "lib").glob("lib*.so*"):
            (folder / "lib" / library.name).symlink_to(library)

    def run(self, *command: object, **variables: str) -> str:
        done = subprocess.run(
            list(map(str, command)),
            check=False,
            capture_output=True,
            text=True,
            cwd=self.source,
            env=environment(
                PREFIX=str(self.folder),
                SRC_DIR=str(self.source),
                PYTHON=self.python,
                **QUICK_BUILD,
                CPU_COUNT="2",
                cuda_compiler_version="None",
                # As conda's builds set them.
                PIP_NO_INDEX="1",
                PIP_IGNORE_INSTALLED="1",
                **variables,
            ),
            timeout=1800,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The sources as a feedstock gets them: the sdist's."""
    tree = tmp_path_factory.mktemp("conda") / "source"
    tree.mkdir()
    for name in ("cmake", "conda", "include", "python", "src", "tools"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tree)
    return tree


@pytest.fixture(scope="module")
def libraries(source) -> Prefix:
    """A prefix with libfused_ssim."""
    prefix = Prefix(source.parent / "prefix", source)
    said = prefix.run("bash", source / "conda/build-lib.sh")
    assert f"at {prefix.folder}" in said  # torch: the prefix's, not the one of some Python
    assert "CPU levels: baseline" in said
    assert "avx2" not in said.split("CPU levels:")[1].splitlines()[0]
    return prefix


@pytest.fixture(scope="module")
def package(libraries) -> Prefix:
    """The same with fused-ssim."""
    libraries.run("bash", libraries.source / "conda/build-python.sh")
    return libraries


def test_the_libraries_and_headers_are_in_the_prefix(libraries):
    assert {path.name for path in (libraries.folder / "lib").glob("libfused_ssim*")} == LIBRARIES
    headers = {path.name for path in (libraries.folder / "include/fused_ssim").iterdir()}
    assert {"fused_ssim.h", "kernels.h", "version.h"} <= headers
    assert (libraries.folder / "lib/cmake/fused_ssim/fused_ssimConfig.cmake").is_file()


def test_a_cpp_program_of_the_prefix(libraries, tmp_path):
    smoke = libraries.source / "conda/smoke"
    options = ["-G", "Ninja", f"-DCMAKE_PREFIX_PATH={libraries.folder}"]
    libraries.run("cmake", *options, "-S", smoke, "-B", tmp_path / "build")
    libraries.run("cmake", "--build", tmp_path / "build")
    said = libraries.run(tmp_path / "build/smoke")
    assert said.startswith(f"fused_ssim {project_version()}: 1 for equal images")


def test_the_python_package_is_over_those_libraries(package):
    installed = package.site / "fused_ssim"
    found = {path.name: path for path in installed.glob("*.so") if path.name.startswith("lib")}
    assert set(found) == LIBRARIES
    for name, path in found.items():
        assert path.is_symlink()
        assert not path.readlink().is_absolute()  # the prefix of a conda package moves
        assert path.resolve() == (package.folder / "lib" / name).resolve()
    (compiled,) = installed.glob("_C.*.so")
    assert not compiled.is_symlink()
    assert not (installed / "include").exists()


def test_a_python_program_of_the_prefix(package):
    said = package.run(package.python, package.source / "conda/smoke/smoke.py")
    assert said.startswith(f"fused_ssim {project_version()} on cpu: 0.")
    done = run_python(
        "import fused_ssim; print(fused_ssim.__file__); print(fused_ssim._C.__file__)\n"
        "print(fused_ssim.build_info().cpu_levels_compiled)",
        python=package.python,
    )
    imported, compiled, levels = done.stdout.splitlines()
    assert Path(imported).parent == Path(compiled).parent == package.site / "fused_ssim"
    assert levels == "('baseline',)"


def test_its_command_line(package):
    assert "verdict " in package.run(package.bin / "fused-ssim", "info")


def test_a_prefix_that_moved(package, tmp_path):
    """As conda packages do when they are installed."""
    moved = tmp_path / "moved"
    shutil.copytree(package.folder, moved, symlinks=True)
    hidden = package.folder.with_name("hidden")
    package.folder.rename(hidden)
    try:
        (site,) = (moved / "lib").glob("python*/site-packages")
        done = run_python(
            "import fused_ssim, torch; x = torch.rand(1, 1, 16, 16)\n"
            "print(fused_ssim.fused_ssim(x, x).item(), fused_ssim._C.__file__)",
            python=str(moved / "bin/python"),
            PYTHONPATH=str(site),
        )
        value, compiled = done.stdout.split()
        assert float(value) == 1
        assert Path(compiled).parent == site / "fused_ssim"
    finally:
        hidden.rename(package.folder)
