"""What is timed: a step of a kind, on images of a size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
Images = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Library:
    """A name for tables and plots, and the function for each kind that the library has."""

    name: str
    version: str
    functions: dict[str, Loss]
    on: tuple[str, ...] = ("cpu", "cuda")
    pairs_per_call: int = 1  # more for a program, of whose start a pair then bears little
    # Its kernels go to the default stream whatever torch's current one is, so no graph captures them.
    on_default_stream: bool = False


@dataclass(frozen=True)
class Kind:
    """A kind of step, the same computation for every library as far as the library allows."""

    title: str
    trains: bool = False
    axes: int = 2
    dtype: torch.dtype | None = None  # the run's
    # Fused multiply-adds of this package's algorithm, per pixel and channel (docs/algorithm.md).
    multiply_adds: int | None = None

    @property
    def images_moved(self) -> int:
        """The least that goes through memory: two images read, for training a gradient written."""
        return 3 if self.trains else 2


KINDS = {
    "inference": Kind("SSIM, value", multiply_adds=88),
    "training": Kind("SSIM, training step", trains=True, multiply_adds=154),
    "photometric": Kind("0.8 L1 + 0.2 (1 - SSIM), training step", trains=True, multiply_adds=154),
    "masked": Kind("SSIM weighted by a mask, training step", trains=True),
    "ms_ssim": Kind("MS-SSIM, value"),
    "ms_ssim_training": Kind("MS-SSIM, training step", trains=True),
    "uint8": Kind("SSIM of 8-bit images, value", dtype=torch.uint8),
    "uint8_uniform": Kind(
        "SSIM of 8-bit images under a uniform window of 7 x 7, value", dtype=torch.uint8
    ),
    "volume": Kind("SSIM of volumes, value", axes=3),
    "volume_training": Kind("SSIM of volumes, training step", trains=True, axes=3),
}


@dataclass(frozen=True)
class Size:
    """The shape of a batch of images or volumes."""

    shape: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Size:
        """From "1x3x1080x1920"."""
        numbers = tuple(int(part) for part in text.split("x"))
        if len(numbers) not in (4, 5) or min(numbers) < 1:
            raise ValueError(f"expected BxCxHxW or BxCxDxHxW, got {text!r}")
        return cls(numbers)

    @property
    def axes(self) -> int:
        """Of space."""
        return len(self.shape) - 2

    @property
    def values(self) -> int:
        """How many numbers the batch holds."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return "x".join(map(str, self.shape))


def make_images(
    size: Size, count: int, dtype: torch.dtype, device: torch.device, kind: str
) -> Images:
    """Pairs of an image and a noisy copy; the first requires a gradient where the kind trains."""
    generator = torch.Generator(device).manual_seed(0)
    images = []
    for _ in range(count):
        y = torch.rand(size.shape, generator=generator, device=device)
        noise = torch.randn(size.shape, generator=generator, device=device)
        x = (y + 0.1 * noise).clamp(0.0, 1.0)
        if KINDS[kind].dtype == torch.uint8:
            images.append(((255 * x).round().byte(), (255 * y).round().byte()))
        else:
            images.append((x.to(dtype).requires_grad_(KINDS[kind].trains), y.to(dtype)))
    return images


def make_step(library: Library, kind: str, images: Images) -> Callable[[int], Tensor]:
    """step(i): the value, and for training the gradient, of the i-th pair (they go round)."""
    function = library.functions[kind]

    def inference(i: int) -> Tensor:
        x, y = images[i % len(images)]
        with torch.no_grad():
            return function(x, y)

    def training(i: int) -> Tensor:
        x, y = images[i % len(images)]
        x.grad = None
        value = function(x, y)
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach()

    return training if KINDS[kind].trains else inference
