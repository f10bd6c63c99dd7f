"""What is timed: a step of a kind, on images of a size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from peers import Library
from torch import Tensor

# Per pixel and channel: bytes in units of the element (both images read, and for training one
# gradient written), and the fused multiply-adds of the algorithm (docs/algorithm.md).
ELEMENTS_MOVED = {"inference": 2, "training": 3, "photometric": 3}
MULTIPLY_ADDS = {"inference": 88, "training": 154, "photometric": 154}

Images = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Size:
    """The shape of an image batch."""

    batch: int
    channels: int
    height: int
    width: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """From "1x3x1080x1920"."""
        numbers = [int(part) for part in text.split("x")]
        if len(numbers) != 4 or min(numbers) < 1:
            raise ValueError(f"expected BxCxHxW, got {text!r}")
        return cls(*numbers)

    @property
    def values(self) -> int:
        """How many numbers the batch holds."""
        return self.batch * self.channels * self.height * self.width

    def __str__(self) -> str:
        return f"{self.batch}x{self.channels}x{self.height}x{self.width}"


def make_images(
    size: Size, count: int, dtype: torch.dtype, device: torch.device, kind: str
) -> Images:
    """Pairs of an image and a noisy copy; the first requires a gradient unless for inference."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (size.batch, size.channels, size.height, size.width)
    images = []
    for _ in range(count):
        y = torch.rand(shape, generator=generator, device=device)
        x = (y + 0.1 * torch.randn(shape, generator=generator, device=device)).clamp(0.0, 1.0)
        images.append((x.to(dtype).requires_grad_(kind != "inference"), y.to(dtype)))
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

    return inference if kind == "inference" else training
