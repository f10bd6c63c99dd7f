#!/usr/bin/env python3
"""Tests wheels under several versions of torch, and keeps the record in docs/compatibility.md.

    matrix.py run [--torch V]... [--tests quick|full] [--work FOLDER] [--record] [WHEEL...]
    matrix.py run --python PYTHON --device cuda [--tests quick|full] [--record] WHEEL...
    matrix.py document [--check]        docs/compatibility.md from the record

For each version of torch `run` makes a new environment with that torch, installs one wheel after the
other there, and runs the tests on the CPU in a copy of the sources, so that nothing but the wheel can
answer to `import fused_ssim`. Without a wheel it first builds one, against the torch of sets.toml and
without CUDA unless FUSED_SSIM_CUDA says otherwise. With --python it takes an environment that is there,
torch and test dependencies included, and installs the wheels into it. It exits with 1 if any test fails.
--record adds what was run to docs/compatibility.json, from which `document` makes the page.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))
import sets

RECORD = ROOT / "docs/compatibility.json"
PAGE = ROOT / "docs/compatibility.md"
# Where nothing else is said: the oldest torch that is promised, a build of torch without CUDA, and the
# torch that wheels are built against.
VERSIONS = ["2.10.0", "2.13.0+cpu", sets.read().torch]
# What is not about an installed wheel: tests that build packages themselves, against the torch that is to
# be run here, and tests of the repository's own scripts.
REPOSITORY = ["check_spills", "conda", "index", "release", "wheel", "wheel_checks", "wheel_sets"]
SUITES = {
    "quick": ["-m", "reduced"],
    "full": [f"--ignore=tests/test_{name}.py" for name in REPOSITORY],
}
TREE = ["CMakeLists.txt", "LICENSE", "README.md", "benchmarks", "cmake", "docs", "include"]
TREE += ["pyproject.toml", "src", "tests", "tools"]


def run(
    command: list[str | Path], *, check: bool = True, **options: Any
) -> subprocess.CompletedProcess[str]:
    print("$", *command, flush=True)
    return subprocess.run([str(part) for part in command], check=check, text=True, **options)


def build(folder: Path) -> Path:
    """A wheel of this tree."""
    against = sets.read().torch
    requirements = [f"torch=={against}", "build", "cmake", "ninja", "pybind11", "scikit-build-core"]
    python = new_environment(folder / f"build-{against}", requirements)
    output = folder / "dist"
    shutil.rmtree(output, ignore_errors=True)
    variables = {"FUSED_SSIM_CUDA": "OFF", **os.environ}
    variables["PATH"] = os.pathsep.join([str(python.parent), variables["PATH"]])
    run([python, "-m", "build", "--no-isolation", "--outdir", output, ROOT], env=variables)
    (wheel,) = output.glob("*.whl")
    return wheel


def new_environment(folder: Path, requirements: list[str]) -> Path:
    if not folder.exists():
        run([sys.executable, "-m", "venv", folder])
        run([folder / "bin/pip", "install", "--quiet", *requirements])
    return folder / "bin/python"


def facts(python: Path, folder: Path) -> dict[str, Any]:
    code = (
        "import json, platform, torch, fused_ssim\n"
        "info = fused_ssim.build_info()\n"
        "print(json.dumps({'python': platform.python_version(), 'torch': str(torch.__version__),\n"
        "  'torch_cuda': torch.version.cuda, 'version': info.version, 'toolkit': info.cuda_toolkit,\n"
        "  'against': info.torch_built, 'cuda_status': info.cuda_status,\n"
        "  'gpus': [gpu.name for gpu in info.gpus]}))"
    )
    done = run([python, "-c", code], stdout=subprocess.PIPE, cwd=folder)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test(python: Path, wheel: Path, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Installs the wheel, runs the tests, and says what came of it."""
    run(
        [python, "-m", "pip", "install", "--quiet", "--force-reinstall", "--no-deps", wheel],
    )
    run([python, "-m", "pip", "check"])
    tree = folder / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    for name in TREE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy2(ROOT / name, tree / name)
    found = facts(python, folder)
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    path = os.pathsep.join([str(python.parent), os.environ["PATH"]])
    options = [f"--device={arguments.device}", "-q", "--no-showlocals"]
    if arguments.workers != "1":
        options.append(f"--numprocesses={arguments.workers}")
    done = run(
        [python, "-m", "pytest", *options, f"--junit-xml={report}", *SUITES[arguments.tests]],
        check=False,
        cwd=tree,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
    )
    if not report.exists():
        raise SystemExit(f"pytest wrote no report (exit code {done.returncode})")
    (counted,) = ElementTree.parse(report).getroot().iter("testsuite")
    total, skipped = int(counted.get("tests", 0)), int(counted.get("skipped", 0))
    failed = int(counted.get("failures", 0)) + int(counted.get("errors", 0))
    return {
        **found,
        "wheel": wheel.name,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "device": arguments.device,
        "suite": arguments.tests,
        "passed": total - skipped - failed,
        "failed": failed,
        "skipped": skipped,
    }


def commit() -> str:
    """The commit of the tests that are run; "+" where the tree has other changes."""
    git = ["git", "-C", str(ROOT)]
    done = run([*git, "describe", "--always", "--dirty=+"], check=False, stdout=subprocess.PIPE)
    return done.stdout.strip()


def key(row: dict[str, Any]) -> tuple[str, ...]:
    """What a newer run takes the place of."""
    return tuple(str(row[name]) for name in ("wheel", "torch", "device", "suite"))


def record(rows: list[dict[str, Any]]) -> None:
    old = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else []
    new = {key(row): row for row in [*old, *rows]}
    ordered = sorted(new.values(), key=order)
    RECORD.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


def order(row: dict[str, Any]) -> tuple[Any, ...]:
    numbers = tuple(int(n) for n in re.findall(r"\d+", row["torch"].partition("+")[0]))
    return (row["wheel"], numbers, row["torch"], row["device"], row["suite"])


def matrix(arguments: argparse.Namespace) -> int:
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(arguments.work or temporary).resolve()
        work.mkdir(parents=True, exist_ok=True)
        wheels = [Path(wheel).resolve() for wheel in arguments.wheels] or [build(work)]
        versions = [""] if arguments.python else arguments.torch or VERSIONS
        for version in versions:
            environment = work / f"torch-{version}"
            if arguments.python:
                python = Path(arguments.python).absolute()
            else:
                requirements = [f"torch=={version}", "pytest-xdist"]
                if re.match(r"2\.[0-3]\.", version):  # built for NumPy 1
                    requirements.append("numpy<2")
                requirements.append(f"fused-ssim[test] @ {wheels[0].as_uri()}")
                python = new_environment(environment, requirements)
            for wheel in wheels:
                row = test(python, wheel, arguments, work)
                if not row["torch"].startswith(version):
                    raise SystemExit(f"expected torch {version}, found {row['torch']}")
                rows.append(row)
                print(f"=== {summary(row)}", flush=True)
                if arguments.record:
                    record([row])
            if not arguments.work and not arguments.python:
                shutil.rmtree(environment)
    print("\n".join(["===", *map(summary, rows)]))
    return int(any(row["failed"] or not row["passed"] for row in rows))


def summary(row: dict[str, Any]) -> str:
    return (
        f"{row['wheel']} under torch {row['torch']}, {row['device']}, {row['suite']}: "
        f"{row['passed']} passed, {row['failed']} failed, {row['skipped']} skipped"
    )


def page(rows: list[dict[str, Any]]) -> str:
    lines = [
        "# Compatibility: what was run",
        "",
        "Made by `tools/wheels/matrix.py document` from [compatibility.json](compatibility.json), which",
        "`tools/wheels/matrix.py run --record` writes. Do not edit it by hand.",
        "",
        "Each line is a finished wheel that was installed into an environment with that torch and passed",
        "the number of tests given, from a copy of the tests alone. *full* is the whole suite but for the",
        "tests that build wheels themselves (on a GPU, for all that build something), *quick* a small set",
        "of numeric tests that reaches every kind of kernel. What is not listed was not run. The commit is",
        "that of the tests, + where the tree had other changes. Notes are written by hand, into the record.",
        "",
        "| wheel | Python | CUDA toolkit of the wheel | built against torch | run with torch | CUDA of that torch | device | suite | passed | failed | commit | date | note |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=order):
        lines.append(
            f"| {row['version']} | {row['python']} | {row['toolkit'] or 'none'} "
            f"| {row['against'] or '(by addresses)'} | {row['torch']} | {row['torch_cuda'] or 'none'} "
            f"| {', '.join(row['gpus']) or 'CPU' if row['device'] == 'cuda' else 'CPU'} "
            f"| {row['suite']} | {row['passed']} | {row['failed']} | {row['commit']} | {row['date']} "
            f"| {row.get('note', '')} |"
        )
    if not any(row["device"] == "cuda" for row in rows):
        lines += ["", "On GPUs: not yet run with these wheels."]
    return "\n".join(lines) + "\n"


def document(arguments: argparse.Namespace) -> int:
    text = page(json.loads(RECORD.read_text(encoding="utf-8")))
    if arguments.check:
        if PAGE.read_text(encoding="utf-8") != text:
            print(f"{PAGE.name} is not what its record says: run tools/wheels/matrix.py document")
            return 1
        return 0
    PAGE.write_text(text, encoding="utf-8")
    return 0


def main(given: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("run")
    command.add_argument("wheels", nargs="*", metavar="WHEEL")
    command.add_argument("--torch", action="append", help=f"default: {', '.join(VERSIONS)}")
    command.add_argument("--tests", choices=SUITES, default="full")
    command.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    command.add_argument("--python", help="of an environment to use as it is")
    command.add_argument(
        "--workers", default="auto", help="processes of pytest-xdist; 1: none, without pytest-xdist"
    )
    command.add_argument("--work", help="where environments are made and kept")
    command.add_argument("--record", action="store_true", help="add to docs/compatibility.json")
    command.set_defaults(call=matrix)
    command = commands.add_parser("document")
    command.add_argument("--check", action="store_true", help="compare, write nothing")
    command.set_defaults(call=document)
    chosen = parser.parse_args(given)
    return int(chosen.call(chosen))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
