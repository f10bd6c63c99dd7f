#!/usr/bin/env python3
"""Checks the documentation against the tree: links, the tests that it names, the table of wheel sets.

check_docs.py [--write]      --write puts the table in place first
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TABLE = re.compile(r"(<!-- tools/wheels/sets\.py table -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(path: Path) -> Iterator[str]:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):
            continue  # elsewhere
        name, _, anchor = target.partition("#")
        file = path if not name else (path.parent / name).resolve()
        if not file.exists():
            yield f"{path.relative_to(ROOT)}: no file {target}"
        elif anchor and anchor not in anchors(file.read_text(encoding="utf-8")):
            yield f"{path.relative_to(ROOT)}: no heading for {target}"


def table(path: Path, *, write: bool) -> Iterator[str]:
    command = [sys.executable, str(ROOT / "tools/wheels/sets.py"), "table"]
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    text = path.read_text(encoding="utf-8")
    new, count = TABLE.subn(lambda match: match[1] + made + match[3], text)
    if count != 1:
        yield f"{path.relative_to(ROOT)}: expected one table of sets between its comments, got {count}"
    elif write:
        path.write_text(new, encoding="utf-8")
    elif new != text:
        yield (
            f"{path.relative_to(ROOT)}: the table is not what tools/wheels/sets.py prints; "
            "tools/ci/check_docs.py --write puts it in place"
        )


def tests(path: Path) -> Iterator[str]:
    """The tests that a page names are there: functions test_NAME or, of several processes, case_NAME."""
    for file, name in re.findall(r"(test_\w+\.py)::(\w+)", path.read_text(encoding="utf-8")):
        source = ROOT / "tests" / file
        if not source.exists() or not re.search(
            rf"^def (?:case_)?{name}\(", source.read_text(encoding="utf-8"), re.MULTILINE
        ):
            yield f"{path.relative_to(ROOT)}: no test {file}::{name}"


def main() -> int:
    write = sys.argv[1:] == ["--write"]
    wrong = list(table(ROOT / "docs/install.md", write=write))
    for page in ("conventions", "pytorch"):
        wrong += tests(ROOT / f"docs/{page}.md")
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("conda/*.md")):
        wrong += links(path)
    print("\n".join(wrong) if wrong else "documentation: in order")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
