"""Pairs of images on which SSIM code goes wrong, or not: noise alone would show nothing.

The plain five-moment code loses its digits where a variance is the small difference of two large
means: in bright, smooth and saturated areas, that is in photographs and renderings, and hardly at
all on uniform noise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from skimage import data
from torch import Tensor
from torch.nn import functional

# Odd, prime-ish, unequal: no kernel's tile divides them.
HEIGHT, WIDTH = 211, 283


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=generator(seed))


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed))


@functools.cache
def photograph(name: str) -> Tensor:
    """A photograph bundled with scikit-image, float32 in [0, 1], [1, channels, height, width]."""
    pixels = torch.from_numpy(getattr(data, name)().copy())
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    return (pixels.permute(2, 0, 1)[None].float() / 255).contiguous()


def crop(name: str, top: int = 0, left: int = 0) -> Tensor:
    return photograph(name)[..., top : top + HEIGHT, left : left + WIDTH].contiguous()


def blurred(image: Tensor) -> Tensor:
    return functional.avg_pool2d(image, 5, stride=1, padding=2, count_include_pad=False)


class Pair(NamedTuple):
    name: str
    kind: str  # "photograph": two photographs that differ visibly; "synthetic": all others
    build: Callable[[], tuple[Tensor, Tensor]]


def _photo_noise() -> tuple[Tensor, Tensor]:
    x = crop("astronaut", 20, 100)
    return x, (x + 0.05 * gaussian(*x.shape, seed=1)).clamp(0, 1)


def _photo_blur() -> tuple[Tensor, Tensor]:
    x = crop("coffee", 60, 150)
    return x, blurred(x)


def _two_photos() -> tuple[Tensor, Tensor]:
    return crop("chelsea", 40, 60), crop("astronaut", 0, 120)


def _photo_darker() -> tuple[Tensor, Tensor]:
    x = crop("chelsea", 20, 20)
    return x, 0.6 * x


def _photo_brighter() -> tuple[Tensor, Tensor]:
    x = crop("rocket", 100, 200)
    return x, (x + 0.25).clamp(0, 1)


def _photo_posterised() -> tuple[Tensor, Tensor]:
    x = crop("coffee", 10, 10)
    return x, (x * 15).round() / 15


def _photo_grey() -> tuple[Tensor, Tensor]:
    x = crop("camera", 50, 50)
    return x, (blurred(x) + 0.02 * gaussian(*x.shape, seed=2)).clamp(0, 1)


def _photo_nearly_equal() -> tuple[Tensor, Tensor]:
    x = crop("astronaut", 20, 100)
    return x, x + 1e-4 * gaussian(*x.shape, seed=3)


def _photo_identical() -> tuple[Tensor, Tensor]:
    x = crop("astronaut", 20, 100)
    return x, x.clone()


def _page() -> tuple[Tensor, Tensor]:
    # A scan: nearly white paper, nearly black letters.
    x = photograph("page")[..., :191, :283].contiguous()
    return x, blurred(x)


def _uniform_noise() -> tuple[Tensor, Tensor]:
    return noise(1, 3, HEIGHT, WIDTH, seed=4), noise(1, 3, HEIGHT, WIDTH, seed=5)


def _nearly_equal_noise() -> tuple[Tensor, Tensor]:
    x = noise(1, 3, HEIGHT, WIDTH, seed=6)
    return x, x + 1e-3 * gaussian(*x.shape, seed=7)


def _bright_low_texture() -> tuple[Tensor, Tensor]:
    shape = (1, 3, HEIGHT, WIDTH)
    return 0.9 + 1e-3 * gaussian(*shape, seed=8), 0.9 + 1e-3 * gaussian(*shape, seed=9)


def _two_halves() -> tuple[Tensor, Tensor]:
    shape = (1, 3, HEIGHT, WIDTH)
    level = torch.full(shape, 0.1)
    level[..., WIDTH // 2 :] = 0.9
    return level + 1e-3 * gaussian(*shape, seed=10), level + 1e-3 * gaussian(*shape, seed=11)


def _ramp() -> tuple[Tensor, Tensor]:
    shape = (1, 3, HEIGHT, WIDTH)
    ramp = torch.linspace(0, 1, WIDTH).expand(shape)
    return ramp + 1e-3 * gaussian(*shape, seed=12), ramp + 1e-3 * gaussian(*shape, seed=13)


def _saturated() -> tuple[Tensor, Tensor]:
    shape = (1, 3, HEIGHT, WIDTH)
    x = (0.5 + 2 * gaussian(*shape, seed=14)).clamp(0, 1)
    y = (0.5 + 2 * gaussian(*shape, seed=15)).clamp(0, 1)
    return x, y


def _blown_out() -> tuple[Tensor, Tensor]:
    # An overexposed rendering: white, with a few darker specks.
    shape = (1, 3, HEIGHT, WIDTH)
    x = torch.where(noise(*shape, seed=16) < 0.01, 0.7, 1.0)
    y = torch.where(noise(*shape, seed=17) < 0.01, 0.7, 1.0)
    return x, y


def _flat_nearly_equal() -> tuple[Tensor, Tensor]:
    x = torch.full((1, 3, HEIGHT, WIDTH), 0.6)
    return x, x + 1e-7


def _flat_equal() -> tuple[Tensor, Tensor]:
    x = torch.full((1, 3, HEIGHT, WIDTH), 0.6)
    return x, x.clone()


def _flat_different() -> tuple[Tensor, Tensor]:
    x = torch.full((1, 3, HEIGHT, WIDTH), 0.2)
    return x, x + 0.5


def _black() -> tuple[Tensor, Tensor]:
    x = torch.zeros(1, 3, HEIGHT, WIDTH)
    return x, x.clone()


def _black_and_white() -> tuple[Tensor, Tensor]:
    return torch.zeros(1, 3, HEIGHT, WIDTH), torch.ones(1, 3, HEIGHT, WIDTH)


def _opposite() -> tuple[Tensor, Tensor]:
    # Checkerboard against its negative: SSIM near -1.
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    x = ((rows // 2 + columns // 2) % 2).float().expand(1, 3, HEIGHT, WIDTH).contiguous()
    return x, 1 - x


PAIRS = [
    Pair("photo_noise", "photograph", _photo_noise),
    Pair("photo_blur", "photograph", _photo_blur),
    Pair("two_photos", "photograph", _two_photos),
    Pair("photo_darker", "photograph", _photo_darker),
    Pair("photo_brighter", "photograph", _photo_brighter),
    Pair("photo_posterised", "photograph", _photo_posterised),
    Pair("photo_grey", "photograph", _photo_grey),
    Pair("page", "photograph", _page),
    Pair("photo_nearly_equal", "synthetic", _photo_nearly_equal),
    Pair("photo_identical", "synthetic", _photo_identical),
    Pair("uniform_noise", "synthetic", _uniform_noise),
    Pair("nearly_equal_noise", "synthetic", _nearly_equal_noise),
    Pair("bright_low_texture", "synthetic", _bright_low_texture),
    Pair("two_halves", "synthetic", _two_halves),
    Pair("ramp", "synthetic", _ramp),
    Pair("saturated", "synthetic", _saturated),
    Pair("blown_out", "synthetic", _blown_out),
    Pair("flat_nearly_equal", "synthetic", _flat_nearly_equal),
    Pair("flat_equal", "synthetic", _flat_equal),
    Pair("flat_different", "synthetic", _flat_different),
    Pair("black", "synthetic", _black),
    Pair("black_and_white", "synthetic", _black_and_white),
    Pair("opposite", "synthetic", _opposite),
]

# Equal images: the gradient is zero, and an error relative to its norm has no meaning.
EQUAL_PAIRS = {"photo_identical", "flat_equal", "black"}

BY_NAME = {pair.name: pair for pair in PAIRS}


@functools.cache
def pair(name: str) -> tuple[Tensor, Tensor]:
    """The two images of a pair, on the CPU, float32. Shared between tests: never write to them."""
    return BY_NAME[name].build()


@functools.lru_cache(maxsize=256)
def noise_pair(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two correlated images: half shared, half their own, so that no term of SSIM is idle."""
    shared = noise(*shape, seed=3 * seed + 100)
    x = 0.5 * shared + 0.5 * noise(*shape, seed=3 * seed + 101)
    y = 0.4 * shared + 0.5 * noise(*shape, seed=3 * seed + 102) + 0.1
    return x, y
