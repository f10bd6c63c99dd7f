#!/usr/bin/env python3
"""Renders conda/recipe.yaml for every platform and variant, and holds it against pyproject.toml.

    check_recipe.py [RECIPE]

Rendering is rattler-build's own: it parses the recipe, evaluates its expressions and refuses fields
that the format does not have. Prints the packages that a build would make; exits with 1 if anything
does not agree.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomllib
from rattler_build import PlatformConfig, RenderConfig, Stage0Recipe, VariantConfig

ROOT = Path(__file__).resolve().parent.parent.parent
PLATFORMS = ("linux-64", "linux-aarch64")
OUTPUTS = {"libfused_ssim", "fused-ssim"}


def complaints(folder: Path, recipe: dict[str, Any], cuda: str) -> Iterator[str]:
    """What is wrong with one rendered package."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    settings = tomllib.loads(text)
    project = settings["project"]
    (version,) = re.findall(r'^version = "([^"]+)"$', text, re.MULTILINE)
    found = recipe["package"]["version"]
    if found != version:
        yield f"expected version {version}, as in pyproject.toml, got {found}"

    about = recipe["about"]
    if about["license"] != project["license"]:
        yield f"expected license {project['license']}, got {about['license']}"
    if about["license_file"] != project["license-files"]:
        yield f"expected license files {project['license-files']}, got {about['license_file']}"
    if about["summary"] != project["description"]:
        yield f"expected summary {project['description']!r}, got {about['summary']!r}"

    for source in recipe["source"]:
        tree = folder / source["path"]
        for name in ["pyproject.toml", *about["license_file"]]:
            if not (tree / name).is_file():
                yield f"the source has no {name}"
    script = folder / recipe["build"]["script"]
    if not script.is_file():
        yield f"no script {script.name} beside the recipe"
    for test in recipe["tests"]:
        for name in test.get("files", {}).get("recipe", []):
            if not (folder / name).exists():
                yield f"a test needs {name}, which is not beside the recipe"

    needs = recipe["requirements"]
    torch = {"libfused_ssim": "libtorch", "fused-ssim": "pytorch"}[recipe["package"]["name"]]
    # The torch that the libraries are built for: conda's packages do not go by address.
    (wanted,) = (line for line in settings["build-system"]["requires"] if line.startswith("torch"))
    if wanted.replace("torch", f"{torch} ") not in needs["run"]:
        yield f"expected run requirement {wanted.replace('torch', f'{torch} ')}, got {needs['run']}"
    if torch == "libtorch":
        compilers = [line for line in needs["build"] if line.startswith("cuda-nvcc")]
        if bool(compilers) != (cuda != "None"):
            yield f"cuda_compiler_version {cuda}: build requirements {needs['build']}"
    else:
        (entry,) = recipe["build"]["python"]["entry_points"]
        ((command, target),) = project["scripts"].items()
        if entry != f"{command} = {target}":
            yield f"expected the entry point {command} = {target}, got {entry}"


def main(path: Path) -> int:
    recipe = Stage0Recipe.from_file(path)
    variants = VariantConfig.from_file(path.with_name("variants.yaml"))
    failed = False
    for platform in PLATFORMS:
        config = RenderConfig(platform=PlatformConfig(target_platform=platform))
        packages: dict[str, list[str]] = {}
        for rendered in recipe.render(variants, config):
            built = rendered.recipe.to_dict()
            name = f"{built['package']['name']} {built['build']['string']}"
            cuda = str(rendered.variant.get("cuda_compiler_version"))
            packages[name] = list(complaints(path.parent, built, cuda))
        if {name.split()[0] for name in packages} != OUTPUTS:
            packages["recipe"] = [f"expected the outputs {sorted(OUTPUTS)}, got {sorted(packages)}"]
        print(f"{platform}: {len(packages)} packages")
        for name, wrong in packages.items():
            for complaint in wrong:
                failed = True
                print(f"{platform}, {name}: {complaint}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "conda/recipe.yaml"))
