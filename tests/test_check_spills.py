"""tools/check_spills.py reads what ptxas reports, and sees a kernel that spills or is missing."""

from __future__ import annotations

import sys

import pytest

from installation import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import check_spills

MARCH = (
    "_ZN10fused_ssim4cuda12march_kernelINS0_11MarchTraitsILNS0_11MarchLayoutE0ELNS0_9StripKindE{kind}E"
    "LNS0_11StripLoaderE{loader}EEEEEvNS0_11StripParamsE"
)
TILE = (
    "_ZN10fused_ssim4cuda47_GLOBAL__N__236ba828_14_tile_kernel_cu_d6653d3d11tile_kernelINS1_"
    "10TileTraitsILNS0_9StripKindE{kind}ELNS0_11StripLoaderE{loader}ELi8EEEEEvNS0_11StripParamsE"
)
SYMBOLS = {"march_kernel": MARCH, "tile_kernel": TILE}


def entry(symbol: str, architecture: str, spills: int) -> str:
    return (
        f"ptxas info    : Compiling entry function '{symbol}' for '{architecture}'\n"
        f"ptxas info    : Function properties for {symbol}\n"
        f"    8 bytes stack frame, {spills} bytes spill stores, {spills // 2} bytes spill loads\n"
        "ptxas info    : Used 128 registers, used 1 barriers, 1216 bytes smem\n"
    )


def report(spills: dict[tuple[str, str], int]) -> str:
    """A log with every main kernel, which spills what is given, or nothing."""
    text = "[1/2] Building CUDA object march_kernel.cu.o\n"
    for name, architecture in check_spills.main_kernels():
        kernel, kind, loader = name.split()
        symbol = SYMBOLS[kernel].format(
            kind=check_spills.KINDS.index(kind),
            loader=check_spills.LOADERS.index(loader),
        )
        text += entry(symbol, architecture, spills.get((name, architecture), 0))
    return text


def run(tmp_path, text: str) -> int:
    (tmp_path / "build.log").write_text(text)
    return check_spills.main([str(tmp_path / "build.log")])


def test_accepts_kernels_without_spills_or_within_their_limits(tmp_path, capsys):
    assert run(tmp_path, report({})) == 0
    assert run(tmp_path, report(check_spills.LIMITS)) == 0
    said = capsys.readouterr().out
    assert "march_kernel kOneGradient kFloatQuads         sm_80    128 registers" in said
    assert f"{'march_kernel kValue kFloatQuads':<45} sm_90    128 registers" in said


@pytest.mark.parametrize(("name", "architecture"), list(check_spills.main_kernels()))
def test_sees_a_spill(tmp_path, capsys, name, architecture):
    limit = check_spills.LIMITS.get((name, architecture), 0)
    assert run(tmp_path, report({(name, architecture): limit + 4})) == 1
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == f"{name} for {architecture} spills {limit + 4} bytes, expected at most {limit}"


def test_the_worst_variant_counts(tmp_path):
    symbol = MARCH.format(kind=2, loader=0)
    assert run(tmp_path, report({}) + entry(symbol, "sm_86", 4)) == 1


def test_sees_a_kernel_that_is_missing(tmp_path, capsys):
    assert run(tmp_path, report({}).replace("sm_86", "sm_89")) == 1
    assert "tile_kernel kValue kFloatQuads for sm_86 is not in the log" in capsys.readouterr().out
