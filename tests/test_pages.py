"""What the pages tell a user to write: README's program runs, and every command is one."""

from __future__ import annotations

import re
import runpy
import shlex

import pytest

from fused_ssim.cli.parser import build_parser
from installation import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_program_of_the_readme(tmp_path):
    (program,) = blocks(ROOT / "README.md", "python")
    smaller = program.replace("1080, 1920", "190, 210")
    assert smaller.count("190, 210") == program.count("1080, 1920") > 0
    path = tmp_path / "program.py"
    path.write_text(smaller)
    names = runpy.run_path(str(path))
    assert names["rendered"].grad.abs().sum() > 0
    assert 0 < names["multi_scale"] < 1
    assert names["ssim_map"].shape == (1, 3, 190, 210)
    assert 0 < names["masked"] < 1
    assert 0 < names["score"] < 1


COMMANDS = [
    (page.name, line.strip())
    for page in PAGES
    for block in blocks(page, "sh")
    for line in block.splitlines()
    if line.strip().startswith("fused-ssim ") and "--help" not in line
]


def test_there_are_commands():
    assert {"README.md", "cli.md"} <= {page for page, _ in COMMANDS}


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_commands(page, line):  # `page` is for the test's name
    _, *words = shlex.split(line, comments=True)
    build_parser().parse_args(words)  # exits where the parser knows not a word
