"""SSIM written down a second time: slow, obvious, float64 throughout.

The formula is the textbook one (five filtered maps, Wang et al. 2004), not the one that the kernels
use, the window is computed here, and gradients come from autograd through the formula. So a mistake
in `src/core` has no twin here that would hide it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional


def gaussian_taps(size: int = 11, sigma: float = 1.5) -> list[float]:
    centre = size // 2
    weights = [math.exp(-(((i - centre) / sigma) ** 2) / 2) for i in range(size)]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def window_means(image: Tensor, taps: Sequence[float], padding: str) -> Tensor:
    """The weighted mean of every window: one shifted copy of the image per tap, rows then columns."""
    radius = len(taps) // 2
    if padding == "same":
        image = functional.pad(image, (radius, radius, radius, radius))
    height = image.shape[-2] - 2 * radius
    width = image.shape[-1] - 2 * radius
    rows = sum(tap * image[..., i : i + height, :] for i, tap in enumerate(taps))
    return sum(tap * rows[..., :, i : i + width] for i, tap in enumerate(taps))


def ssim_map(
    img1: Tensor,
    img2: Tensor,
    *,
    data_range: float = 1.0,
    window_size: int = 11,
    sigma: float = 1.5,
    k1: float = 0.01,
    k2: float = 0.03,
    padding: str = "same",
) -> Tensor:
    x, y = img1.double(), img2.double()
    c1 = (k1 * data_range) ** 2
    c2 = (k2 * data_range) ** 2
    taps = gaussian_taps(window_size, sigma)
    mean_x = window_means(x, taps, padding)
    mean_y = window_means(y, taps, padding)
    var_x = window_means(x * x, taps, padding) - mean_x**2
    var_y = window_means(y * y, taps, padding) - mean_y**2
    cov_xy = window_means(x * y, taps, padding) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    contrast = (2 * cov_xy + c2) / (var_x + var_y + c2)
    return luminance * contrast


def reduce_map(values: Tensor, reduction: str) -> Tensor:
    return {
        "none": lambda: values,
        "mean": lambda: values.mean(),
        "sum": lambda: values.sum(),
        "image": lambda: values.mean(dim=(1, 2, 3)),
        "channel": lambda: values.mean(dim=(2, 3)),
    }[reduction]()


def ssim(img1: Tensor, img2: Tensor, *, reduction: str = "mean", **definition) -> Tensor:
    return reduce_map(ssim_map(img1, img2, **definition), reduction)


def l1_ssim_loss(
    pred: Tensor, target: Tensor, ssim_weight: float = 0.2, padding: str = "same"
) -> Tensor:
    x, y = pred.double(), target.double()
    crop = 5 if padding == "valid" else 0
    rows = slice(crop, x.shape[-2] - crop)
    columns = slice(crop, x.shape[-1] - crop)
    # torch.abs has the derivative 0 at 0, as the loss promises.
    l1 = (x - y)[..., rows, columns].abs().mean()
    return (1 - ssim_weight) * l1 + ssim_weight * (1 - ssim(x, y, padding=padding))


def gradients(
    function: Callable[[Tensor, Tensor], Tensor],
    img1: Tensor,
    img2: Tensor,
    upstream: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """d(sum(upstream * function)) by both images, float64, on the images' device."""
    x = img1.detach().double().requires_grad_()
    y = img2.detach().double().requires_grad_()
    value = function(x, y)
    if upstream is not None:
        upstream = upstream.detach().double()
    elif value.ndim:
        upstream = torch.ones_like(value)
    by_x, by_y = torch.autograd.grad(value, (x, y), upstream)
    return by_x, by_y


def plain_float32_map(img1: Tensor, img2: Tensor, padding: str = "same") -> Tensor:
    """What everybody writes: five depthwise float32 convolutions. The yardstick, not the truth."""
    channels = img1.shape[1]
    taps = torch.tensor(gaussian_taps(), dtype=torch.float32)
    window = (taps[:, None] * taps[None, :]).expand(channels, 1, 11, 11).contiguous()
    pad = 5 if padding == "same" else 0

    def means(image: Tensor) -> Tensor:
        return functional.conv2d(image, window, padding=pad, groups=channels)

    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y = means(img1), means(img2)
    var_x = means(img1 * img1) - mean_x * mean_x
    var_y = means(img2 * img2) - mean_y * mean_y
    cov_xy = means(img1 * img2) - mean_x * mean_y
    return ((2 * mean_x * mean_y + c1) * (2 * cov_xy + c2)) / (
        (mean_x * mean_x + mean_y * mean_y + c1) * (var_x + var_y + c2)
    )
