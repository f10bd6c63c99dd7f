"""Image files to tensors and back. Needs Pillow and numpy.

Tensors are [C, H, W], float32, in 0..1, with C = 1 (grayscale) or 3 (RGB).
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError
from torch import Tensor

from fused_ssim.cli.errors import CliError, first_line

CHANNEL_NAMES = {1: ("gray",), 3: ("R", "G", "B")}

_MAX_16_BIT = 65535.0


def read_image(path: Path, background: str = "white") -> Tensor:
    """Read an image file; see `fused-ssim compare --help` for what is done to unusual ones."""
    if path.is_dir():
        raise CliError(f"{path} is a folder; an image file is needed here")
    colour = parse_colour(background)
    try:
        with warnings.catch_warnings():
            # Pillow warns about large images. Measuring them is what a user asked for; only its
            # hard limit against decompression bombs stays, and ends in the handler below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                return from_pil(ImageOps.exif_transpose(image), colour)
    except FileNotFoundError:
        raise CliError(f"{path}: no such file") from None
    except PermissionError:
        raise CliError(f"{path}: permission denied") from None
    except UnidentifiedImageError:
        raise CliError(f"{path}: not an image that Pillow can read") from None
    except CliError as error:
        raise CliError(f"{path}: {error}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow's decoders raise all of these on damaged files.
        raise CliError(f"{path}: unreadable image ({first_line(error)})") from None


def parse_colour(name: str) -> tuple[int, int, int]:
    """An RGB colour from a name or `#rrggbb`."""
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError:
        raise CliError(f'unknown colour {name!r}; use a name such as "black" or #rrggbb') from None


def from_pil(image: Image.Image, background: tuple[int, int, int] = (255, 255, 255)) -> Tensor:
    """A Pillow image of any mode as a tensor."""
    if image.mode == "F":
        return _from_float(image)
    if image.mode.startswith("I"):
        return _from_integer(image)

    gray = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        backdrop = Image.new("RGBA", image.size, (*background, 255))
        backdrop.alpha_composite(image.convert("RGBA"))
        image = backdrop
        gray = gray and len(set(background)) == 1
    # A gray image on a gray background has three equal channels, of which "L" keeps the value.
    image = image.convert("RGB")
    if gray:
        image = image.getchannel("R")
    return _tensor(image).div(255.0)


def _from_integer(image: Image.Image) -> Tensor:
    # Mode "I" is 32 bits wide, but is also how 16-bit files in some formats arrive.
    data = _tensor(image.convert("I"))
    low, high = float(data.min()), float(data.max())
    if low < 0 or high > _MAX_16_BIT:
        raise CliError(f"32-bit image with values from {low:g} to {high:g}; convert it to 16 bits")
    return data.div(_MAX_16_BIT)


def _from_float(image: Image.Image) -> Tensor:
    data = _tensor(image)
    low, high = float(data.min()), float(data.max())
    if not (low >= 0.0 and high <= 1.0):  # written so that NaN is refused too
        raise CliError(
            f"floating-point image with values from {low:g} to {high:g}; scale it to 0..1"
        )
    return data


def _tensor(image: Image.Image) -> Tensor:
    """The image's own numbers as [C, H, W] float32."""
    values = torch.from_numpy(np.array(image, dtype=np.float32))
    return values.unsqueeze(0) if values.dim() == 2 else values.permute(2, 0, 1).contiguous()


def to_pil(pixels: Tensor) -> Image.Image:
    """A [C, H, W] tensor, clamped to 0..1, as an 8-bit Pillow image."""
    data = pixels.detach().cpu().clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8)
    values = data[0] if data.shape[0] == 1 else data.permute(1, 2, 0)
    return Image.fromarray(values.contiguous().numpy())


def save_image(image: Image.Image, path: Path) -> None:
    """Write a Pillow image in the format that the name's suffix says."""
    try:
        image.save(path)
    except ValueError:
        raise CliError(
            f"{path}: unknown image format {path.suffix!r}; use a name that ends in .png"
        ) from None
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror or first_line(error)}") from None


def make_folder(path: Path) -> None:
    """Create a folder to write to, with its parents."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CliError(f"cannot create the folder {path}: {error.strerror}") from None


def image_files(folder: Path) -> list[Path]:
    """The files in a folder whose suffix is one of a format that Pillow reads, sorted by name."""
    suffixes = {
        suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN
    }
    try:
        return sorted(
            path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.is_file()
        )
    except OSError as error:
        raise CliError(f"cannot read the folder {folder}: {error.strerror}") from None
