"""Which files of two folders belong together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fused_ssim.cli.errors import CliError

PLACEHOLDER = "{}"


@dataclass(frozen=True)
class Matches:
    """The files of two folders, paired."""

    pairs: list[tuple[Path, Path]]
    only_a: list[Path]
    only_b: list[Path]


def match(a: Path, b: Path, files_a: Sequence[Path], files_b: Sequence[Path], rule: str) -> Matches:
    """Pair the files of the folders `a` and `b`.

    Args:
        a: a folder.
        b: a folder.
        files_a: files in `a` or its sub-folders, sorted.
        files_b: likewise in `b`.
        rule: "name" for whole names, and then names without the suffix where only one can be meant;
            "order" for the first with the first; or what B's name without the suffix is for A's
            `{}`: "{}_x4" pairs x.png with x_x4.png.
    """
    if rule == "order":
        return _by_order(files_a, files_b)
    pairs: list[tuple[Path, Path]] = []
    pattern = PLACEHOLDER
    if rule == "name":
        by_name = {path.relative_to(b): path for path in files_b}
        pairs = [
            (path, by_name[path.relative_to(a)])
            for path in files_a
            if path.relative_to(a) in by_name
        ]
    else:
        pattern = rule
    matched = {path for pair in pairs for path in pair}
    rest_a = _by_unique_stem((path for path in files_a if path not in matched), a, pattern)
    rest_b = _by_unique_stem((path for path in files_b if path not in matched), b, PLACEHOLDER)
    pairs += [(path, rest_b[stem]) for stem, path in rest_a.items() if stem in rest_b]
    matched = {path for pair in pairs for path in pair}
    return Matches(
        pairs=sorted(pairs),
        only_a=[path for path in files_a if path not in matched],
        only_b=[path for path in files_b if path not in matched],
    )


def _by_order(files_a: Sequence[Path], files_b: Sequence[Path]) -> Matches:
    if len(files_a) != len(files_b):
        raise CliError(
            f"--match order: {len(files_a)} images in A and {len(files_b)} in B; expected as many"
        )
    return Matches(pairs=list(zip(files_a, files_b, strict=True)), only_a=[], only_b=[])


def _by_unique_stem(paths: Iterable[Path], folder: Path, pattern: str) -> dict[Path, Path]:
    """Paths by what a partner is called: its sub-folder and its name without the suffix."""
    groups: dict[Path, list[Path]] = {}
    for path in paths:
        partner = path.relative_to(folder).with_name(pattern.replace(PLACEHOLDER, path.stem))
        groups.setdefault(partner, []).append(path)
    return {stem: group[0] for stem, group in groups.items() if len(group) == 1}
