"""The verdict of `fused-ssim info`: one line, right for every kind of machine.

Machines are made up; a library in place of the driver's stands for a GPU where there is none.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import fused_ssim
from fused_ssim import _build_info
from fused_ssim._build_info import assemble
from fused_ssim._cuda_driver import CudaDriver, DriverGpu, cuda_driver
from fused_ssim._verdict import MINIMUM_DRIVER, RELEASED_SETS, Gpu, Situation, verdict
from installation import ROOT, run_python

H200 = ("NVIDIA H200", (9, 0))
V100 = ("Tesla V100", (7, 0))
INDEX = "https://example.org/wheels"
FROM_SOURCE = (
    'FUSED_SSIM_CUDA=ON TORCH_CUDA_ARCH_LIST="{}" pip install --force-reinstall --no-deps .`'
)

GOOD = Situation(
    toolkit="12.8.93",
    architectures=("sm_75", "sm_90", "compute_90"),
    loaded=True,
    status="loaded",
    cpu_level="avx2",
    torch="2.14.1+cu130",
    torch_cuda="13.0",
    torch_gpus=(Gpu(0, *H200),),
    driver=CudaDriver((13, 0), (DriverGpu(*H200),)),
    index=None,
)
WITHOUT_CUDA = {
    "toolkit": None,
    "architectures": (),
    "loaded": False,
    "status": "this installation of fused_ssim was built without CUDA",
}
TORCH_WITHOUT_CUDA = {
    "torch": "2.14.1+cpu",
    "torch_cuda": None,
    "torch_gpus": (),
    "loaded": False,
    "status": "torch 2.14.1+cpu has no CUDA",
}
NO_GPU = {"torch_gpus": (), "driver": None}


def machine(**changes: object) -> str:
    text = verdict(replace(GOOD, **changes))
    assert "\n" not in text
    return text


def test_it_serves():
    assert machine() == (
        "this build serves this machine: CUDA 12.8.93 kernels on GPU 0 (NVIDIA H200, compute 9.0), "
        "torch 2.14.1+cu130"
    )


@pytest.mark.parametrize("build", [{}, WITHOUT_CUDA, TORCH_WITHOUT_CUDA])
def test_no_gpu(build):
    text = machine(**{**build, **NO_GPU})
    assert text == (
        "this build serves this machine: avx2 code on the CPU; no NVIDIA GPU "
        "(there is no NVIDIA driver)"
    )


def test_a_driver_that_shows_no_gpu():
    text = machine(torch_gpus=(), driver=CudaDriver((13, 0), ()))
    assert text.startswith("this build serves this machine: avx2 code on the CPU")
    assert text.endswith("(the driver shows none)")


class TestTorchWithoutCuda:
    @pytest.mark.parametrize(
        ("driver", "gpu", "page"),
        [
            ((13, 1), H200, "cu130"),
            ((11, 4), V100, "cu118"),
            ((12, 4), H200, "cu126"),
            ((13, 1), V100, "cu126"),
        ],
    )
    def test_names_a_torch_for_this_driver_and_gpu(self, driver, gpu, page):
        text = machine(
            **TORCH_WITHOUT_CUDA,
            toolkit="11.8.89",
            architectures=("sm_70", "compute_90"),
            driver=CudaDriver(driver, (DriverGpu(*gpu),)),
        )
        assert text == (
            "CPU only, because torch 2.14.1+cpu has no CUDA: run `pip install --force-reinstall "
            f"torch --index-url https://download.pytorch.org/whl/{page}`"
        )

    def test_and_the_build_has_none_either(self):
        text = machine(**{**TORCH_WITHOUT_CUDA, **WITHOUT_CUDA})
        assert text.startswith(
            "CPU only, because torch 2.14.1+cpu has no CUDA, and this build has no CUDA kernels: "
            "run `pip install --force-reinstall torch --index-url"
        )
        assert "`; then where nvcc of CUDA 13 or older is installed, run `" in text


class TestBuildWithoutCuda:
    def test_before_the_first_release(self):
        text = machine(**WITHOUT_CUDA)
        assert text.startswith("CPU only, because this build has no CUDA kernels: where nvcc of")
        assert FROM_SOURCE.format("9.0") in text
        assert text.endswith("in fused_ssim's source folder")

    def test_with_released_wheels(self):
        text = machine(**WITHOUT_CUDA, index=INDEX)
        assert text.endswith("run `pip install --force-reinstall --no-deps fused-ssim`")

    def test_released_wheels_for_an_older_gpu(self):
        text = machine(**WITHOUT_CUDA, index=INDEX + "/", torch_gpus=(Gpu(0, *V100),))
        assert text.endswith(
            "run `pip install --force-reinstall --no-deps fused-ssim --index-url "
            "https://example.org/wheels/cu126/`"
        )

    def test_no_released_wheel_for_a_still_older_gpu(self):
        text = machine(**WITHOUT_CUDA, index=INDEX, torch_gpus=(Gpu(0, "GTX 1080", (6, 1)),))
        assert FROM_SOURCE.format("6.1") in text


class TestArchitectures:
    def test_not_covered(self):
        text = machine(torch_gpus=(Gpu(0, *V100),))
        assert text.startswith(
            "CPU only, because its kernels are compiled for sm_75 sm_90 compute_90, not for compute "
            "capability 7.0: "
        )
        assert FROM_SOURCE.format("7.0") in text

    def test_one_of_two_gpus(self):
        text = machine(torch_gpus=(Gpu(0, *H200), Gpu(1, *V100)))
        assert text.startswith(
            "this build serves GPU 0 (NVIDIA H200, compute 9.0), but not GPU 1 (Tesla V100, "
            "compute 7.0), because its kernels are compiled for "
        )
        assert FROM_SOURCE.format("7.0") in text

    def test_the_same_reason_is_named_once(self):
        text = machine(**WITHOUT_CUDA, torch_gpus=(Gpu(0, *H200), Gpu(1, *H200)))
        assert text.count("no CUDA kernels") == text.count("pip install") == 1


class TestDriver:
    def test_too_old_for_the_kernels(self):
        text = machine(
            toolkit="13.0.88",
            torch="2.11.0+cu126",
            torch_cuda="12.6",
            driver=CudaDriver((12, 4), (DriverGpu(*H200),)),
        )
        assert text.startswith(
            "CPU only, because its kernels were built with CUDA 13.0.88, and the driver serves CUDA "
            "12.4: update the driver to 580 or newer, or where nvcc of CUDA 12 or older"
        )

    def test_too_old_for_the_kernels_with_released_wheels(self):
        text = machine(
            toolkit="13.0.88",
            torch_cuda="12.6",
            driver=CudaDriver((12, 4), (DriverGpu(*H200),)),
            index=INDEX,
        )
        assert text.endswith("or run `pip install --force-reinstall --no-deps fused-ssim`")

    def test_too_old_for_torch(self):
        text = machine(torch_gpus=(), driver=CudaDriver((12, 4), (DriverGpu(*H200),)))
        assert text == (
            "CPU only, because torch 2.14.1+cu130 was built with CUDA 13.0, and the driver serves "
            "CUDA 12.4: update the driver to 580 or newer, or run `pip install --force-reinstall "
            "torch --index-url https://download.pytorch.org/whl/cu126`"
        )

    def test_of_cuda_11(self):
        text = machine(
            torch="2.11.0+cu126",
            torch_cuda="12.6",
            torch_gpus=(),
            driver=CudaDriver((11, 4), (DriverGpu(*V100),)),
            architectures=("sm_70",),
            index=INDEX,
        )
        assert text == (
            "CPU only, because torch 2.11.0+cu126 was built with CUDA 12.6, and the driver serves CUDA "
            "11.4, and its kernels were built with CUDA 12.8.93, and the driver serves CUDA 11.4: update "
            "the driver to 525 or newer, or run `pip install --force-reinstall torch --index-url "
            "https://download.pytorch.org/whl/cu118`; then update the driver to 525 or newer, or run `pip "
            "install --force-reinstall --no-deps fused-ssim --index-url https://example.org/wheels/cu118/`"
        )

    def test_too_old_for_everything(self):
        text = machine(
            torch="2.11.0+cu126",
            torch_cuda="12.6",
            torch_gpus=(),
            driver=CudaDriver((10, 2), (DriverGpu(*H200),)),
        )
        assert text.count("update the driver to 525 or newer") == 1
        assert "pip install" not in text

    def test_torch_sees_no_gpu_for_another_reason(self):
        text = machine(torch_gpus=())
        assert text == (
            "CPU only, because torch 2.14.1+cu130 sees no GPU: "
            '`python -c "import torch; torch.cuda.init()"` says why'
        )


def test_a_cuda_library_that_does_not_load():
    reason = "libfused_ssim_cuda.so does not load: no such symbol"
    text = machine(loaded=False, status=reason, index=INDEX)
    assert text == (
        f"CPU only, because {reason}: run `pip install --force-reinstall --no-deps fused-ssim`"
    )


def test_what_released_wheels_serve_is_what_the_table_says(monkeypatch):
    path = ROOT / "tools/wheels/sets.py"
    spec = importlib.util.spec_from_file_location("wheel_sets", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where its dataclasses look
    spec.loader.exec_module(module)
    published = [wheels for wheels in module.read().sets.values() if wheels.publish]
    for released in RELEASED_SETS:
        (wheels,) = (
            wheels
            for wheels in published
            if wheels.toolkit and wheels.local_version("linux-x86_64") == released.local
        )
        assert divmod(min(wheels.real), 10) == released.oldest_capability
        assert int(wheels.toolkit.split(".")[0]) == released.toolkit_major
    for wheels in published:
        if wheels.toolkit:
            assert MINIMUM_DRIVER[int(wheels.toolkit.split(".")[0])] == wheels.driver


# ==================================================================================================
# The report
# ==================================================================================================


def test_the_report_ends_with_it():
    info = assemble(GOOD)
    assert str(info).splitlines()[-1] == f"verdict        {verdict(GOOD)}"
    assert info.as_dict()["verdict"] == verdict(GOOD)
    assert info.backends == ("cpu", "cuda")
    assert info.gpus[0].covered


def test_the_report_says_what_works_in_this_torch():
    info = assemble(GOOD)
    page = (ROOT / "docs/pytorch.md").read_text()
    assert all(feature in page for feature in info.in_pytorch)
    assert ("DTensor" in info.in_pytorch) == (torch.__version__ >= "2.5")
    assert ", ".join(info.in_pytorch) in str(info)


def test_the_report_on_gpus():
    info = assemble(replace(GOOD, torch_gpus=(Gpu(0, *H200), Gpu(1, *V100))))
    assert [gpu.covered for gpu in info.gpus] == [True, False]
    assert "GPU 1          Tesla V100, compute 7.0, not covered: its kernels are" in str(info)
    assert assemble(replace(GOOD, **TORCH_WITHOUT_CUDA)).backends == ("cpu",)
    broken = assemble(replace(GOOD, loaded=False, status="libfused_ssim_cuda.so does not load"))
    assert broken.backends == ("cpu",)
    assert not broken.gpus[0].covered


def test_the_index_comes_from_the_project_metadata(monkeypatch):
    class Metadata:
        def get_all(self, name):
            assert name == "Project-URL"
            return ["Repository, https://example.org/fused-ssim", f"Index, {INDEX}"]

    monkeypatch.setattr(_build_info.importlib.metadata, "metadata", lambda name: Metadata())
    assert _build_info._wheel_index() == INDEX


# ==================================================================================================
# The driver
# ==================================================================================================

FAKE_DRIVER = r"""
#include <stdio.h>
int cuDriverGetVersion(int* version) { *version = VERSION; return 0; }
int cuInit(unsigned flags) { return flags != 0 || GPUS == 0 ? 100 : 0; }
int cuDeviceGetCount(int* count) { *count = GPUS; return 0; }
int cuDeviceGet(int* device, int ordinal) { *device = 40 + ordinal; return 0; }
int cuDeviceGetName(char* name, int size, int device) {
  snprintf(name, size, "Fake GPU %d", device - 40);
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  if (attribute == 75) *value = 8;
  if (attribute == 76) *value = device == 40 ? 6 : 9;
  return attribute == 75 || attribute == 76 ? 0 : 1;
}
"""


@pytest.fixture
def fake_driver(tmp_path):
    """Makes a libcuda.so.1; returns the variables with which a process finds it."""

    def make(version: int, gpus: int) -> dict[str, str]:
        source = tmp_path / "driver.c"
        source.write_text(FAKE_DRIVER)
        compiler = shutil.which("cc") or shutil.which("gcc")
        facts = [f"-DVERSION={version}", f"-DGPUS={gpus}"]
        library = tmp_path / "libcuda.so.1"
        subprocess.run([compiler, "-shared", "-fPIC", *facts, source, "-o", library], check=True)
        return {"LD_LIBRARY_PATH": str(tmp_path)}

    return make


ASK = "from fused_ssim._cuda_driver import cuda_driver; print(cuda_driver())"


def test_the_driver_is_asked(fake_driver):
    done = run_python(ASK, **fake_driver(12040, 2))
    assert done.stdout.strip() == str(
        CudaDriver((12, 4), (DriverGpu("Fake GPU 0", (8, 6)), DriverGpu("Fake GPU 1", (8, 9))))
    )


def test_a_driver_without_gpus(fake_driver):
    assert run_python(ASK, **fake_driver(13000, 0)).stdout.strip() == str(CudaDriver((13, 0), ()))


def test_no_driver(monkeypatch):
    def refuse(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", refuse)
    assert cuda_driver() is None


def test_info_where_torch_has_no_cuda_but_the_machine_has_a_gpu(fake_driver):
    done = run_python(
        "import torch; torch.version.cuda = None\n"
        "import fused_ssim.cli, sys; sys.exit(fused_ssim.cli.main(['info', '--json']))",
        **fake_driver(12040, 1),
    )
    said = json.loads(done.stdout)["verdict"]
    assert said.startswith("CPU only, because torch ")
    assert "https://download.pytorch.org/whl/cu126" in said


def test_this_machine():
    info = fused_ssim.build_info()
    serves = re.match("this build serves this machine: (CUDA|.* on the CPU)", info.verdict)
    assert serves or "pip install" in info.verdict or "torch.cuda.init" in info.verdict
    assert ("cuda" in info.backends) == ("kernels on GPU" in info.verdict)
