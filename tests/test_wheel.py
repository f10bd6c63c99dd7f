"""sdist -> wheel -> installation in a fresh environment, outside the source tree and without git.

CPU alone: the CUDA library takes long to compile, and test_build.py looks at the installed one.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from installation import DEPENDENCIES, QUICK_BUILD, ROOT, VERSION, environment, run_python
from library_rules import CPU_LIBRARIES
from test_build import check_libraries

VARIABLES = {"FUSED_SSIM_CUDA": "OFF", **QUICK_BUILD}


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        list(map(str, command)),
        check=False,
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(**VARIABLES),
        timeout=1800,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


class Environment:
    """A new virtual environment that sees the dependencies of this one, but nothing of ours."""

    def __init__(self, folder: Path) -> None:
        run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
        self.bin = folder / "bin"
        self.python = str(self.bin / "python")
        (self.site,) = (folder / "lib").glob("python*/site-packages")
        # A folder that a .pth file names is searched after the environment's own, and .pth files in
        # it, such as that of an editable install, are not read.
        (self.site / "dependencies.pth").write_text(f"{DEPENDENCIES}\n")

    def install(self, *arguments: str | Path, cwd: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--python", self.python]
        # Among the dependencies there may be an installation of this very version, which would do
        # for pip, and which it must neither take for ours nor remove.
        options = ["--no-index", "--no-deps", "--ignore-installed"]
        run(*pip, "install", *options, *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "-o", folder, ROOT, cwd=folder)
    (archive,) = folder.iterdir()
    return archive


@pytest.fixture(scope="module")
def unpacked(sdist, tmp_path_factory) -> Path:
    """The sdist unpacked: a source tree without git."""
    folder = tmp_path_factory.mktemp("source")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    return tree


@pytest.fixture(scope="module")
def wheel(unpacked, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", folder, unpacked,
        cwd=folder,
    )  # fmt: skip
    (archive,) = folder.iterdir()
    return archive


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Environment:
    folder = tmp_path_factory.mktemp("installed")
    fresh = Environment(folder / "venv")
    fresh.install(wheel, cwd=folder)
    return fresh


def python_files(root: Path) -> Iterator[str]:
    for path in (root / "python").rglob("*"):
        if path.suffix in {".py", ".pyi", ".typed"}:
            yield path.relative_to(root / "python").as_posix()


def test_sdist_holds_what_it_needs_and_nothing_else(sdist):
    assert sdist.name == f"fused_ssim-{VERSION}.tar.gz"
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = {"CMakeLists.txt", "CMakePresets.json", "LICENSE", "PKG-INFO", "README.md"}
    files.add("pyproject.toml")
    folders = {"benchmarks", "cmake", "conda", "docs", "examples", "include", "index", "python"}
    folders |= {"src", "tests", "tools"}
    assert {name for name in names if "/" not in name} <= files | folders
    assert files <= names
    suffixes = {Path(name).suffix for name in names if "/" in name}
    assert suffixes <= {
        ".c",
        ".cmake",
        ".cpp",
        ".css",
        ".cu",
        ".cuh",
        ".h",
        ".in",
        ".json",
        ".map",
        ".md",
        ".py",
        ".sh",
        ".toml",
        ".pyi",
        ".rst",
        ".svg",
        ".txt",
        ".typed",
        ".yaml",
    }
    for folder in ("cmake", "python", "src"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in suffixes and "__pycache__" not in path.parts:
                assert path.relative_to(ROOT).as_posix() in names


def metadata(folder: Path, local: str) -> subprocess.CompletedProcess[str]:
    """What the build backend says of a wheel, without building it."""
    code = "import sys; from scikit_build_core.build import prepare_metadata_for_build_wheel as f; "
    return subprocess.run(
        [sys.executable, "-c", code + "f(sys.argv[1])", folder],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(FUSED_SSIM_LOCAL_VERSION=local),
    )


@pytest.mark.parametrize(("local", "version"), [("", VERSION), ("cu130", f"{VERSION}+cu130")])
def test_local_version(tmp_path, local, version):
    done = metadata(tmp_path, local)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"fused_ssim-{version}.dist-info"
    assert f"\nVersion: {version}\n" in (folder / "METADATA").read_text()


@pytest.mark.parametrize("local", ["CU130", "cu13.", "cu_130", "13 0"])
def test_refuses_what_is_no_local_version(tmp_path, local):
    done = metadata(tmp_path, local)
    assert done.returncode != 0
    assert "FUSED_SSIM_LOCAL_VERSION" in done.stderr
    assert repr(local) in done.stderr


def test_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(f"fused_ssim-{VERSION}.dist-info/METADATA").decode()
        entry_points = archive.read(f"fused_ssim-{VERSION}.dist-info/entry_points.txt").decode()
    package = {name for name in names if name.startswith("fused_ssim/")}
    libraries = {name for name in package if name.endswith(".so")}
    assert {Path(name).name.split(".")[0] for name in libraries} == CPU_LIBRARIES
    headers = {name for name in package if name.startswith("fused_ssim/include/fused_ssim/")}
    cmake = {name for name in package if name.startswith("fused_ssim/lib/cmake/fused_ssim/")}
    assert len(headers) == 1 + len(list((ROOT / "include").rglob("*.h")))  # and version.h
    assert {Path(name).suffix for name in cmake} == {".cmake"}
    assert package - libraries - headers - cmake == set(python_files(ROOT))
    assert "[cmake.prefix]\nfused_ssim = fused_ssim\n" in entry_points
    assert all(name.startswith(f"fused_ssim-{VERSION}.dist-info/") for name in set(names) - package)
    assert "Requires-Dist: torch>=2.1\n" in metadata
    assert "License-Expression: MIT\n" in metadata
    assert f"fused_ssim-{VERSION}.dist-info/licenses/LICENSE" in names


def test_libraries_of_the_wheel(installed):
    check_libraries(installed.site / "fused_ssim", cuda=False)


WORK = """
import fused_ssim, torch
torch.manual_seed(0)
pred = torch.rand(2, 3, 33, 47, requires_grad=True)
target = torch.rand(2, 3, 33, 47)
assert fused_ssim.fused_ssim(pred, pred.detach()).item() == 1
value = fused_ssim.fused_ssim(pred, target)
value.backward()
step = 1e-3 * pred.grad / pred.grad.norm()
with torch.no_grad():
    rise = fused_ssim.ssim(pred + step, target) - fused_ssim.ssim(pred - step, target)
assert abs(rise / (2e-3 * pred.grad.norm()) - 1) < 0.02, "the gradient is not that of the value"
print(fused_ssim.__version__, fused_ssim.__file__, fused_ssim._C.__file__, sep="\\n")
"""


def test_a_wheel_works_in_a_fresh_environment(installed):
    version, package, compiled = run_python(WORK, python=installed.python).stdout.split()
    assert version == VERSION
    assert Path(package).parent == Path(compiled).parent == installed.site / "fused_ssim"


def test_its_command_line_works(installed, tmp_path):
    program = run(installed.bin / "fused-ssim", "info", cwd=tmp_path)
    module = run(installed.python, "-m", "fused_ssim", "info", cwd=tmp_path)
    assert program == module
    assert VERSION in program


def test_an_editable_install_follows_its_sources(wheel, unpacked, tmp_path):
    del wheel  # built in the same tree before: nothing is left to compile
    fresh = Environment(tmp_path / "venv")
    fresh.install("--no-build-isolation", "--editable", unpacked, cwd=tmp_path)
    check_libraries(fresh.site / "fused_ssim", cuda=False)
    version, package, compiled = run_python(WORK, python=fresh.python).stdout.split()
    assert version == VERSION
    assert Path(package).parent == unpacked / "python/fused_ssim"
    assert Path(compiled).parent == fresh.site / "fused_ssim"

    (unpacked / "python/fused_ssim/added.py").write_text("ANSWER = 42\n")
    with (unpacked / "python/fused_ssim/__init__.py").open("a") as file:
        file.write("\nEDITED = True\n")
    done = run_python(
        "import fused_ssim, fused_ssim.added; print(fused_ssim.EDITED, fused_ssim.added.ANSWER)",
        python=fresh.python,
    )
    assert done.stdout == "True 42\n"
