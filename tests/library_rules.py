"""What must hold of the compiled libraries on Linux, wherever they are: in an installation, in a wheel."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from elf import dynamic_section, dynamic_symbols

ROOT = Path(__file__).resolve().parent.parent
SYSTEM = re.compile(
    # libdl, libpthread and librt are parts of libc since glibc 2.34.
    r"(libc|libm|libdl|libpthread|librt|libgcc_s|libstdc\+\+|ld-linux-[a-z0-9-]+)\.so\.\d+"
)
TORCH = "libtorch.so"
"""All that is needed of torch: it brings libtorch_cpu, and libtorch_cuda where there is one."""
NEEDED: dict[str, set[str]] = {
    "libfused_ssim_kernels": set(),
    "libfused_ssim_cuda_kernels": set(),  # no libcudart: it is inside
    "libfused_ssim": {"libfused_ssim_kernels.so", TORCH},
    "libfused_ssim_cuda": {
        "libfused_ssim.so",
        "libfused_ssim_kernels.so",
        "libfused_ssim_cuda_kernels.so",
        TORCH,
    },
    "_C": {"libfused_ssim_kernels.so"},
}
CPU_LIBRARIES = {"libfused_ssim_kernels", "libfused_ssim", "_C"}
CUDA_LIBRARIES = {"libfused_ssim_cuda_kernels", "libfused_ssim_cuda"}


def declared_functions() -> dict[str, set[str]]:
    """What each library exports: the functions that the public headers declare, and no others."""
    header = (ROOT / "include/fused_ssim/kernels.h").read_text()
    kernels = set(re.findall(r"^FUSED_SSIM_API [^(]*?(fused_ssim_\w+)\(", header, re.MULTILINE))
    cuda = {name for name in kernels if name.startswith("fused_ssim_cuda_")}
    assert len(cuda) >= 5
    assert len(kernels - cuda) >= 10
    return {
        "libfused_ssim_kernels": kernels - cuda,
        "libfused_ssim_cuda_kernels": cuda,
        "libfused_ssim": {"fused_ssim_build_facts"},
        "libfused_ssim_cuda": set(),
        "_C": {"PyInit__C"},
    }


def problems(found: Mapping[str, Path], *, cuda: bool) -> Iterator[str]:
    """What does not hold of a folder of libraries, by their plain names: "libfused_ssim", "_C"."""
    expected = CPU_LIBRARIES | (CUDA_LIBRARIES if cuda else set())
    if set(found) != expected:
        yield f"expected the libraries {sorted(expected)}, got {sorted(found)}"
    for name in sorted(set(found) & set(NEEDED)):
        for problem in library_problems(name, found[name]):
            yield f"{name}: {problem}"


def library_problems(name: str, path: Path) -> Iterator[str]:
    section = dynamic_section(path)
    needed = {library for library in section["NEEDED"] if not SYSTEM.fullmatch(library)}
    if needed != NEEDED[name]:
        yield f"expected to need {sorted(NEEDED[name])} beside the system, needs {sorted(needed)}"
    runpath = [] if name.endswith("_kernels") else ["$ORIGIN:$ORIGIN/../torch/lib"]
    if section["RUNPATH"] != runpath or section["RPATH"]:
        yield f"expected RUNPATH {runpath}, no RPATH; got {section['RUNPATH']}, {section['RPATH']}"

    # Nothing but the stable ABI, whose functions are C; nothing of torch in the kernels. Symbols of
    # the system carry a version.
    exported = declared_functions()
    missing = {
        symbol
        for symbol, letter in dynamic_symbols(path, "undefined").items()
        if letter == "U" and "@" not in symbol
    }
    if name.endswith("_kernels"):
        strangers = missing
    else:
        ours = set().union(*exported.values())
        allowed = "_?Py.*" if name == "_C" else "(aoti_torch|torch)_.*"
        strangers = {symbol for symbol in missing - ours if not re.fullmatch(allowed, symbol)}
    if strangers:
        yield f"needs symbols outside the stable ABI: {sorted(strangers)[:8]}"

    # Nothing that another library in the process might pick up. pybind11 exports its own from _C.
    defined = set(dynamic_symbols(path, "defined"))
    if name == "_C":
        defined &= exported[name]
    if defined != exported[name]:
        yield (
            f"expected to export what the headers declare; beside it {sorted(defined - exported[name])[:8]}, "
            f"without {sorted(exported[name] - defined)[:8]}"
        )
