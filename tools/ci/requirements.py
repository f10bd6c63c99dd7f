#!/usr/bin/env python3
"""Prints what extras of pyproject.toml ask for, one requirement a line, without the package itself.

pip install --requirement <(tools/ci/requirements.py lint)
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # what scikit-build-core brings on Python 3.10

ROOT = Path(__file__).resolve().parent.parent.parent


def requirements(extras: dict[str, list[str]], name: str) -> Iterator[str]:
    if name not in extras:
        raise SystemExit(f"expected an extra ({', '.join(extras)}), got {name!r}")
    for requirement in extras[name]:
        other = re.fullmatch(r"fused-ssim\[([\w,]+)\]", requirement)
        if other is None:
            yield requirement
        else:  # an extra that names other extras
            for part in other[1].split(","):
                yield from requirements(extras, part)


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = [
        line
        for name in sys.argv[1:]
        for line in requirements(project["optional-dependencies"], name)
    ]
    print("\n".join(dict.fromkeys(found)))
