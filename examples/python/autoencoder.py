"""
An autoencoder trained with MS-SSIM
===================================

The same small autoencoder, trained on squares of photographs with the mean squared error and with
0.16 L1 + 0.84 (1 - MS-SSIM), the mixture of Zhao, Gallo, Frosio and Kautz ("Loss functions for image
restoration with neural networks", IEEE Transactions on Computational Imaging 3 (1), 2017).

``python examples/python/autoencoder.py``
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from skimage import data
from torch import Tensor
from torch.nn import functional

from fused_ssim import MS_SSIM, ssim

# %%
# The loss
# --------
# Squares of 64 pixels are too small for five scales of whole windows, which take 161. Three scales with
# mirrored borders need no more than 21. At first images disagree, and mean contrasts are negative:
# ``negative="smooth"`` keeps a gradient there.

_ms_ssim = MS_SSIM(weights=(0.2, 0.4, 0.4), padding="reflect", negative="smooth")


def mixture(image: Tensor, truth: Tensor) -> Tensor:
    """0.16 L1 + 0.84 (1 - MS-SSIM)."""
    return 0.16 * functional.l1_loss(image, truth) + 0.84 * (1 - _ms_ssim(image, truth))


# %%
# Network and training
# --------------------


def autoencoder(width: int = 24, code: int = 8) -> torch.nn.Sequential:
    """[B, 3, H, W] to a code of `code` channels and an eighth of each side, and back."""

    def down(before: int, after: int) -> torch.nn.Module:
        return torch.nn.Conv2d(before, after, 4, stride=2, padding=1)

    def up(before: int, after: int) -> torch.nn.Module:
        return torch.nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)

    return torch.nn.Sequential(
        *(down(3, width), torch.nn.ReLU(), down(width, width), torch.nn.ReLU(), down(width, code)),
        *(up(code, width), torch.nn.ReLU(), up(width, width), torch.nn.ReLU(), up(width, 3)),
        torch.nn.Sigmoid(),
    )


def train(
    loss_function: Callable[[Tensor, Tensor], Tensor], steps: int, batch: int = 8
) -> tuple[torch.nn.Module, list[float]]:
    """The trained network, and the loss of each step."""
    torch.manual_seed(0)
    network = autoencoder()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    photographs = [photograph(name) for name in ("astronaut", "coffee", "rocket")]
    history = []
    for step in range(steps):
        truth = squares(photographs[step % len(photographs)], batch)
        loss = loss_function(network(truth), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return network, history


def squares(image: Tensor, count: int, side: int = 64) -> Tensor:
    """[count, 3, side, side], from anywhere in an image [1, 3, H, W]."""
    tops = torch.randint(image.shape[-2] - side, (count,)).tolist()
    lefts = torch.randint(image.shape[-1] - side, (count,)).tolist()
    return torch.cat(
        [
            image[..., top : top + side, left : left + side]
            for top, left in zip(tops, lefts, strict=True)
        ]
    )


def photograph(name: str) -> Tensor:
    """A photograph of scikit-image, [1, 3, H, W] in [0, 1]."""
    return torch.from_numpy(getattr(data, name)().copy()).permute(2, 0, 1)[None] / 255


# %%
# A photograph that it has not seen
# ---------------------------------
# After so few steps the one knows the colours, and has blurred the structure, which is the cheapest way to
# small squares; the other knows the structure, and learns colours by its part of L1.

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    truth = photograph("chelsea")[..., 40:232, 80:336]
    pictures = {"photograph": truth}
    losses = {"mean squared error": functional.mse_loss, "L1 and MS-SSIM": mixture}
    for name, loss_function in losses.items():
        network, _ = train(loss_function, 250)
        with torch.no_grad():
            image = network(truth)
        similarity = ssim(image, truth, padding="valid").item()
        psnr = -10 * functional.mse_loss(image, truth).log10().item()
        print(f"{name}: PSNR {psnr:.2f} dB, SSIM {similarity:.4f}")
        pictures[f"{name}\n{psnr:.2f} dB, SSIM {similarity:.3f}"] = image
    figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
    for axis, (name, picture) in zip(axes, pictures.items(), strict=True):
        axis.imshow(picture[0].permute(1, 2, 0))
        axis.set_title(name, fontsize=10)
        axis.axis("off")
    plt.show()
