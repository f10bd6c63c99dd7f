"""The build and what it makes: configuration, symbols, loading, build_info()."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fused_ssim
from elf import device_architectures
from fused_ssim._build_info import BuildInfo, GpuInfo
from fused_ssim._verdict import covers
from installation import (
    COMPILED,
    DEPENDENCIES,
    PACKAGE,
    ROOT,
    VERSION,
    environment,
    libraries,
    project_version,
    run_python,
)
from library_rules import problems

# ==================================================================================================
# CMake
# ==================================================================================================


# The torch of this Python is what these configure the build with.
OLD_TORCH = torch.__version__ < (2, 10)
builds_here = pytest.mark.skipif(OLD_TORCH, reason="building from source needs torch 2.10")
# What a new interpreter loads, which is not told to take the older way.
CUDA_LIBRARY = f"libfused_ssim_cuda{'_kernels' if OLD_TORCH else ''}.so"


def run_cmake(*arguments: str | Path, **variables: str) -> tuple[int, str]:
    """CMake's exit code and all it printed, lines unfolded."""
    done = subprocess.run(
        ["cmake", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        env=environment(**variables),
        timeout=300,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.fixture
def configure(tmp_path):
    """Configures the project in a new folder, without the Python module."""

    def run(*options: str, **variables: str) -> tuple[int, str]:
        return run_cmake(
            "-S",
            ROOT,
            "-B",
            tmp_path / "build",
            "-DFUSED_SSIM_PYTHON=OFF",
            *options,
            **variables,
        )

    return run


@pytest.fixture
def without_nvcc(tmp_path):
    """CMake options under which no program is found, nvcc among them, but those named here."""
    (tmp_path / "empty").mkdir()
    return [
        f"-DCMAKE_FIND_ROOT_PATH={tmp_path / 'empty'}",
        "-DCMAKE_FIND_ROOT_PATH_MODE_PROGRAM=ONLY",
        "-GUnix Makefiles",
        f"-DCMAKE_MAKE_PROGRAM={shutil.which('make') or shutil.which('true')}",
        f"-DCMAKE_CXX_COMPILER={shutil.which('c++') or shutil.which('g++')}",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]


def fake_libtorch(prefix: Path, version: tuple[int, int, int]) -> Path:
    """A folder like an unpacked libtorch of some version, of which configuring reads little."""
    headers = prefix / "include/torch"
    (headers / "csrc/stable").mkdir(parents=True)
    (headers / "csrc/stable/library.h").touch()
    (headers / "headeronly").mkdir()
    (headers / "headeronly/version.h").write_text(
        "".join(
            f"#define TORCH_VERSION_{part} {number}\n"
            for part, number in zip(("MAJOR", "MINOR", "PATCH"), version, strict=True)
        )
    )
    (prefix / "lib").mkdir()
    for name in ("libtorch.so", "libtorch_cpu.so"):
        (prefix / "lib" / name).touch()
    return prefix


class TestTorchFinder:
    CPU = "-DFUSED_SSIM_CUDA=OFF"

    @builds_here
    def test_finds_the_torch_of_the_building_python(self, configure):
        code, said = configure(self.CPU, f"-DPython_EXECUTABLE={sys.executable}")
        assert code == 0, said
        version = torch.__version__.split("+")[0]
        assert f"fused_ssim: torch {version} at {DEPENDENCIES / 'torch'}" in said

    @pytest.mark.parametrize("how", ["option", "environment", "root"])
    def test_finds_a_plain_libtorch(self, configure, tmp_path, how):
        prefix = fake_libtorch(tmp_path / "libtorch", (2, 12, 3))
        python = f"-DPython_EXECUTABLE={sys.executable}"  # whose own torch comes second
        if how == "option":
            code, said = configure(self.CPU, python, f"-DCMAKE_PREFIX_PATH={prefix}")
        elif how == "environment":
            code, said = configure(self.CPU, python, CMAKE_PREFIX_PATH=f"/nowhere:{prefix}")
        else:
            code, said = configure(self.CPU, python, f"-DTorchStable_ROOT={prefix}")
        assert code == 0, said
        assert f"fused_ssim: torch 2.12.3 at {prefix}" in said

    def test_looks_again_where_the_torch_of_the_last_time_is_gone(self, configure, tmp_path):
        # As under build isolation, whose environment does not outlive the build.
        first = fake_libtorch(tmp_path / "first", (2, 12, 3))
        code, said = configure(self.CPU, f"-DCMAKE_PREFIX_PATH={first}")
        assert code == 0, said
        shutil.rmtree(first)
        second = fake_libtorch(tmp_path / "second", (2, 13, 1))
        code, said = configure(self.CPU, f"-DCMAKE_PREFIX_PATH={second}")
        assert code == 0, said
        assert f"fused_ssim: torch 2.13.1 at {second}" in said

    def test_refuses_an_old_torch(self, configure, tmp_path):
        prefix = fake_libtorch(tmp_path / "libtorch", (2, 9, 1))
        code, said = configure(self.CPU, f"-DCMAKE_PREFIX_PATH={prefix}")
        assert code != 0
        assert '"2.9.1"' in said
        assert '"2.10"' in said

    def test_names_the_remedy_where_there_is_no_torch(self, configure, tmp_path):
        subprocess.run(
            [sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True
        )
        code, said = configure(self.CPU, f"-DPython_EXECUTABLE={tmp_path}/venv/bin/python")
        assert code != 0
        assert "pip install 'torch>=2.10'" in said
        assert "-DCMAKE_PREFIX_PATH=/path/to/libtorch" in said


class TestCudaSwitch:
    @builds_here
    def test_off(self, configure):
        code, said = configure("-DFUSED_SSIM_CUDA=OFF", f"-DPython_EXECUTABLE={sys.executable}")
        assert code == 0, said
        assert "CUDA library: no (FUSED_SSIM_CUDA=OFF)" in said

    @builds_here
    def test_auto_without_nvcc_builds_for_the_cpu_and_says_so(self, configure, without_nvcc):
        code, said = configure("-DFUSED_SSIM_CUDA=AUTO", *without_nvcc, CUDACXX="")
        assert code == 0, said
        assert "CUDA library: no (FUSED_SSIM_CUDA=AUTO, and nvcc was not found)" in said

    def test_on_without_nvcc_names_the_remedy(self, configure, without_nvcc):
        code, said = configure("-DFUSED_SSIM_CUDA=ON", *without_nvcc, CUDACXX="")
        assert code != 0
        assert "nvcc was not found" in said
        assert "CUDA_HOME" in said
        assert "FUSED_SSIM_CUDA=OFF" in said

    @builds_here
    @pytest.mark.parametrize("value", ["AUTO", "ON"])
    def test_an_nvcc_that_does_not_compile(self, configure, tmp_path, value):
        nvcc = tmp_path / "toolkit/bin/nvcc"
        nvcc.parent.mkdir(parents=True)
        nvcc.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Cuda, release 12.8, V12.8.93"\n')
        nvcc.chmod(0o755)
        code, said = configure(
            f"-DFUSED_SSIM_CUDA={value}",
            f"-DPython_EXECUTABLE={sys.executable}",
            CUDA_HOME=str(tmp_path / "toolkit"),
            CUDACXX="",
        )
        if value == "AUTO":
            assert code == 0, said
            assert f"{nvcc} was found but does not compile" in said
            assert "FUSED_SSIM_CUDA=ON shows why" in said
        else:
            assert code != 0
            assert str(nvcc) in said

    @builds_here
    def test_nothing_is_auto(self, configure, without_nvcc):
        code, said = configure("-DFUSED_SSIM_CUDA=", *without_nvcc, CUDACXX="")
        assert code == 0, said
        assert "FUSED_SSIM_CUDA=AUTO" in said

    def test_unknown_value(self, configure):
        code, said = configure("-DFUSED_SSIM_CUDA=maybe")
        assert code != 0
        assert 'expected AUTO, ON or OFF, got "maybe"' in said


class TestCudaArchitectures:
    @pytest.fixture
    def resolve(self, tmp_path):
        def run(*options: str, nvcc: str = "12.8", **variables: str) -> tuple[int, str]:
            script = tmp_path / "script.cmake"
            script.write_text(
                f'include("{ROOT}/cmake/CudaArchitectures.cmake")\n'
                f'fused_ssim_cuda_architectures(result {nvcc} "75;80;86;90;100;120;121")\n'
                "fused_ssim_describe_architectures(described ${result})\n"
                'string(REPLACE ";" " " result "${result}")\n'
                'message(STATUS "result=${result}; described=${described};")\n'.replace(
                    "${result})", '"${result}")'
                )
            )
            return run_cmake(*options, "-P", script, **variables)

        return run

    @pytest.mark.parametrize(
        ("nvcc", "real", "virtual"),
        [
            ("12.4", {70, 75, 80, 86, 90}, {90}),
            ("12.6", {70, 75, 80, 86, 90}, {90}),
            ("12.8", {75, 80, 86, 90, 100, 120}, {90, 120}),
            ("12.9", {75, 80, 86, 90, 100, 120}, {90, 120}),
            ("13.0", {75, 80, 86, 90, 100, 110, 120}, {120}),
            ("13.3", {75, 80, 86, 90, 100, 110, 120}, {120}),
        ],
    )
    def test_defaults(self, resolve, nvcc, real, virtual):
        code, said = resolve(nvcc=nvcc)
        assert code == 0, said
        (result,) = re.findall("result=(.*?);", said)
        assert set(result.split()) == {f"{n}-real" for n in real} | {
            f"{n}-virtual" for n in virtual
        }

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("8.6;9.0+PTX", "86-real 90-real 90-virtual"),
            ("8.6 9.0+PTX", "86-real 90-real 90-virtual"),
            ("9.0+PTX, 7.5", "75-real 90-real 90-virtual"),
            ("9.0a", "90a-real"),
            ("10.0f;12.0", "100f-real 120-real"),
            ("Turing Ampere", "75-real 75-virtual 80-real 86-real 86-virtual"),
            ("8.0;8.0+PTX;8.0", "80-real 80-virtual"),
        ],
    )
    def test_torch_syntax(self, resolve, value, expected):
        for code, said in (
            resolve(TORCH_CUDA_ARCH_LIST=value),
            resolve(f"-DTORCH_CUDA_ARCH_LIST={value}"),
            resolve(CF_TORCH_CUDA_ARCH_LIST=value),
        ):
            assert code == 0, said
            assert f"result={expected};" in said

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("80-real;90", "80-real 90-real 90-virtual"),
            ("90a-real;120-virtual", "90a-real 120-virtual"),
            ("all-major", "80-real 90-real 100-real 120-real 121-virtual"),
            ("all-real", "75-real 80-real 86-real 90-real 100-real 120-real 121-real"),
        ],
    )
    def test_cmake_syntax(self, resolve, value, expected):
        for code, said in (
            resolve(f"-DCMAKE_CUDA_ARCHITECTURES={value}"),
            resolve(CUDAARCHS=value),
        ):
            assert code == 0, said
            assert f"result={expected};" in said

    def test_precedence(self, resolve):
        options = ["-DCMAKE_CUDA_ARCHITECTURES=80-real"]
        variables = {
            "TORCH_CUDA_ARCH_LIST": "8.6",
            "CF_TORCH_CUDA_ARCH_LIST": "8.9",
            "CUDAARCHS": "90-real",
        }
        for expected in ("80", "86", "89", "90"):
            code, said = resolve(*options, **variables)
            assert code == 0, said
            assert f"result={expected}-real;" in said
            if options:
                options.clear()
            else:
                variables.pop(next(iter(variables)))

    def test_description(self, resolve):
        _, said = resolve(TORCH_CUDA_ARCH_LIST="7.5;9.0+PTX")
        assert "described=sm_75 sm_90 compute_90;" in said

    @pytest.mark.parametrize("value", ["8.6;sm_90", "90", "9.0+ptx", "Pascal"])
    def test_refuses_what_is_no_torch_list(self, resolve, value):
        code, said = resolve(TORCH_CUDA_ARCH_LIST=value)
        assert code != 0
        assert "is no architecture" in said
        assert "8.6;9.0+PTX" in said

    @pytest.mark.parametrize("value", ["native", "80;native", "9.0", "sm_90"])
    def test_never_asks_the_gpu(self, resolve, value):
        code, said = resolve(f"-DCMAKE_CUDA_ARCHITECTURES={value}")
        assert code != 0
        assert "is not supported here" in said


# ==================================================================================================
# Layers
# ==================================================================================================


class TestLayers:
    @staticmethod
    def check(root: Path) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, ROOT / "tools/check_layers.py", root],
            check=False,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout

    def test_the_tree_is_in_order(self):
        code, said = self.check(ROOT)
        assert code == 0, said

    @pytest.mark.parametrize(
        ("file", "line"),
        [
            ("src/core/a.h", "#include <torch/csrc/stable/tensor.h>"),
            ("src/cuda/a.cu", "#include <ATen/ATen.h>"),
            ("src/python/a.cpp", "#include <torch/extension.h>"),
            ("src/torch/a.cpp", "#include <torch/extension.h>"),
            ("src/torch/a.cpp", "#  include <c10/cuda/CUDAStream.h>"),
            ("src/torch/a.cpp", "#include <torch/torch.h>"),
            ("src/torch/a.cpp", "kernel<<<1, 1>>>();"),
            ("src/cpu/a.h", '#include "cuda/ssim_cuda.h"'),
            ("src/core/a.h", '#include "cpu/levels.h"'),
            ("src/cpu/a.cpp", "#include <cuda_runtime.h>"),
            ("src/cpu/a.cpp", "#include <thread>"),
            ("src/torch/a.cpp", "#include <cuda_runtime_api.h>"),
            ("src/torch/a.cpp", '#include "cuda/ssim_cuda.h"'),
            ("src/torch/a.cpp", '#include "fused_ssim/fused_ssim.h"'),
            ("src/cpu/a.cpp", '#include "fused_ssim/kernels.h"'),
            ("src/other/a.cpp", "int x;"),
        ],
    )
    def test_finds_a_violation(self, tmp_path, file, line):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text(f"// first line\n{line}\n")
        code, said = self.check(tmp_path)
        assert code == 1
        assert file in said

    @pytest.mark.parametrize(
        ("file", "line"),
        [
            ("src/torch/a.cpp", "#include <torch/csrc/stable/tensor.h>"),
            ("src/torch/a.cpp", '#include "fused_ssim/kernels.h"'),
            ("src/c_api/a.cpp", '#include "cuda/ssim_cuda.h"'),
            ("src/cuda/a.cu", "kernel<<<1, 1>>>();"),
            ("src/cpu/a.cpp", "int x;  // unlike kernel<<<1, 1>>>()"),
        ],
    )
    def test_accepts(self, tmp_path, file, line):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text(f"{line}\n")
        code, said = self.check(tmp_path)
        assert code == 0, said


# ==================================================================================================
# The libraries as they are installed
# ==================================================================================================


def check_libraries(folder: Path, *, cuda: bool) -> None:
    """Everything that must hold of the libraries of an installation on Linux."""
    assert list(problems(libraries(folder), cuda=cuda)) == []


def test_libraries_of_this_installation():
    check_libraries(COMPILED, cuda=fused_ssim.build_info().cuda_built)


def test_gpu_code_is_what_build_info_says():
    info = fused_ssim.build_info()
    path = libraries().get("libfused_ssim_cuda_kernels")
    found = device_architectures(path) if path is not None else set()
    assert found == {re.sub("[af]$", "", name) for name in info.cuda_architectures}


# ==================================================================================================
# Loading
# ==================================================================================================


@pytest.fixture
def copy(tmp_path):
    """A copy of this installation that a test may damage; `run(code)` runs with it.

    Interpreters run with -S: without it an editable install would answer to `import fused_ssim`.
    """
    package = tmp_path / "site/fused_ssim"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    for path in libraries().values():
        shutil.copy2(path, package)

    class Copy:
        folder = package

        @staticmethod
        def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
            done = run_python(
                code, flags=("-S",), PYTHONPATH=f"{package.parent}:{DEPENDENCIES}", **variables
            )
            return done

    return Copy


USE = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fused_ssim
import torch
image = torch.rand(1, 3, 16, 16, requires_grad=True)
value = fused_ssim.fused_ssim(image, image.detach() ** 2)
value.backward()
assert 0 < value.item() < 1 and image.grad.abs().sum() > 0
ours = [str(w.message) for w in caught if "fused_ssim" in str(w.message).lower()]
print(len(ours), *ours)
print(fused_ssim.__file__)
"""


def test_an_undamaged_copy_works_silently(copy):
    done = copy.run(USE)
    assert done.stdout.split("\n")[:2] == ["0", str(copy.folder / "__init__.py")]


def test_import_does_not_touch_a_gpu():
    run_python(
        "import fused_ssim, torch; assert not torch.cuda.is_initialized()\n"
        "import fused_ssim.cli; assert not torch.cuda.is_initialized()"
    )


def test_imports_where_no_gpu_is_visible():
    done = run_python(
        "import fused_ssim; print(fused_ssim.build_info().backends)", CUDA_VISIBLE_DEVICES=""
    )
    assert done.stdout == "('cpu',)\n"


def test_works_without_the_cuda_library(copy):
    (copy.folder / CUDA_LIBRARY).unlink(missing_ok=True)
    assert copy.run(USE).stdout.startswith("0\n")
    done = copy.run("import fused_ssim; print(fused_ssim.build_info().cuda_status)")
    assert "without CUDA" in done.stdout


def test_a_cuda_library_that_does_not_load_is_one_warning(copy):
    (copy.folder / CUDA_LIBRARY).write_text("not a library")
    pretend = "import torch; torch.version.cuda = '13.0'\n"
    warned = copy.run(pretend + USE).stdout.split("\n")[0]
    assert warned.startswith(f"1 fused_ssim runs on the CPU only, because {CUDA_LIBRARY}")
    assert "python -m fused_ssim info" in warned
    done = copy.run(
        pretend
        + "import warnings; warnings.simplefilter('ignore'); import fused_ssim\n"
        + "info = fused_ssim.build_info(); print(info.cuda_loaded, info.cuda_status)"
    )
    assert done.stdout.startswith(f"False {CUDA_LIBRARY} does not load")


@pytest.mark.skipif(OLD_TORCH, reason="kernels without torch load beside any torch")
def test_the_cuda_library_is_left_alone_by_a_torch_without_cuda(copy):
    (copy.folder / CUDA_LIBRARY).write_text("not a library")
    done = copy.run(
        "import torch; torch.version.cuda = None\n"
        "import fused_ssim; print(fused_ssim.build_info().cuda_status)"
    )
    assert re.fullmatch(r"torch \S+ has no CUDA\n", done.stdout)


def test_an_old_torch_is_refused_with_the_remedy():
    done = run_python(
        "import torch; torch.__version__ = torch.torch_version.TorchVersion('2.0.1')\n"
        "try:\n    import fused_ssim\nexcept ImportError as error:\n    print(error)"
    )
    assert "torch >= 2.1," in done.stdout
    assert "2.0.1" in done.stdout
    assert "pip install --upgrade torch" in done.stdout


def test_a_missing_library_is_an_import_error_with_the_remedy(copy):
    libraries(copy.folder)["_C"].unlink()
    done = copy.run("try:\n    import fused_ssim\nexcept ImportError as error:\n    print(error)")
    assert "pip install ." in done.stdout
    assert "--force-reinstall" in done.stdout


# ==================================================================================================
# build_info()
# ==================================================================================================


def test_one_version():
    (version,) = {fused_ssim.__version__, fused_ssim.build_info().version, project_version()}
    assert version.partition("+")[0] == VERSION


def test_build_info():
    info = fused_ssim.build_info()
    assert re.fullmatch(r"\w+ [\d.]+", info.compiler)
    if info.operators == "libfused_ssim":
        assert tuple(map(int, info.torch_built.split("."))) >= (2, 10, 0)
    else:
        assert info.torch_built is None
    assert info.torch_minimum == "2.1"
    assert info.torch_running == torch.__version__
    assert info.cpu_levels_compiled[0] == "baseline"
    assert info.cpu_level in info.cpu_levels_supported
    assert set(info.cpu_levels_supported) <= set(info.cpu_levels_compiled)
    assert info.cuda_built == (info.cuda_toolkit is not None) == bool(info.cuda_architectures)
    assert info.backends[0] == "cpu"
    assert ("cuda" in info.backends) == any(gpu.covered for gpu in info.gpus)
    assert info.as_dict()["cpu_level"] == info.cpu_level


@pytest.mark.parametrize("level", fused_ssim.build_info().cpu_levels_supported)
def test_the_cpu_level_can_be_forced(level):
    done = run_python(
        "import fused_ssim; i = fused_ssim.build_info(); print(i.cpu_level, i.cpu_level_error)",
        FUSED_SSIM_CPU_LEVEL=level,
    )
    assert done.stdout == f"{level} None\n"


def test_an_unknown_cpu_level_is_reported():
    done = run_python(
        USE + "print(fused_ssim.build_info().cpu_level_error)", FUSED_SSIM_CPU_LEVEL="mmx"
    )
    first, *_, last = done.stdout.strip().split("\n")
    assert first == f"1 {last}"
    assert "FUSED_SSIM_CPU_LEVEL" in last
    assert "mmx" in last
    assert "baseline" in last


@pytest.mark.parametrize(
    ("architectures", "capability", "expected"),
    [
        ("sm_80", (8, 0), True),
        ("sm_80", (8, 6), True),
        ("sm_86", (8, 0), False),
        ("sm_80", (9, 0), False),
        ("sm_90 compute_90", (12, 0), True),
        ("sm_90 compute_90", (8, 9), False),
        ("compute_120", (11, 0), False),
        ("compute_90", (11, 0), True),
        ("sm_90a", (9, 0), True),
        ("sm_100a", (10, 3), False),
        ("sm_100f", (10, 3), True),
        ("compute_90a", (10, 0), False),
        ("", (9, 0), False),
    ],
)
def test_coverage(architectures, capability, expected):
    assert covers(tuple(architectures.split()), capability) is expected


def test_report_tells_what_to_do_about_a_gpu_that_is_not_covered():
    info = fused_ssim.build_info().as_dict()
    gpu = GpuInfo(0, "Some GPU", (7, 0), False, "the remedy")
    report = str(BuildInfo(**{**info, "gpus": (gpu,)}))
    assert "Some GPU, compute 7.0, not covered: the remedy" in report
    assert fused_ssim.__version__ in report
