"""
Magnetic resonance: each slice in its own range
===============================================

A scanner that measures a quarter of the frequencies is four times as fast, and its images alias. A network
takes that away. Pixels of magnetic resonance have no common unit, so the SSIM of each slice takes its own
maximum as data range, a tensor with a number for each image. The other arguments are those of fastMRI:
a uniform window of 7 x 7, whole windows, sample covariance.

``python examples/python/mri.py``
"""

from __future__ import annotations

import torch
from torch import Tensor

from fused_ssim import ssim


def similarity(image: Tensor, truth: Tensor) -> Tensor:
    """SSIM of each slice of [B, 1, H, W], as fastMRI computes it."""
    return ssim(
        image,
        truth,
        data_range=truth.amax((1, 2, 3)),
        window="uniform",
        window_size=7,
        padding="valid",
        unbiased=True,
        reduction="image",
    )


# %%
# Phantoms, and what a fast scan sees of them
# -------------------------------------------
# Ellipses inside an ellipse, every slice with another brightness. The lowest frequencies are measured
# all, of the others one line in four, those between are zero.


def phantoms(count: int, side: int, generator: torch.Generator) -> Tensor:
    """[count, 1, side, side]."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")

    def ellipse(centre: Tensor, axes: Tensor, angle: Tensor) -> Tensor:
        dy, dx = y - centre[:, 0, None, None], x - centre[:, 1, None, None]
        cos, sin = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
        u = (cos * dy + sin * dx) / axes[:, 0, None, None]
        v = (cos * dx - sin * dy) / axes[:, 1, None, None]
        return torch.sigmoid(side / 4 * (1 - u.square() - v.square()))

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    head = ellipse(0.1 * uniform(2) - 0.05, 0.75 + 0.15 * uniform(2), 0.3 * uniform())
    image = 0.3 * head
    for _ in range(8):
        part = ellipse(uniform(2) - 0.5, 0.05 + 0.25 * uniform(2), torch.pi * uniform())
        image = image + (0.8 * uniform()[:, None, None] - 0.2) * part * head
    return (image.clamp(min=0) * (0.5 + 1000 * uniform()[:, None, None]))[:, None]


def fast_scan(image: Tensor) -> Tensor:
    """The image that a quarter of the frequencies, and the lowest twelfth, give."""
    width = image.shape[-1]
    column = torch.arange(width) - width // 2
    measured = (column % 4 == 0) | (column.abs() < width // 24)
    frequencies = torch.fft.fftshift(torch.fft.fft2(image), dim=(-2, -1))
    return torch.fft.ifft2(torch.fft.ifftshift(frequencies * measured, dim=(-2, -1))).abs()


# %%
# Training with 1 - SSIM
# ----------------------


class Reconstruction(torch.nn.Module):
    """Takes away from a scan what a few convolutions find to be aliased.

    With one line in four the copies lie a quarter of the width apart, so that each pixel is shown
    with the three that may have been added to it.
    """

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(4, width, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(width, width, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(width, 1, 3, padding=1),
        )

    def forward(self, scan: Tensor) -> Tensor:
        scale = scan.amax((1, 2, 3), keepdim=True)
        quarter = scan.shape[-1] // 4
        copies = torch.cat([scan.roll(i * quarter, -1) for i in range(4)], 1)
        return scan + scale * self.layers(copies / scale)


def train(steps: int, side: int = 96, batch: int = 4) -> Reconstruction:
    """On phantoms that are new at every step."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    network = Reconstruction()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(steps):
        truth = phantoms(batch, side, generator)
        loss = 1 - similarity(network(fast_scan(truth)), truth).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


# %%
# Slices that the network has not seen
# ------------------------------------

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    network = train(250)
    truth = phantoms(3, 96, torch.Generator().manual_seed(7))
    scan = fast_scan(truth)
    with torch.no_grad():
        images = {"fast scan": scan, "network": network(scan), "truth": truth}
    figure, axes = plt.subplots(3, 3, figsize=(8, 8), layout="constrained")
    for row, (name, image) in zip(axes, images.items(), strict=True):
        scores = similarity(image, truth)
        print(f"{name}: SSIM {', '.join(f'{score:.3f}' for score in scores.tolist())}")
        for axis, picture, score, reference in zip(row, image, scores, truth, strict=True):
            axis.imshow(picture[0], cmap="gray", vmin=0, vmax=reference.max())
            axis.set_title(f"{name}, SSIM {score:.3f}", fontsize=10)
            axis.axis("off")
    plt.show()
