"""Ways to spoil a photograph, each with a strength in 0..1 that lowers the PSNR as it grows.

Images are [H, W, C] in 0..1; at strength 0 every distortion returns (nearly) the image itself.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from fused_ssim.cli.images import Pixels, from_pil, to_pil
from fused_ssim.cli.measure import as_floats, psnr_db

_BISECTIONS = 16
_SEED = 1


@dataclass(frozen=True)
class Distortion:
    """A named distortion: `apply(image, strength)`."""

    name: str
    apply: Callable[[Pixels, float], Pixels]


def at_psnr(distortion: Distortion, image: Pixels, target_db: float) -> Pixels:
    """The image distorted as strongly as brings its PSNR closest to `target_db`."""
    weak, strong = 0.0, 1.0
    best, best_gap = image, float("inf")
    for _ in range(_BISECTIONS):
        strength = 0.5 * (weak + strong)
        candidate = distortion.apply(image, strength).clip(0.0, 1.0)
        quality = psnr_db(float(np.square(candidate - image).mean()))
        if abs(quality - target_db) < best_gap:
            best, best_gap = candidate, abs(quality - target_db)
        if quality > target_db:
            weak = strength
        else:
            strong = strength
    return best


def _generator() -> np.random.Generator:
    # The same noise at every strength, or the bisection would chase a moving target.
    return np.random.default_rng(_SEED)


def _of(picture: Image.Image) -> Pixels:
    return as_floats(from_pil(picture))


def _brighter(image: Pixels, strength: float) -> Pixels:
    return image + 0.5 * strength


def _less_contrast(image: Pixels, strength: float) -> Pixels:
    grayer: Pixels = image + strength * (image.mean() - image)
    return grayer


def _gamma(image: Pixels, strength: float) -> Pixels:
    return image ** (1.0 + 2.0 * strength)


def _noise(image: Pixels, strength: float) -> Pixels:
    noisy: Pixels = image + strength * _generator().standard_normal(image.shape, np.float32)
    return noisy


def _salt_and_pepper(image: Pixels, strength: float) -> Pixels:
    draw = _generator().random((*image.shape[:2], 1), np.float32)
    salted = np.where(draw < 0.5 * strength, np.float32(0.0), image)
    return np.where(draw > 1.0 - 0.5 * strength, np.float32(1.0), salted)


def _blur(image: Pixels, strength: float) -> Pixels:
    return _of(to_pil(image).filter(ImageFilter.GaussianBlur(12.0 * strength)))


def _pixelate(image: Pixels, strength: float) -> Pixels:
    picture = to_pil(image)
    factor = 1.0 + 15.0 * strength
    small = (max(1, round(picture.width / factor)), max(1, round(picture.height / factor)))
    coarse = picture.resize(small, Image.Resampling.BOX)
    return _of(coarse.resize(picture.size, Image.Resampling.NEAREST))


def _jpeg(image: Pixels, strength: float) -> Pixels:
    buffer = io.BytesIO()
    to_pil(image).save(buffer, "JPEG", quality=round(95 - 94 * strength))
    with Image.open(buffer) as picture:
        return _of(picture)


DISTORTIONS = (
    Distortion("brighter", _brighter),
    Distortion("contrast", _less_contrast),
    Distortion("gamma", _gamma),
    Distortion("salt-pepper", _salt_and_pepper),
    Distortion("noise", _noise),
    Distortion("blur", _blur),
    Distortion("pixelated", _pixelate),
    Distortion("jpeg", _jpeg),
)
