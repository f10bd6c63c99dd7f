"""
Volumes: one scan is moved onto another
=======================================

Two volumes show the same body, turned and shifted, the second one with noise. The rotation and shift
between them are those at which the volumes look most alike under an SSIM with a window in all three axes,
found by its gradient. A mask leaves out what the turned volume does not cover.

``python examples/python/volumes.py``
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fused_ssim import ssim


def body(side: int) -> Tensor:
    """A ball of smooth texture, [1, 1, side, side, side] in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 1, side // 4, side // 4, side // 4, generator=generator)
    texture = functional.interpolate(noise, (side,) * 3, mode="trilinear", align_corners=True)
    axis = torch.linspace(-1, 1, side)
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    return texture * torch.sigmoid(20 * (0.8 - radius))


def moved(volume: Tensor, motion: Tensor) -> Tensor:
    """The volume turned by three angles and shifted by three numbers, all in `motion`.

    Angles are in radians, shifts in halves of the side.
    """
    planes = torch.zeros(3, 3, 3)
    for plane, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
        planes[plane, i, j], planes[plane, j, i] = -1, 1
    rotation = torch.linalg.matrix_exp((motion[:3, None, None] * planes).sum(0))
    affine = torch.cat([rotation, motion[3:, None]], 1)[None]
    grid = functional.affine_grid(affine, list(volume.shape), align_corners=True)
    return functional.grid_sample(volume, grid, align_corners=True)


# %%
# Following the gradient
# ----------------------


def register(volume: Tensor, reference: Tensor, steps: int) -> tuple[Tensor, list[float]]:
    """The motion that makes `volume` look like `reference`, and the SSIM of each step."""
    motion = torch.zeros(6, requires_grad=True)
    optimizer = torch.optim.Adam([motion], lr=0.02)
    covered = torch.ones_like(volume)
    history = []
    for _ in range(steps):
        with torch.no_grad():
            mask = moved(covered, motion)
        similarity = ssim(
            moved(volume, motion), reference, window_size=7, mask=mask, spatial_dims=3
        )
        optimizer.zero_grad()
        (1 - similarity).backward()
        optimizer.step()
        history.append(similarity.item())
    return motion.detach(), history


def noisy_pair(side: int) -> tuple[Tensor, Tensor, Tensor]:
    """A volume, what a second scan shows of it, and the motion between the two."""
    motion = torch.tensor([0.20, -0.15, 0.10, 0.08, -0.06, 0.05])
    volume = body(side)
    generator = torch.Generator().manual_seed(1)
    noise = 0.05 * torch.randn(volume.shape, generator=generator)
    return volume, (moved(volume, motion) + noise).clamp(0, 1), motion


# %%
# Before and after
# ----------------

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    volume, reference, motion = noisy_pair(48)
    found, history = register(volume, reference, 60)
    print("true motion:", [round(number, 3) for number in motion.tolist()])
    print("found:      ", [round(number, 3) for number in found.tolist()])

    figure, axes = plt.subplots(1, 4, figsize=(11, 3), layout="constrained")
    axes[0].plot(history)
    axes[0].set(xlabel="step", ylabel="SSIM")
    pictures = {
        "reference": reference,
        "difference before": (volume - reference).abs(),
        "difference after": (moved(volume, found) - reference).abs(),
    }
    for axis, (name, picture) in zip(axes[1:], pictures.items(), strict=True):
        axis.imshow(picture[0, 0, 24], cmap="gray", vmin=0, vmax=1 if name == "reference" else 0.5)
        axis.set_title(name, fontsize=10)
        axis.axis("off")
    plt.show()
