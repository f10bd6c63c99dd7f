"""Runs the command line in this process, on photographs in files."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from fused_ssim.cli import main
from fused_ssim.cli.images import Pixels, Reading, read_image, to_pil
from fused_ssim.cli.measure import as_floats
from images import photograph

COFFEE = photograph("coffee")[0]  # 600 x 400, RGB
CAMERA = photograph("camera")[0]  # 512 x 512, gray


def call(capsys, *arguments: object, code: int = 0) -> str:
    """Run a command that must end with `code` without a word on stderr; its stdout."""
    found, out, err = run(capsys, *arguments)
    assert found == code, err
    assert err == ""
    return out


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    """Run a command; its exit code, stdout and stderr."""
    has_progress = arguments[0] not in ("info", "check")
    found = main([*map(str, arguments), *(["--no-progress"] if has_progress else [])])
    captured = capsys.readouterr()
    return found, captured.out, captured.err


def fails(capsys, *arguments: object) -> str:
    """Run a command that must end with code 2 and one line on stderr; that line."""
    try:
        code, _, error = run(capsys, *arguments)
    except SystemExit as stop:  # argparse
        code, error = stop.code, capsys.readouterr().err
    assert code == 2
    lines = error.strip().splitlines()
    assert "error: " in lines[-1]
    assert "Traceback" not in error
    # argparse puts the command's usage above the line, the commands nothing.
    assert len(lines) == 1 or lines[0].startswith(f"usage: fused-ssim {arguments[0]} ")
    return lines[-1]


def pixels(image: torch.Tensor) -> Pixels:
    """[C, H, W] as the command line holds pictures: [H, W, C]."""
    return image.permute(1, 2, 0).numpy()


def save(image: torch.Tensor, path: Path, **options: object) -> Path:
    to_pil(pixels(image)).save(path, **options)
    return path


def read_tensor(path: Path, **reading: object) -> torch.Tensor:
    """[C, H, W], float32 in 0..1: a picture as the command line reads it."""
    values = as_floats(read_image(path, Reading(**reading)))
    return torch.tensor(values).permute(2, 0, 1).contiguous()


def stored(path: Path) -> np.ndarray:
    """The 8-bit values of a picture, [height, width] or [height, width, 3]."""
    with Image.open(path) as picture:
        return np.array(picture)


def write_coffee(folder: Path) -> tuple[Path, Path]:
    """A photograph and its JPEG of quality 20."""
    return (
        save(COFFEE, folder / "coffee.png"),
        save(COFFEE, folder / "coffee_q20.jpg", quality=20),
    )


def write_folders(folder: Path) -> tuple[Path, Path]:
    """Two folders: two pairs by name, one by stem, and a file that is no image."""
    a, b = folder / "a", folder / "b"
    a.mkdir()
    b.mkdir()
    for name in ("astronaut", "coffee", "camera"):
        image = photograph(name)[0]
        blurred = to_pil(pixels(image)).filter(ImageFilter.GaussianBlur(2))
        save(image, a / f"{name}.png")
        blurred.save(b / (f"{name}.bmp" if name == "camera" else f"{name}.png"))
    (a / "notes.txt").write_text("not an image")
    return a, b


class Page(HTMLParser):
    """Tags, links, anchors and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.anchors: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = dict(attrs)
        self.links += [found[key] for key in ("src", "href") if key in found]
        self.anchors += [found["id"]] if "id" in found else []

    def handle_data(self, data):
        self.text += data
