#!/usr/bin/env python3
"""Makes the index of wheels: static pages that `pip install --index-url` reads.

    make_index.py RELEASES OUTPUT

RELEASES is JSON as `gh api repos/OWNER/NAME/releases` prints it, with --paginate --slurp or without.
OUTPUT/SET/fused-ssim/ lists the wheels of a set of tools/wheels/sets.toml (PEP 503), where the release
has them, with their hashes. A wheel belongs to the set that its local version names; one without goes
where PyPI's come from. Source distributions are PyPI's alone: with these pages as its only index, pip
could not find what builds them.
"""

from __future__ import annotations

import html
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools/wheels"))
import sets

PROJECT = "fused-ssim"
WHEEL = re.compile(r"fused_ssim-(?P<version>[^-]+)(-\d[^-]*)?-[^-]+-[^-]+-(?P<platform>[^-]+)\.whl")


def set_of(filename: str, table: sets.Table) -> str:
    """The set that a wheel belongs to, by its name."""
    match = WHEEL.fullmatch(filename)
    if match is None:
        raise SystemExit(
            f"expected a wheel of {PROJECT} (fused_ssim-VERSION-...whl), got {filename!r}"
        )
    _, _, local = match["version"].partition("+")
    platforms = [
        name for name, p in table.platforms.items() if re.fullmatch(p.tag, match["platform"])
    ]
    for wheels in table.sets.values():
        for platform in platforms:
            if platform in wheels.platforms and wheels.local_version(platform) == local:
                return wheels.name
    raise SystemExit(
        f"{filename}: sets.toml has no set with local version {local!r} for platform "
        f"{match['platform']!r}; its sets are {', '.join(table.sets)}"
    )


def wheels_of(path: Path) -> dict[str, str]:
    """File name -> address with hash, of all published releases."""
    releases = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(releases, dict):
        releases = [releases]
    elif releases and isinstance(releases[0], list):  # pages, of --slurp
        releases = [release for page in releases for release in page]
    found: dict[str, str] = {}
    for release in releases:
        for asset in [] if release.get("draft") else release["assets"]:
            name = asset["name"]
            if not name.endswith(".whl"):
                continue
            algorithm, _, digest = (asset.get("digest") or "").partition(":")
            if algorithm != "sha256" or not re.fullmatch("[0-9a-f]{64}", digest):
                raise SystemExit(
                    f'{name}: expected a digest "sha256:..." in the release\'s JSON, got '
                    f"{asset.get('digest')!r}; upload the asset again"
                )
            if name in found:
                raise SystemExit(
                    f"{name} is in two releases; a released file never changes: raise the version"
                )
            found[name] = f"{asset['browser_download_url']}#sha256={digest}"
    if not found:
        raise SystemExit("expected at least one wheel, got none")
    return found


def write_page(path: Path, title: str, links: dict[str, str]) -> None:
    lines = "\n".join(
        f'    <a href="{html.escape(address)}">{html.escape(text)}</a><br>'
        for text, address in sorted(links.items())
    )
    path.mkdir(parents=True, exist_ok=True)
    (path / "index.html").write_text(
        f"""<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="pypi:repository-version" content="1.0">
    <title>{title}</title>
  </head>
  <body>
{lines}
  </body>
</html>
""",
        encoding="utf-8",
    )


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(f"usage: {sys.argv[0]} RELEASES OUTPUT")
    releases, output = map(Path, sys.argv[1:])
    table = sets.read()
    by_set: dict[str, dict[str, str]] = {}
    for name, address in wheels_of(releases).items():
        by_set.setdefault(set_of(name, table), {})[name] = address
    for name, links in by_set.items():
        write_page(output / name / PROJECT, f"{PROJECT}, set {name}", links)
        write_page(output / name, f"Set {name}", {PROJECT: f"{PROJECT}/"})
        print(f"{name}: {len(links)} wheels")
    write_page(output, f"Sets of {PROJECT}", {name: f"{name}/" for name in by_set})


if __name__ == "__main__":
    main()
