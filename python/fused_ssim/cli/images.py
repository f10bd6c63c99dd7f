"""Image files to arrays and back. Needs Pillow and numpy.

Arrays are [H, W, C] with C = 1 (grayscale) or 3 (RGB): uint8, where u stands for u / 255, or
float32, where the data range is 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from fused_ssim.cli.errors import CliError, first_line, note
from fused_ssim.cli.tables import counted

Pixels = npt.NDArray[Any]

CHANNEL_NAMES = {1: ("gray",), 3: ("R", "G", "B")}

_MAX_16_BIT, _MAX_12_BIT = 65535, 4095
# Of these, what Pillow reads as 32-bit integers had 16 bits in the file.
_FORMATS_OF_16_BITS = ("PNG", "PPM")


@dataclass(frozen=True)
class Reading:
    """What numbers in files stand for."""

    background: str = "white"
    """Colour behind transparent pixels."""
    data_range: float | None = None
    """What white is in images of more than 8 bits; None: as the type of the file says."""


@contextmanager
def large_pictures(*, any_size: bool) -> Iterator[None]:
    """Lets Pillow read large pictures without a warning, and of any size if that is asked for.

    Measuring them is what a user asked for; only the hard limit against decompression bombs stays,
    and ends in read_image()'s handler. Not in read_image() itself: threads share the filters.
    """
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        if any_size:
            Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def read_image(path: Path, reading: Reading = Reading()) -> Pixels:
    """Read an image file; see `fused-ssim compare --help` for what is done to unusual ones."""
    if path.is_dir():
        raise CliError(f"{path} is a folder; an image file is needed here")
    try:
        with Image.open(path) as image:
            image.load()
            kind = image.format
            ImageOps.exif_transpose(image, in_place=True)
            return from_pil(image, reading, name=str(path), kind=kind)
    except FileNotFoundError:
        raise CliError(f"{path}: no such file") from None
    except PermissionError:
        raise CliError(f"{path}: permission denied") from None
    except UnidentifiedImageError:
        raise CliError(f"{path}: not an image that Pillow can read") from None
    except CliError as error:
        raise CliError(f"{path}: {error}") from None
    except Image.DecompressionBombError as error:
        raise CliError(f"{path}: {first_line(error)}; --any-size reads it all the same") from None
    except Exception as error:  # noqa: BLE001 (on damaged files decoders raise whatever they meet)
        raise CliError(f"{path}: unreadable image ({first_line(error)})") from None


def parse_colour(name: str) -> tuple[int, int, int]:
    """An RGB colour from a name or `#rrggbb`."""
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError:
        raise CliError(f'unknown colour {name!r}; use a name such as "black" or #rrggbb') from None


def from_pil(
    image: Image.Image,
    reading: Reading = Reading(),
    *,
    name: str = "image",
    kind: str | None = None,
) -> Pixels:
    """A Pillow image of any mode, from a file of the format `kind`."""
    if image.mode == "F" or image.mode.startswith("I"):
        wide = image.mode == "I" and kind not in _FORMATS_OF_16_BITS
        return _from_numbers(image, reading.data_range, name, wide=wide)

    gray = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        background = parse_colour(reading.background)
        backdrop = Image.new("RGBA", image.size, (*background, 255))
        backdrop.alpha_composite(image.convert("RGBA"))
        image = backdrop
        # On a gray background all three channels are equal, and "L" keeps their value.
        gray = gray and len(set(background)) == 1
    mode = "L" if gray else "RGB"
    # Conversion to its own mode would be a copy.
    return as_channels(np.asarray(image if image.mode == mode else image.convert(mode)))


def as_channels(values: Pixels) -> Pixels:
    """[H, W] or [H, W, C] as [H, W, C]."""
    return values[..., None] if values.ndim == 2 else values


def _from_numbers(image: Image.Image, data_range: float | None, name: str, *, wide: bool) -> Pixels:
    """Pixels of 16 bits, of 32 (`wide`), or floating-point."""
    data = np.asarray(image)
    if "transparency" in image.info:
        raise CliError(
            "transparent pixels of more than 8 bits are not read; flatten the image, or give it an "
            "alpha channel in 8 bits"
        )
    low, high = float(data.min()), float(data.max())
    floating = image.mode == "F"
    if data_range is None:
        kind = "floating-point" if floating else "32-bit"
        limit = 1 if floating else _MAX_16_BIT
        # Written so that NaN is refused, too.
        if (wide or floating) and not (floating and low >= 0.0 and high <= limit):
            raise CliError(
                f"{kind} image with values from {low:g} to {high:g}, which do not tell what white "
                f"is; give it as --data-range{', or scale the image to 0..1' if floating else ''}"
            )
        if not floating and 0 < high <= _MAX_12_BIT:
            note(
                f"{name}: 16-bit image with values up to {high:g} is taken for a dark one; if it "
                f"holds fewer bits, give what white is (--data-range {_MAX_12_BIT} for 12 bits)"
            )
        data_range = limit
    elif not (low >= 0.0 and high <= data_range):
        raise CliError(f"values from {low:g} to {high:g} are outside --data-range {data_range:g}")
    return as_channels(data.astype(np.float32) / np.float32(data_range))


def to_pil(pixels: Pixels) -> Image.Image:
    """An [H, W, C] array, clamped to its range, as an 8-bit Pillow image."""
    if pixels.dtype != np.uint8:
        pixels = np.rint(np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))


def names_a_picture(path: Path) -> bool:
    """Whether the name's suffix is that of a format that Pillow writes."""
    return Image.registered_extensions().get(path.suffix.lower()) in Image.SAVE


def check_image_name(path: Path) -> None:
    """Refuse a name whose suffix is that of no format that Pillow writes."""
    if not names_a_picture(path):
        raise CliError(
            f"{path}: unknown image format {path.suffix!r}; use a name that ends in .png"
        )


def save_image(image: Image.Image, path: Path) -> None:
    """Write a Pillow image in the format that the name's suffix says (`check_image_name`)."""
    try:
        image.save(path)
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror or first_line(error)}") from None


def make_folder(path: Path) -> None:
    """Create a folder to write to, with its parents."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CliError(f"cannot create the folder {path}: {error.strerror}") from None


def image_files(folder: Path, *, recursive: bool = False) -> list[Path]:
    """The files in a folder whose suffix is one of a format that Pillow reads, sorted by name.

    Hidden ones are left out: those with a leading dot, as macOS leaves beside every image.
    """
    try:
        paths = [path.relative_to(folder) for path in folder.glob("**/*" if recursive else "*")]
        visible = [path for path in paths if not any(part[0] == "." for part in path.parts)]
        sub_folders = sum((folder / path).is_dir() for path in visible)
        if sub_folders and not recursive:
            note(f"{folder}: {counted(sub_folders, 'sub-folder')} not searched; --recursive does")
        known = _known_suffixes({path.suffix.lower() for path in visible})
        return sorted(
            folder / path
            for path in visible
            if path.suffix.lower() in known and _is_file_or_broken_link(folder / path)
        )
    except OSError as error:
        raise CliError(f"cannot read the folder {folder}: {error.strerror}") from None


def _is_file_or_broken_link(path: Path) -> bool:
    # A broken link is a picture that is missing: reading it says so.
    return path.is_file() or (path.is_symlink() and not path.exists())


def _known_suffixes(asked: set[str]) -> set[str]:
    """Suffixes of the formats that Pillow reads, at least those among `asked`."""
    Image.preinit()
    extensions = Image.EXTENSION
    if not asked <= extensions.keys():
        # This loads all of Pillow's plugins, which takes longer than reading some pictures.
        extensions = Image.registered_extensions()
    return {suffix for suffix, kind in extensions.items() if kind in Image.OPEN}
