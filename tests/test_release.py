"""What a release calls: tag against version and changelog, the GitHub release, the index of all releases.

A script in place of `gh` keeps what it is told, and answers as GitHub would.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from installation import ROOT, environment
from test_index import LINUX, asset, listed, write_wheel

TOOLS = ROOT / "tools/ci"


def run(*command: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        check=False,
        capture_output=True,
        text=True,
        env=environment(PYTHON=sys.executable, **variables),
    )


@pytest.fixture
def tree(tmp_path) -> Path:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "x"\n[[tool.y]]\nversion = "0.3.0"\n'
    )
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## Unreleased\n\n## 0.3.0 - 2030-01-01\n\n### Added\n\n- Something.\n\n"
        "## 0.2.0\n\n- Older.\n"
    )
    return tmp_path


def check_release(tag: str, root: Path) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, TOOLS / "check_release.py", tag, root)


def test_the_notes_are_the_changelogs(tree):
    done = check_release("v0.3.0", tree)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "### Added\n\n- Something.\n"


def test_a_tag_of_another_version(tree):
    done = check_release("v0.3.1", tree)
    assert done.returncode != 0
    assert "expected the tag v0.3.0" in done.stderr
    assert "got v0.3.1" in done.stderr


@pytest.mark.parametrize("heading", ["## 0.30.0", "## Unreleased", "## 0.3.0\n\n## 0.2.9"])
def test_a_changelog_without_the_version(tree, heading):
    text = (tree / "CHANGELOG.md").read_text()
    (tree / "CHANGELOG.md").write_text(text.replace("## 0.3.0 - 2030-01-01", heading))
    done = check_release("v0.3.0", tree)
    assert done.returncode != 0
    assert "no entries under '## 0.3.0'" in done.stderr


def test_the_version_of_this_tree_is_found():
    done = run(sys.executable, TOOLS / "check_release.py", "v0.0.0.nowhere")
    assert done.returncode != 0
    assert "which is the version in pyproject.toml" in done.stderr


GH = """#!{python}
import json, pathlib, sys
state = pathlib.Path({state!r})
arguments = sys.argv[1:]
with (state / "calls").open("a") as file:
    file.write(json.dumps(arguments) + "\\n")
if arguments[0] == "api":
    print((state / "releases.json").read_text())
"""


@pytest.fixture
def gh(tmp_path):
    """A folder for PATH with a `gh` that keeps its state there."""
    folder = tmp_path / "gh"
    folder.mkdir()
    program = folder / "gh"
    program.write_text(GH.format(python=sys.executable, state=str(folder)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder


@pytest.fixture
def path_with_gh(gh) -> str:
    return os.pathsep.join([str(gh), environment()["PATH"]])


def calls(gh: Path) -> list[list[str]]:
    return [json.loads(line) for line in (gh / "calls").read_text().splitlines()]


@pytest.fixture
def released_tree(tree) -> Path:
    """A tree with what release.sh reads of this one, in which version 0.3.0 is ready."""
    shutil.copytree(ROOT / "tools/ci", tree / "tools/ci")
    return tree


def test_a_release_is_published_when_all_its_files_are_there(released_tree, gh, path_with_gh):
    wheels = released_tree / "wheels"
    write_wheel(wheels, "0.3.0")
    write_wheel(wheels, "0.3.0+cu130")
    (wheels / "fused_ssim-0.3.0.tar.gz").write_bytes(b"source")
    script = released_tree / "tools/ci/release.sh"
    done = run("bash", script, "v0.3.0", wheels, PATH=path_with_gh)
    assert done.returncode == 0, done.stderr
    create, upload, edit = calls(gh)
    assert create[:4] == ["release", "create", "v0.3.0", "--draft"]
    assert {Path(name).name for name in upload[3:]} == {
        f"fused_ssim-0.3.0-py3-none-{LINUX}.whl",
        f"fused_ssim-0.3.0+cu130-py3-none-{LINUX}.whl",
        "fused_ssim-0.3.0.tar.gz",
    }
    assert edit == ["release", "edit", "v0.3.0", "--draft=false"]


def test_nothing_is_released_under_a_wrong_tag(released_tree, gh, path_with_gh):
    write_wheel(released_tree / "wheels", "0.3.0")
    script = released_tree / "tools/ci/release.sh"
    done = run("bash", script, "v0.4.0", released_tree / "wheels", PATH=path_with_gh)
    assert done.returncode != 0
    assert not (gh / "calls").exists()


def test_the_index_lists_all_releases(tmp_path, gh, path_with_gh):
    wheel = write_wheel(tmp_path, "0.1.0+cu130")
    found = [[{"draft": False, "assets": [asset(wheel, "https://example.org")]}]]
    (gh / "releases.json").write_text(json.dumps(found))
    done = run("bash", TOOLS / "index.sh", "owner/name", tmp_path / "site", PATH=path_with_gh)
    assert done.returncode == 0, done.stderr
    assert listed(tmp_path / "site", "cu130") == {wheel.name}
    (api,) = calls(gh)
    assert api[0] == "api"
    assert "repos/owner/name/releases?per_page=100" in api


def test_requirements_name_no_package_of_ours():
    done = run(sys.executable, TOOLS / "requirements.py", "dev")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert not any(line.startswith("fused-ssim") for line in lines)
    assert "numpy" in lines  # of cli, which demo names, which test names, which dev names
    assert len(lines) == len(set(lines))
    assert "expected an extra" in run(sys.executable, TOOLS / "requirements.py", "no").stderr
