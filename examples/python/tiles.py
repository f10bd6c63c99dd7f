"""
Tiles: an image that nobody holds as a whole
============================================

Each process has a tile of the image, and tiles share no pixels. A window reaches 5 pixels beyond its centre.
Where each tile is rendered with that margin around it, sums with ``padding="valid"`` over the tiles add up to
that over the whole image, and so do their gradients, so that processes exchange one number, or none where each
goes on with its own sum.

``python examples/python/tiles.py``
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fused_ssim import ssim

MARGIN = 5  # of the window of 11 taps


def spans(size: int, tiles: int) -> Iterator[slice]:
    """The pixels along one axis that each tile needs, those of its windows."""
    centres = size - 2 * MARGIN
    for tile in range(tiles):
        yield slice(centres * tile // tiles, centres * (tile + 1) // tiles + 2 * MARGIN)


def share(rendered: Tensor, photograph: Tensor, whole: torch.Size) -> Tensor:
    """What a tile adds to the mean SSIM of a whole image of this shape."""
    batch, channels, height, width = whole
    count = batch * channels * (height - 2 * MARGIN) * (width - 2 * MARGIN)
    return ssim(rendered, photograph, padding="valid", reduction="sum") / count


def main() -> None:
    torch.manual_seed(0)
    rendered, photograph = torch.rand(1, 3, 270, 480), torch.rand(1, 3, 270, 480)
    total = 0.0
    for rows in spans(270, 2):
        for columns in spans(480, 3):  # in a program with six processes, one turn each
            tile = (..., rows, columns)
            total += share(rendered[tile], photograph[tile], rendered.shape).item()
    print(f"tiles: {total:.6f}")
    print(f"whole: {ssim(rendered, photograph, padding='valid').item():.6f}")


if __name__ == "__main__":
    main()
