#!/usr/bin/env python3
"""Makes the index of wheels: static pages that `pip install --index-url` reads.

    make_index.py metadata FOLDER
        writes WHEEL.metadata beside every wheel of a folder, to be uploaded with it

    make_index.py pages OUTPUT --folder FOLDER [--url PREFIX]
        pages for the wheels of a folder; they are copied into OUTPUT, or expected under PREFIX

    make_index.py pages OUTPUT --releases JSON [--metadata FOLDER]
        pages for the assets of GitHub releases: JSON as `gh api repos/OWNER/NAME/releases` prints it
        (with --paginate --slurp, or without), and the folder with their *.metadata assets

OUTPUT/SET/fused-ssim/ lists the wheels of a set of tools/wheels/sets.toml (PEP 503), with hashes,
the Python versions that they require, and their metadata apart (PEP 658), so that pip need not
download a wheel to learn what it depends on. A wheel belongs to the set that its local version names;
one without goes where PyPI's come from. Source distributions are PyPI's alone: with these pages as
its only index, pip could not find what builds them.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import re
import shutil
import sys
import zipfile
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools/wheels"))
import sets

PROJECT = "fused-ssim"
WHEEL = re.compile(r"fused_ssim-(?P<version>[^-]+)(-\d[^-]*)?-[^-]+-[^-]+-(?P<platform>[^-]+)\.whl")


@dataclass(frozen=True)
class Link:
    """One wheel, as a page lists it."""

    filename: str
    url: str
    sha256: str
    metadata: bytes | None

    def anchor(self) -> str:
        attributes = {"href": f"{self.url}#sha256={self.sha256}"}
        if self.metadata is not None:
            required = HeaderParser().parsestr(self.metadata.decode("utf-8"))["Requires-Python"]
            if required:
                attributes["data-requires-python"] = required
            digest = f"sha256={hashlib.sha256(self.metadata).hexdigest()}"
            attributes["data-core-metadata"] = digest
            attributes["data-dist-info-metadata"] = digest  # the name that pip before 23.2 reads
        text = " ".join(f'{name}="{html.escape(value)}"' for name, value in attributes.items())
        return f"<a {text}>{html.escape(self.filename)}</a><br>"


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


def metadata_of(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
        return archive.read(name)


def links_of_folder(folder: Path, output: Path, prefix: str | None) -> list[Link]:
    links = []
    for wheel in sorted(folder.glob("*.whl")):
        metadata = metadata_of(wheel)
        if prefix is None:
            files = output / "files"
            files.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(wheel, files / wheel.name)
            (files / f"{wheel.name}.metadata").write_bytes(metadata)
        base = "../../files" if prefix is None else prefix.rstrip("/")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        links.append(Link(wheel.name, f"{base}/{quote(wheel.name)}", digest, metadata))
    return links


def links_of_releases(path: Path, metadata_folder: Path | None) -> list[Link]:
    releases = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(releases, dict):
        releases = [releases]
    elif releases and isinstance(releases[0], list):  # pages, of --slurp
        releases = [release for page in releases for release in page]
    links = []
    for release in releases:
        assets = {} if release.get("draft") else {a["name"]: a for a in release["assets"]}
        for name, asset in assets.items():
            if not name.endswith(".whl"):
                continue
            digest = _sha256(asset)
            metadata = None
            if metadata_folder is not None and f"{name}.metadata" in assets:
                metadata = (metadata_folder / f"{name}.metadata").read_bytes()
                expected = _sha256(assets[f"{name}.metadata"])
                found = hashlib.sha256(metadata).hexdigest()
                if found != expected:
                    raise SystemExit(
                        f"{name}.metadata: expected sha256 {expected} as the release has it, got "
                        f"{found}; download the release's *.metadata again"
                    )
            links.append(Link(name, asset["browser_download_url"], digest, metadata))
    return links


def _sha256(asset: dict[str, str]) -> str:
    algorithm, _, digest = (asset.get("digest") or "").partition(":")
    if algorithm != "sha256" or not re.fullmatch("[0-9a-f]{64}", digest):
        raise SystemExit(
            f'{asset["name"]}: expected a digest "sha256:..." in the release\'s JSON, got '
            f"{asset.get('digest')!r}; upload the asset again"
        )
    return digest


def page(title: str, lines: list[str]) -> str:
    body = "\n".join(f"    {line}" for line in lines)
    return f"""<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="pypi:repository-version" content="1.1">
    <title>{html.escape(title)}</title>
  </head>
  <body>
{body}
  </body>
</html>
"""


def write_pages(links: list[Link], output: Path, table: sets.Table) -> None:
    if not links:
        raise SystemExit("expected at least one wheel, got none")
    by_set: dict[str, dict[str, Link]] = {}
    for link in links:
        known = by_set.setdefault(set_of(link.filename, table), {}).setdefault(link.filename, link)
        if known.sha256 != link.sha256:
            raise SystemExit(
                f"{link.filename} is there twice, with different contents ({known.url}, {link.url}); "
                "a released file never changes: raise the version instead"
            )
    for name, wheels in by_set.items():
        folder = output / name / PROJECT
        folder.mkdir(parents=True, exist_ok=True)
        lines = [wheels[filename].anchor() for filename in sorted(wheels)]
        (folder / "index.html").write_text(page(f"{PROJECT}, set {name}", lines), encoding="utf-8")
        project = [f'<a href="{PROJECT}/">{PROJECT}</a><br>']
        (output / name / "index.html").write_text(page(f"Set {name}", project), encoding="utf-8")
        print(f"{name}: {len(wheels)} wheels")
    overview = [f'<a href="{name}/">{name}</a><br>' for name in sorted(by_set)]
    (output / "index.html").write_text(page(f"Sets of {PROJECT}", overview), encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    metadata = commands.add_parser("metadata")
    metadata.add_argument("folder", type=Path)
    pages = commands.add_parser("pages")
    pages.add_argument("output", type=Path)
    source = pages.add_mutually_exclusive_group(required=True)
    source.add_argument("--folder", type=Path)
    source.add_argument("--releases", type=Path)
    pages.add_argument("--url", help="where the wheels of --folder will be")
    pages.add_argument("--metadata", type=Path, help="folder with the *.metadata of --releases")
    chosen = parser.parse_args(arguments)
    if chosen.command == "metadata":
        for wheel in sorted(chosen.folder.glob("*.whl")):
            wheel.with_name(f"{wheel.name}.metadata").write_bytes(metadata_of(wheel))
    elif chosen.folder is not None:
        write_pages(
            links_of_folder(chosen.folder, chosen.output, chosen.url), chosen.output, sets.read()
        )
    else:
        write_pages(links_of_releases(chosen.releases, chosen.metadata), chosen.output, sets.read())


if __name__ == "__main__":
    main()
