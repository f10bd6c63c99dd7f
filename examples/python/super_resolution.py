"""
Super-resolution: a loss to train with, and the score that papers quote
=======================================================================

A small network doubles the size of a photograph. It is trained with L1 and SSIM, and scored as papers
score: SSIM and PSNR of the luma, in the range 0 to 255, over whole windows, without the border.

``python examples/python/super_resolution.py``
"""

from __future__ import annotations

import torch
from skimage import data
from torch import Tensor
from torch.nn import functional

from fused_ssim import l1_ssim_loss, ssim_and_mse

SCALE = 2
BORDER = SCALE  # pixels that the score leaves out on each side


def luma(image: Tensor) -> Tensor:
    """ITU-R BT.601 luma, 16 to 235, of RGB [B, 3, H, W] in [0, 1]: what papers call the Y channel."""
    weights = torch.tensor([65.481, 128.553, 24.966]).view(1, 3, 1, 1)
    return (image * weights).sum(1, keepdim=True) + 16


def score(image: Tensor, truth: Tensor) -> tuple[float, float]:
    """PSNR in dB and SSIM, on the rounded luma."""
    inner = (..., slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    x, y = (luma(each)[inner].round() for each in (image.clamp(0, 1), truth))
    # "valid" leaves out another 5 pixels: windows that reach beyond the border have no SSIM.
    similarity, _ = ssim_and_mse(x, y, data_range=255, padding="valid")
    psnr = 10 * torch.log10(255**2 / functional.mse_loss(x, y))
    return psnr.item(), similarity.mean().item()


# %%
# Network and training
# --------------------
# What bicubic interpolation misses, by three convolutions. The loss takes RGB in [0, 1] as it is.


class Upscaler(torch.nn.Module):
    """[B, 3, H, W] to [B, 3, 2 H, 2 W]."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, width, 5, padding=2),
            torch.nn.ReLU(),
            torch.nn.Conv2d(width, width, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(width, 3 * SCALE**2, 3, padding=1),
            torch.nn.PixelShuffle(SCALE),
        )
        torch.nn.init.zeros_(self.layers[-2].weight)  # bicubic interpolation, to begin with
        torch.nn.init.zeros_(self.layers[-2].bias)

    def forward(self, small: Tensor) -> Tensor:
        return bicubic(small) + self.layers(small)


def bicubic(small: Tensor) -> Tensor:
    return functional.interpolate(small, scale_factor=SCALE, mode="bicubic")


def shrunk(image: Tensor) -> Tensor:
    return functional.interpolate(image, scale_factor=1 / SCALE, mode="bicubic", antialias=True)


def train(photograph: Tensor, steps: int, side: int = 64) -> Upscaler:
    """On squares of a photograph [1, 3, H, W]."""
    torch.manual_seed(0)
    network = Upscaler()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(steps):
        tops = torch.randint(photograph.shape[-2] - side, (8,)).tolist()
        lefts = torch.randint(photograph.shape[-1] - side, (8,)).tolist()
        truth = torch.cat(
            [
                photograph[..., top : top + side, left : left + side]
                for top, left in zip(tops, lefts, strict=True)
            ]
        )
        loss = l1_ssim_loss(network(shrunk(truth)), truth, ssim_weight=0.2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def photograph(name: str) -> Tensor:
    """A photograph of scikit-image, [1, 3, H, W] in [0, 1], of even size."""
    pixels = torch.from_numpy(getattr(data, name)().copy()).permute(2, 0, 1)[None] / 255
    return pixels[..., : pixels.shape[-2] // 2 * 2, : pixels.shape[-1] // 2 * 2]


# %%
# Another photograph
# ------------------

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    network = train(photograph("astronaut"), 300)
    truth = photograph("chelsea")
    with torch.no_grad():
        images = {"bicubic": bicubic(shrunk(truth)), "network": network(shrunk(truth))}
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
    titles = {"photograph": (truth, "the photograph")}
    for name, image in images.items():
        psnr, similarity = score(image, truth)
        print(f"{name}: PSNR {psnr:.2f} dB, SSIM {similarity:.4f}")
        titles[name] = (image, f"{name}: {psnr:.2f} dB, SSIM {similarity:.4f}")
    for axis, (image, title) in zip(axes, titles.values(), strict=True):
        axis.imshow(image[0, :, 70:160, 110:220].permute(1, 2, 0).clamp(0, 1))
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    plt.show()
