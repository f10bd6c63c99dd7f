"""The CMake package and the headers of this installation, used without torch by a C program.

What needs a libtorch (fused_ssim.h, the examples) is built by tools/ci/cpp_api.sh.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import fused_ssim
from elf import dynamic_section
from fused_ssim.cli import main
from installation import COMPILED, DEPENDENCIES, ROOT, environment


def run(*command: str | Path) -> tuple[int, str]:
    """Exit code and all that was printed, lines unfolded."""
    done = subprocess.run(
        list(map(str, command)),
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=600,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def configure(source: Path, build: Path, prefix: Path, *options: str) -> tuple[int, str]:
    return run(
        "cmake", "-G", "Ninja", "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}", *options
    )


def test_the_command_line_tells_where_it_is():
    code, said = run(sys.executable, "-m", "fused_ssim", "--cmake-dir")
    assert code == 0, said
    assert Path(said) == COMPILED
    assert (COMPILED / "lib/cmake/fused_ssim/fused_ssimConfig.cmake").is_file()


def test_the_command_line_says_where_it_is_not(tmp_path, monkeypatch, capsys):
    # As where the C++ libraries are a package of their own.
    monkeypatch.setattr(fused_ssim._C, "__file__", str(tmp_path / "_C.so"))
    with pytest.raises(SystemExit) as ended:
        main(["--cmake-dir"])
    assert ended.value.code == 2
    assert "CMAKE_PREFIX_PATH" in capsys.readouterr().err


def test_headers():
    installed, own = COMPILED / "include", ROOT / "include"
    assert {path.relative_to(installed) for path in installed.rglob("*.h")} == {
        Path("fused_ssim/version.h"),
        *(path.relative_to(own) for path in own.rglob("*.h")),
    }
    text = (COMPILED / "include/fused_ssim/version.h").read_text()
    assert f'#define FUSED_SSIM_VERSION "{fused_ssim.__version__}"' in text
    numbers = re.findall(r"#define FUSED_SSIM_VERSION_\w+ (\d+)", text)
    assert fused_ssim.__version__.startswith(".".join(numbers))


def test_no_file_names_a_folder_of_the_machine_that_built_it():
    suspects = [str(ROOT), str(DEPENDENCIES), tempfile.gettempdir() + "/"]
    for path in COMPILED.rglob("*"):
        if path.is_file() and path.suffix in {".so", ".h", ".cmake"}:
            data = path.read_bytes()
            found = [name for name in suspects if name.encode() in data]
            assert found == [], path


@pytest.fixture(scope="module")
def moved(tmp_path_factory) -> Path:
    """A copy of what CMake users get, in another place: nothing in it may refer to the first."""
    folder = tmp_path_factory.mktemp("moved") / "a folder/fused_ssim"
    folder.mkdir(parents=True)
    for name in ("include", "lib"):
        shutil.copytree(COMPILED / name, folder / name)
    for library in COMPILED.glob("libfused_ssim*"):
        shutil.copy2(library, folder)
    return folder


def test_a_c_program_without_torch(moved, tmp_path):
    code, said = configure(ROOT / "tests/cpp_api", tmp_path, moved, "-DFUSED_SSIM_API_TORCH=OFF")
    assert code == 0, said
    assert f"fused_ssim {fused_ssim.__version__.split('+')[0]} at {moved}" in said
    code, said = run("cmake", "--build", tmp_path)
    assert code == 0, said
    code, said = run("ctest", "--test-dir", tmp_path, "--output-on-failure")
    assert code == 0, said
    assert "100% tests passed" in said


CONSUMER = """
cmake_minimum_required(VERSION 3.24)
project(consumer LANGUAGES NONE)
set(CMAKE_SIZEOF_VOID_P 8)
find_package(fused_ssim {arguments} CONFIG REQUIRED)
foreach(name IN ITEMS fused_ssim kernels cuda_kernels)
  if(TARGET fused_ssim::${{name}})
    message(STATUS "has ${{name}}")
  endif()
endforeach()
"""


def consume(tmp_path: Path, prefix: Path, arguments: str) -> tuple[int, str]:
    (tmp_path / "CMakeLists.txt").write_text(CONSUMER.format(arguments=arguments))
    return configure(tmp_path, tmp_path / "build", prefix)


@pytest.mark.parametrize("arguments", ["", "{version}", "COMPONENTS CPU"])
def test_it_is_found(moved, tmp_path, arguments):
    number = re.match(r"\d+\.\d+\.\d+", fused_ssim.__version__)[0]
    code, said = consume(tmp_path, moved, arguments.format(version=number))
    assert code == 0, said
    assert "has fused_ssim" in said
    assert "has kernels" in said


@pytest.mark.parametrize("version", ["99.0", "0.0.1"])
def test_other_versions_are_not(moved, tmp_path, version):
    code, said = consume(tmp_path, moved, version)
    assert code != 0
    assert f'compatible with requested version "{version}"' in said


def test_the_component_cuda(moved, tmp_path):
    code, said = consume(tmp_path, moved, "COMPONENTS CUDA")
    if (moved / "libfused_ssim_cuda_kernels.so").exists():
        assert code == 0, said
        assert "has cuda_kernels" in said
    else:
        assert code != 0
        assert "holds no CUDA kernels" in said


def test_an_installation_without_cuda(moved, tmp_path):
    prefix = tmp_path / "prefix/fused_ssim"
    shutil.copytree(moved, prefix)
    for path in [*prefix.glob("*cuda*"), *(prefix / "lib/cmake/fused_ssim").glob("*cuda*")]:
        path.unlink()
    (tmp_path / "consumer").mkdir()
    code, said = consume(tmp_path / "consumer", prefix, "COMPONENTS CUDA")
    assert code != 0
    assert "build it with FUSED_SSIM_CUDA=ON" in said
    code, said = consume(tmp_path / "consumer", prefix, "")
    assert code == 0, said
    assert "has cuda_kernels" not in said


PROGRAM = """
cmake_minimum_required(VERSION 3.24)
project(program LANGUAGES CXX)
find_package(fused_ssim CONFIG REQUIRED)
if(TORCH_HAS_CUDA)
  add_library(torch_cuda INTERFACE IMPORTED) # as in torch's package
endif()
file(WRITE main.cpp "int main() {}")
add_executable(program main.cpp)
# Linkers of some distributions leave out by default what is not called. There is no torch here.
target_link_options(program PRIVATE -Wl,--as-needed -Wl,--unresolved-symbols=ignore-all)
target_link_libraries(program PRIVATE fused_ssim::fused_ssim)
"""


@pytest.mark.parametrize("torch_has_cuda", [False, True])
def test_the_operators_are_linked_although_nothing_calls_them(moved, tmp_path, torch_has_cuda):
    (tmp_path / "CMakeLists.txt").write_text(PROGRAM)
    code, said = configure(
        tmp_path, tmp_path / "build", moved, f"-DTORCH_HAS_CUDA={torch_has_cuda}"
    )
    assert code == 0, said
    code, said = run("cmake", "--build", tmp_path / "build")
    assert code == 0, said
    section = dynamic_section(tmp_path / "build/program")
    expected = {"libfused_ssim.so"}
    if torch_has_cuda and (moved / "libfused_ssim_cuda.so").exists():
        expected.add("libfused_ssim_cuda.so")
    assert {name for name in section["NEEDED"] if "fused_ssim" in name} == expected
    assert any(str(moved) in path for path in section["RUNPATH"] + section["RPATH"])
