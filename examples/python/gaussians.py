"""
Gaussian splatting in the plane: L1 and D-SSIM
==============================================

A photograph is fitted by Gaussians, each with a place, a shape, a colour and an opacity, as 3D Gaussian
Splatting fits a scene: render, compare, follow the gradient. The loss is that of the method,
0.8 L1 + 0.2 (1 - SSIM), whose value and gradient :func:`fused_ssim.l1_ssim_loss` computes in one pass.

Less than two minutes on two cores, and no GPU: ``python examples/python/gaussians.py``
"""

from __future__ import annotations

import torch
from skimage import data
from torch import Tensor
from torch.nn import functional

from fused_ssim import l1_ssim_loss, ssim_and_mse

# %%
# A renderer in plain torch
# -------------------------
# Each Gaussian is evaluated on a patch around its centre, which it must not outgrow, and added to the
# pixels there. Colours add up without an order in depth: in the plane nothing is in front.

RADIUS = 7  # of a patch, in pixels


class Splats(torch.nn.Module):
    """`count` Gaussians, anywhere at first, over an image of `height` x `width` pixels."""

    def __init__(self, count: int, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width
        generator = torch.Generator().manual_seed(0)
        place = torch.rand(count, 2, generator=generator) * torch.tensor([height, width])
        self.place = torch.nn.Parameter(place)  # y, x in pixels
        self.scale = torch.nn.Parameter(torch.full((count, 2), -1.0))  # of sigma, see forward()
        self.angle = torch.nn.Parameter(torch.rand(count, generator=generator) * torch.pi)
        self.colour = torch.nn.Parameter(torch.full((count, 3), 0.1))  # times opacity

    def forward(self) -> Tensor:
        """The rendered image, [1, 3, H, W]."""
        sigma = 0.4 + RADIUS / 3 * torch.sigmoid(self.scale)
        offsets = torch.arange(-RADIUS, RADIUS + 1)
        pixels = self.place.detach().round().long()[:, None, None] + torch.stack(
            torch.meshgrid(offsets, offsets, indexing="ij"), -1
        )  # [N, patch, patch, 2]
        d = pixels + 0.0 - self.place[:, None, None]
        cos, sin = (f(self.angle)[:, None, None] for f in (torch.cos, torch.sin))
        along = (cos * d[..., 0] + sin * d[..., 1]) / sigma[:, 0, None, None]
        across = (cos * d[..., 1] - sin * d[..., 0]) / sigma[:, 1, None, None]
        weight = torch.exp(-0.5 * (along.square() + across.square()))
        limits = torch.tensor([self.height, self.width])
        weight = weight * ((pixels >= 0) & (pixels < limits)).all(-1)
        pixels = pixels.clamp(min=0).minimum(limits - 1)
        index = (pixels[..., 0] * self.width + pixels[..., 1]).flatten()
        colours = weight.flatten(1)[..., None] * self.colour[:, None]
        image = torch.zeros(self.height * self.width, 3).index_add(0, index, colours.flatten(0, 1))
        return image.view(1, self.height, self.width, 3).permute(0, 3, 1, 2)


# %%
# Fitting
# -------
# The image is in channels-last order, a view that the kernels read as it is. SSIM and the mean squared
# error, for PSNR, come out of one pass, too.


def fit(
    target: Tensor, count: int, steps: int, ssim_weight: float = 0.2
) -> tuple[list[tuple[int, float, float]], list[Tensor]]:
    """(step, PSNR, SSIM) along the way, and the images then."""
    splats = Splats(count, *target.shape[-2:])
    optimizer = torch.optim.Adam(
        [
            {"params": [splats.place], "lr": 0.3},
            {"params": [splats.scale, splats.angle], "lr": 0.05},
            {"params": [splats.colour], "lr": 0.02},
        ]
    )
    scores, frames = [], []
    for step in range(steps + 1):
        image = splats()
        loss = l1_ssim_loss(image, target, ssim_weight)
        if step % max(1, steps // 20) == 0:
            similarity, error = ssim_and_mse(image.detach().clamp(0, 1), target)
            scores.append((step, -10 * error.mean().log10().item(), similarity.mean().item()))
            frames.append(image.detach()[0].permute(1, 2, 0).clamp(0, 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return scores, frames


def photograph(side: int) -> Tensor:
    """A square of a photograph, [1, 3, side, side] in [0, 1]."""
    pixels = torch.from_numpy(data.astronaut()[:400, 50:450].copy()).permute(2, 0, 1)[None]
    return functional.interpolate(pixels / 255, (side, side), mode="area")


# %%
# What D-SSIM adds
# ----------------
# Once with L1 alone, once with both terms. L1 is content with flat patches where texture is faint; SSIM
# looks at contrast relative to its surroundings, and asks for the texture.

if __name__ == "__main__":
    import matplotlib.pyplot as plt
    from matplotlib.animation import FuncAnimation

    target = photograph(128)
    runs = {"L1": 0.0, "0.8 L1 + 0.2 (1 - SSIM)": 0.2}
    results = {name: fit(target, 900, 200, weight) for name, weight in runs.items()}

    figure, axes = plt.subplot_mosaic(
        [["PSNR"] * 3 + ["SSIM"] * 3, [0, 0, 1, 1, 2, 2]], figsize=(9, 6.6), layout="constrained"
    )
    for name, (scores, _) in results.items():
        steps, psnr, similarity = zip(*scores, strict=True)
        axes["PSNR"].plot(steps, psnr, label=name)
        axes["SSIM"].plot(steps, similarity, label=name)
        print(f"{name}: PSNR {psnr[-1]:.2f} dB, SSIM {similarity[-1]:.4f}")
    axes["PSNR"].set(xlabel="step", ylabel="PSNR (dB)")
    axes["SSIM"].set(xlabel="step", ylabel="SSIM")
    axes["SSIM"].legend(loc="lower right")

    shown = {name: frames[-1] for name, (_, frames) in results.items()}
    shown["photograph"] = target[0].permute(1, 2, 0)
    for i, (name, picture) in enumerate(shown.items()):
        axes[i].imshow(picture)
        axes[i].set_title(name, fontsize=10)
        axes[i].axis("off")
    plt.show()

    # As a film.
    frames = results["0.8 L1 + 0.2 (1 - SSIM)"][1]
    figure, axis = plt.subplots(figsize=(3, 3), layout="constrained")
    axis.axis("off")
    picture = axis.imshow(frames[0])
    animation = FuncAnimation(figure, lambda i: picture.set_data(frames[i]), len(frames))
    plt.show()
