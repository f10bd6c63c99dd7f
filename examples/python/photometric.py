"""
Depth: the photometric error of Monodepth2
==========================================

A network predicts depth for a picture; neighbouring pictures are warped to it with that depth, and where the
depth is right they look like it. Each pixel takes the neighbour that fits it best, so that what one of them
does not see (occlusion, the border) does not count.

``python examples/python/photometric.py`` finds the depth of a slanted wall from two neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fused_ssim import ssim

# %%
# The error of each pixel
# -----------------------
# A uniform window of 3 x 3 and mirrored borders: two arguments of :func:`fused_ssim.ssim`.


def photometric_error(prediction: Tensor, target: Tensor, ssim_weight: float = 0.85) -> Tensor:
    """Error of each pixel, [B, 1, H, W], of images [B, C, H, W] in [0, 1].

    w clamp((1 - SSIM) / 2, 0, 1) + (1 - w) |prediction - target|, means over the channels; SSIM with
    a uniform window of 3 x 3 and reflected borders (Godard et al. 2019, equation 2).
    """
    similarity = ssim(
        prediction, target, window="uniform", window_size=3, padding="reflect", reduction="none"
    )
    dissimilarity = ((1 - similarity) / 2).clamp(0, 1).mean(1, keepdim=True)
    difference = (prediction - target).abs().mean(1, keepdim=True)
    return ssim_weight * dissimilarity + (1 - ssim_weight) * difference


def reprojection_loss(warped: list[Tensor], target: Tensor) -> Tensor:
    """The mean over pixels of the smallest error among the warped neighbours."""
    errors = torch.cat([photometric_error(image, target) for image in warped], 1)
    return errors.amin(1).mean()


# %%
# Warping, and a wall
# -------------------


def warp(image: Tensor, disparity: Tensor) -> Tensor:
    """What a camera sees that stands `disparity` [B, H, W] pixels to the right, of [B, C, H, W]."""
    height, width = image.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, dtype=image.dtype, device=image.device),
        torch.arange(width, dtype=image.dtype, device=image.device),
        indexing="ij",
    )
    # Coordinates of the middle of the first and of the last pixel are -1 and 1.
    grid = torch.stack(
        [2 * (x + disparity) / (width - 1) - 1, (2 * y / (height - 1) - 1).expand_as(disparity)], -1
    )
    return functional.grid_sample(image, grid, padding_mode="border", align_corners=True)


def fit_wall(steps: int = 150) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Disparities at the left and right end of a slanted wall: the true ones, and those found.

    The pictures are the target, its neighbour to the right, and that neighbour warped.
    """
    generator = torch.Generator().manual_seed(0)
    texture = torch.rand(1, 3, 24, 40, generator=generator)
    target = functional.interpolate(texture, (96, 160), mode="bicubic", align_corners=True)
    target = target.clamp(0, 1)
    position = torch.linspace(0, 1, 160).expand(1, 96, 160)
    true = torch.tensor([1.0, 4.0])
    # Neighbours to the left and to the right, of which warping by the true disparity makes the target.
    sides = (-1.0, 1.0)
    neighbours = [
        warp(target, -side * (true[0] + (true[1] - true[0]) * position)) for side in sides
    ]
    ends = torch.full([2], 2.5, requires_grad=True)
    optimizer = torch.optim.Adam([ends], lr=0.05)
    for _ in range(steps):
        disparity = ends[0] + (ends[1] - ends[0]) * position
        warped = [
            warp(image, side * disparity) for side, image in zip(sides, neighbours, strict=True)
        ]
        loss = reprojection_loss(warped, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return true, ends.detach(), [target, neighbours[1], warped[1].detach()]


if __name__ == "__main__":
    import matplotlib.pyplot as plt

    wanted, found, (target, neighbour, warped) = fit_wall()
    print(f"disparity at the left and right end: {found.tolist()}, true {wanted.tolist()}")
    figure, axes = plt.subplots(2, 2, figsize=(8, 5), layout="constrained")
    pictures = {
        "target": target,
        "neighbour": neighbour,
        "error of the neighbour as it is": photometric_error(neighbour, target),
        "error of the neighbour, warped": photometric_error(warped, target),
    }
    for axis, (name, picture) in zip(axes.flat, pictures.items(), strict=True):
        axis.imshow(picture[0].permute(1, 2, 0), cmap="magma", vmin=0, vmax=1)
        axis.set_title(name, fontsize=10)
        axis.axis("off")
    plt.show()
