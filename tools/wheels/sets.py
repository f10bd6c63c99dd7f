#!/usr/bin/env python3
"""Reads sets.toml, the table of the wheels that are made.

    sets.py matrix                      the matrix of a GitHub workflow, as JSON
    sets.py environment SET [PLATFORM]  variables for cibuildwheel, as NAME=value lines
    sets.py table                       the table of the documentation, as markdown

PLATFORM is a name from the table, or the machine's own (`uname -m`: x86_64); without it, this machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # what scikit-build-core brings on Python 3.10

TABLE = Path(__file__).with_name("sets.toml")


@dataclass(frozen=True)
class Platform:
    name: str
    runner: str
    cibuildwheel: str
    arch: str
    tag: str


@dataclass(frozen=True)
class WheelSet:
    """sets.toml explains the fields."""

    name: str
    local: str
    toolkit: str
    real: list[int]
    ptx: list[int]
    driver: str
    platforms: list[str]
    pypi: list[str]
    publish: bool
    verified: list[str]
    images: dict[str, str]

    def local_version(self, platform_name: str) -> str:
        return "" if platform_name in self.pypi else self.local

    @property
    def architectures(self) -> set[str]:
        """As build_info() names them: sm_90, compute_90."""
        return {f"sm_{n}" for n in self.real} | {f"compute_{n}" for n in self.ptx}

    @property
    def torch_arch_list(self) -> str:
        """In torch's syntax: "8.6 9.0+PTX"."""
        return " ".join(
            f"{number // 10}.{number % 10}" + ("+PTX" if number in self.ptx else "")
            for number in self.real
        )


@dataclass(frozen=True)
class Table:
    torch: str
    pythons: list[str]
    platforms: dict[str, Platform]
    sets: dict[str, WheelSet]


def read(path: Path = TABLE) -> Table:
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    return Table(
        torch=raw["torch"],
        pythons=raw["pythons"],
        platforms={n: Platform(name=n, **fields) for n, fields in raw["platforms"].items()},
        sets={n: WheelSet(name=n, **fields) for n, fields in raw["sets"].items()},
    )


def find_platform(table: Table, name: str | None) -> Platform:
    if name is None:
        system = {"linux": "linux", "darwin": "macos", "win32": "windows"}[sys.platform]
        name = f"{system}-{platform.machine().lower()}"
    for candidate in (name, f"linux-{name}"):
        if candidate in table.platforms:
            return table.platforms[candidate]
    raise SystemExit(f"expected a platform ({', '.join(table.platforms)}), got {name!r}")


def find_set(table: Table, name: str) -> WheelSet:
    if name not in table.sets:
        raise SystemExit(f"expected a set ({', '.join(table.sets)}), got {name!r}")
    return table.sets[name]


def matrix(table: Table) -> dict[str, list[dict[str, str]]]:
    """One job for each set and platform that is published."""
    return {
        "include": [
            {
                "set": wheels.name,
                "platform": name,
                "runner": table.platforms[name].runner,
                "pypi": "true" if name in wheels.pypi else "false",
            }
            for wheels in table.sets.values()
            if wheels.publish
            for name in wheels.platforms
        ]
    }


def environment(table: Table, wheels: WheelSet, target: Platform) -> dict[str, str]:
    """What cibuildwheel is told of a set; all else stands in pyproject.toml."""
    if target.name not in wheels.platforms:
        raise SystemExit(f"set {wheels.name} is for {wheels.platforms}, not for {target.name}")
    libtorch = (
        "C:/fused-ssim-libtorch" if target.cibuildwheel == "windows" else "/tmp/fused-ssim-libtorch"
    )
    build = {
        "FUSED_SSIM_CUDA": "ON" if wheels.toolkit else "OFF",
        "FUSED_SSIM_LOCAL_VERSION": wheels.local_version(target.name),
        "FUSED_SSIM_LIBTORCH": libtorch,  # where before_all.sh puts it
        "FUSED_SSIM_LIBTORCH_VERSION": table.torch,
        "TorchStable_ROOT": f"{libtorch}/torch",
        "TORCH_CUDA_ARCH_LIST": wheels.torch_arch_list,
    }
    if wheels.toolkit.startswith("11."):  # before_all.sh makes these
        build["CUDAHOSTCXX"] = "/usr/local/bin/fused-ssim-cuda-host-g++"
        build["CXX"] = "/usr/local/bin/fused-ssim-g++"
    if target.cibuildwheel == "linux":
        build["CMAKE_CXX_COMPILER_LAUNCHER"] = "ccache"
        build["CMAKE_CUDA_COMPILER_LAUNCHER"] = "ccache"
    variables = {
        "CIBW_PLATFORM": target.cibuildwheel,
        "CIBW_ARCHS": target.arch,
        "CIBW_BUILD": " ".join(f"cp{version.replace('.', '')}-*" for version in table.pythons),
        "CIBW_ENVIRONMENT": " ".join(f'{name}="{value}"' for name, value in build.items() if value),
    }
    image = wheels.images.get(target.name)
    if image is not None:
        variables[f"CIBW_MANYLINUX_{target.arch.upper()}_IMAGE"] = image
    return variables


def dotted(architectures: list[int]) -> str:
    return " ".join(f"{number // 10}.{number % 10}" for number in architectures)


def markdown(table: Table) -> str:
    rows = [
        "| set | CUDA toolkit | driver | GPUs: code for compute capability | PTX for | platforms | where |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for wheels in table.sets.values():
        if not wheels.publish:
            continue
        platforms = ", ".join(
            name + ("" if name in wheels.verified else " (not yet verified)")
            for name in wheels.platforms
        )
        where = []
        if wheels.pypi:
            where.append(
                "PyPI" + ("" if wheels.pypi == wheels.platforms else f" ({', '.join(wheels.pypi)})")
            )
        if wheels.local:
            where.append(f"index, as `+{wheels.local}`")
        rows.append(
            f"| {wheels.name} | {wheels.toolkit or 'none'} "
            f"| {wheels.driver + ' or newer' if wheels.driver else 'none'} "
            f"| {dotted(wheels.real) or 'none'} | {dotted(wheels.ptx) or 'none'} "
            f"| {platforms} | {'; '.join(where)} |"
        )
    return "\n".join(rows)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("matrix")
    commands.add_parser("table")
    variables = commands.add_parser("environment")
    variables.add_argument("set")
    variables.add_argument("platform", nargs="?")
    chosen = parser.parse_args(arguments)
    table = read()
    if chosen.command == "matrix":
        print(json.dumps(matrix(table)))
    elif chosen.command == "table":
        print(markdown(table))
    else:
        wheels = find_set(table, chosen.set)
        target = find_platform(table, chosen.platform)
        for name, value in environment(table, wheels, target).items():
            print(f"{name}={value}")


if __name__ == "__main__":
    main(sys.argv[1:])
