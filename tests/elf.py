"""What the tests of the build read out of shared libraries and device code."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path


def dynamic_section(library: Path) -> dict[str, list[str]]:
    """The entries NEEDED, RUNPATH, RPATH and SONAME of a library."""
    text = subprocess.run(
        ["readelf", "--dynamic", "--wide", str(library)], check=True, capture_output=True, text=True
    ).stdout
    entries: dict[str, list[str]] = {"NEEDED": [], "RUNPATH": [], "RPATH": [], "SONAME": []}
    for tag, value in re.findall(r"\((NEEDED|RUNPATH|RPATH|SONAME)\)[^\[]*\[([^\]]*)\]", text):
        entries[tag].append(value)
    return entries


def dynamic_symbols(library: Path, which: str) -> dict[str, str]:
    """Symbol -> nm's letter. `which` is "defined" or "undefined"."""
    text = subprocess.run(
        ["nm", "--dynamic", "--format=posix", f"--{which}-only", str(library)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    rows = (line.split() for line in text.splitlines())
    return {row[0]: row[1] for row in rows}


def device_code(library: Path) -> dict[str, int]:
    """The GPU code in a library, in bytes as it is stored: {"sm_90": 81920, "compute_90": 20480}.

    Reads the headers of the fat binaries that nvcc embeds, as `cuobjdump --list-elf --list-ptx`
    does: a header of magic number, version, its own size and the size of what follows; then entries,
    each of kind (1: PTX, 2: binary), version, its own size, payload size, ..., architecture.
    """
    data = library.read_bytes()
    magic = struct.pack("<IH", 0xBA55ED50, 1)
    found: dict[str, int] = {}
    start = data.find(magic)
    while start >= 0:
        header_size, size = struct.unpack_from("<HQ", data, start + 6)
        position, end = start + header_size, start + header_size + size
        while position < end:
            kind, _, entry_header, payload = struct.unpack_from("<HHIQ", data, position)
            (architecture,) = struct.unpack_from("<I", data, position + 28)
            name = {1: "compute", 2: "sm"}[kind] + f"_{architecture}"
            found[name] = found.get(name, 0) + payload
            position += entry_header + payload
        start = data.find(magic, end)
    return found


def device_architectures(library: Path) -> set[str]:
    """The GPU code in a library: {"sm_90", "compute_90"}."""
    return set(device_code(library))
