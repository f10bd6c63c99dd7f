#!/usr/bin/env python3
"""Checks that wheels are what their set promises: tag, libraries, symbols, GPU code, size.

    check.py SET WHEEL...

Prints a report of each wheel and exits with 1 if anything does not hold. `auditwheel show` must agree
with the platform tag, which must be the one of sets.toml; FUSED_SSIM_PLATFORM_TAG is another regular
expression for it, for wheels that were built elsewhere than in the image of the table.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent / "tests")]
import sets

import elf
import library_rules

MEGABYTE = 1 << 20
LARGEST = 14 * MEGABYTE
LARGEST_BEFORE_CUDA_13 = 18 * MEGABYTE  # which compresses code less (decision 0008)


def glibc_versions(paths: list[Path]) -> dict[str, str]:
    """The newest version of each family of system symbols: {"GLIBC": "2.17", ...}."""
    newest: dict[str, tuple[int, ...]] = {}
    for path in paths:
        for symbol in elf.dynamic_symbols(path, "undefined"):
            match = re.search(r"@(GLIBC|GLIBCXX|CXXABI|GCC)_(\d+(?:\.\d+)*)$", symbol)
            if match:
                version = tuple(map(int, match[2].split(".")))
                newest[match[1]] = max(newest.get(match[1], ()), version)
    return {family: ".".join(map(str, version)) for family, version in sorted(newest.items())}


def audit(path: Path) -> tuple[str, set[str]]:
    """What auditwheel says: the tag that the symbols allow, and the libraries that are not inside.

    Its own overall tag is linux_x86_64 for as long as there are such libraries, which is right for all
    but the one that the user brings.
    """
    done = subprocess.run(
        [sys.executable, "-m", "auditwheel", "show", "--json", str(path)],
        check=True,
        capture_output=True,
        text=True,
    )
    said = json.loads(done.stdout)
    return str(said["sym_tag"]), set(said["external_libs"])


def check_name(wheels: sets.WheelSet, table: sets.Table, path: Path) -> Iterator[str]:
    match = re.fullmatch(r"fused_ssim-([^-]+)-cp(\d+)-cp\2-(.+)\.whl", path.name)
    if match is None:
        yield f"expected fused_ssim-VERSION-cpXY-cpXY-PLATFORM.whl, got {path.name}"
        return
    version, _, tags = match.groups()
    platforms = [table.platforms[name] for name in wheels.platforms]
    found = [p for p in platforms if tags.endswith(f"_{p.arch.lower()}")]
    if not found:
        yield f"expected a platform of {wheels.platforms}, got {tags}"
        return
    local = wheels.local_version(found[0].name)
    if version.partition("+")[2] != local:
        yield f"expected the local version {local or '(none)'}, got {version}"
    expected = os.environ.get("FUSED_SSIM_PLATFORM_TAG") or found[0].tag
    if not re.fullmatch(expected, tags):
        yield f"expected a platform tag like {expected}, got {tags}"
    if found[0].cibuildwheel == "linux":
        proven, outside = audit(path)
        if proven not in tags.split("."):
            yield f"the tag says {tags}, auditwheel {proven}"
        if outside != {library_rules.TORCH}:
            yield f"expected {library_rules.TORCH} alone to be left outside, auditwheel says {sorted(outside)}"


def check(wheels: sets.WheelSet, table: sets.Table, path: Path) -> Iterator[str]:
    yield from check_name(wheels, table, path)
    is_old = wheels.toolkit.startswith(("11.", "12."))
    largest = LARGEST_BEFORE_CUDA_13 if is_old else LARGEST
    if path.stat().st_size > largest:
        size = path.stat().st_size / MEGABYTE
        yield f"expected at most {largest / MEGABYTE:.0f} MB, got {size:.1f}"
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
        metadata = next(Path(folder).glob("*.dist-info/METADATA")).read_text(encoding="utf-8")
        if "\nRequires-Dist: torch>=2.1\n" not in metadata:
            yield "expected Requires-Dist: torch>=2.1, any torch and any CUDA of torch"
        sizes = {i.filename: (i.compress_size, i.file_size) for i in archive.infolist()}
        yield from check_contents(wheels, Path(folder), sizes)


def check_contents(
    wheels: sets.WheelSet, folder: Path, sizes: dict[str, tuple[int, int]]
) -> Iterator[str]:
    found = {p.name.split(".")[0]: p for p in sorted(folder.rglob("*.so*"))}
    for library in found.values():
        packed, size = sizes[library.relative_to(folder).as_posix()]
        print(f"    {library.name}: {size / 1024:.0f} KiB, {packed / 1024:.0f} KiB in the wheel")
    yield from library_rules.problems(found, cuda=bool(wheels.toolkit))
    print(f"    symbols of the system: {glibc_versions(list(found.values()))}")

    code = {name: elf.device_code(path) for name, path in found.items()}
    architectures = {entry for sizes_of in code.values() for entry in sizes_of}
    if architectures != wheels.architectures:
        yield f"expected GPU code for {sorted(wheels.architectures)}, got {sorted(architectures)}"
    for name, sizes_of in code.items():
        if sizes_of:
            listed = ", ".join(f"{a} {n / 1024:.0f}" for a, n in sorted(sizes_of.items()))
            print(f"    GPU code in {name}, KiB: {listed}")


def main(arguments: list[str]) -> int:
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    table = sets.read()
    wheels = sets.find_set(table, arguments[0])
    failed = False
    for path in map(Path, arguments[1:]):
        print(f"{path.name}: {path.stat().st_size / MEGABYTE:.2f} MB", flush=True)
        for problem in check(wheels, table, path):
            failed = True
            print(f"    FAILED: {problem}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
