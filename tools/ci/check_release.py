#!/usr/bin/env python3
"""Checks that a tag names the version of this tree, and prints the changelog of that version.

    check_release.py TAG [FOLDER]      v0.1.0

FOLDER is the root of the tree. Fails where the tag is not "v" and pyproject.toml's version, or where
CHANGELOG.md has no section of that version, or an empty one.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def main(tag: str, root: Path) -> None:
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    versions = re.findall(r'^version = "([^"]+)"$', text, re.MULTILINE)
    if len(versions) != 1:
        raise SystemExit(
            f"expected one line 'version = \"X.Y.Z\"' in pyproject.toml, got {versions}"
        )
    (version,) = versions
    if tag != f"v{version}":
        raise SystemExit(
            f"expected the tag v{version}, which is the version in pyproject.toml, got {tag}: "
            "delete the tag, or change the version"
        )
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    section = re.search(
        rf"^## {re.escape(version)}\b[^\n]*\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL
    )
    if section is None or not section[1].strip():
        raise SystemExit(
            f"CHANGELOG.md has no entries under '## {version}': rename the section 'Unreleased'"
        )
    print(section[1].strip())


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit("usage: check_release.py TAG [FOLDER]")
    default = Path(__file__).resolve().parent.parent.parent
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) == 3 else default)
