"""Ways to spoil a photograph, each with a strength in 0..1 that lowers the PSNR as it grows.

Images are [C, H, W] in 0..1; at strength 0 every distortion returns (nearly) the image itself.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image, ImageFilter
from torch import Tensor

from fused_ssim.cli.images import from_pil, to_pil
from fused_ssim.cli.measure import psnr_db

_BISECTIONS = 16
_SEED = 1


@dataclass(frozen=True)
class Distortion:
    """A named distortion: `apply(image, strength)`."""

    name: str
    apply: Callable[[Tensor, float], Tensor]


def at_psnr(distortion: Distortion, image: Tensor, target_db: float) -> Tensor:
    """The image distorted as strongly as brings its PSNR closest to `target_db`."""
    weak, strong = 0.0, 1.0
    best, best_gap = image, float("inf")
    for _ in range(_BISECTIONS):
        strength = 0.5 * (weak + strong)
        candidate = distortion.apply(image, strength).clamp(0.0, 1.0)
        quality = psnr_db(candidate, image)
        if abs(quality - target_db) < best_gap:
            best, best_gap = candidate, abs(quality - target_db)
        if quality > target_db:
            weak = strength
        else:
            strong = strength
    return best


def _generator() -> torch.Generator:
    # The same noise at every strength, or the bisection would chase a moving target.
    return torch.Generator().manual_seed(_SEED)


def _brighter(image: Tensor, strength: float) -> Tensor:
    return image + 0.5 * strength


def _less_contrast(image: Tensor, strength: float) -> Tensor:
    return torch.lerp(image, image.mean().expand_as(image), strength)


def _gamma(image: Tensor, strength: float) -> Tensor:
    return image.pow(1.0 + 2.0 * strength)


def _noise(image: Tensor, strength: float) -> Tensor:
    return image + strength * torch.randn(image.shape, generator=_generator())


def _salt_and_pepper(image: Tensor, strength: float) -> Tensor:
    draw = torch.rand(image.shape[-2:], generator=_generator()).expand_as(image)
    salted = torch.where(draw < 0.5 * strength, torch.zeros_like(image), image)
    return torch.where(draw > 1.0 - 0.5 * strength, torch.ones_like(image), salted)


def _blur(image: Tensor, strength: float) -> Tensor:
    return from_pil(to_pil(image).filter(ImageFilter.GaussianBlur(12.0 * strength)))


def _pixelate(image: Tensor, strength: float) -> Tensor:
    picture = to_pil(image)
    factor = 1.0 + 15.0 * strength
    small = (max(1, round(picture.width / factor)), max(1, round(picture.height / factor)))
    coarse = picture.resize(small, Image.Resampling.BOX)
    return from_pil(coarse.resize(picture.size, Image.Resampling.NEAREST))


def _jpeg(image: Tensor, strength: float) -> Tensor:
    buffer = io.BytesIO()
    to_pil(image).save(buffer, "JPEG", quality=round(95 - 94 * strength))
    with Image.open(buffer) as picture:
        return from_pil(picture)


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
