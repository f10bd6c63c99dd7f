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


def axis_taps(window, window_size: int, sigma: float, spatial_dims: int) -> list[list[float]]:
    """The taps along each axis, for every way in which a window can be given."""
    if window == "gaussian":
        return [gaussian_taps(window_size, sigma)] * spatial_dims
    if window == "uniform":
        return [[1 / window_size] * window_size] * spatial_dims
    if torch.is_tensor(window) or not hasattr(window[0], "__len__"):
        return [[float(tap) for tap in window]] * spatial_dims
    return [[float(tap) for tap in taps] for taps in window]


def extended(image: Tensor, taps: Sequence[Sequence[float]], padding: str, fill: float) -> Tensor:
    """The image with what windows see beyond its borders: pixels picked one by one, or `fill`."""
    for axis, of_axis in enumerate(taps, image.ndim - len(taps)):
        radius, size = len(of_axis) // 2, image.shape[axis]
        places = torch.arange(-radius, size + radius, device=image.device)
        if padding == "reflect":
            places = (size - 1) - ((size - 1) - places.abs()).abs()
        if padding in ("replicate", "same"):
            inside = places.clamp(0, size - 1)
            outside = (places != inside).view(-1, *[1] * (image.ndim - 1 - axis))
            image = image.index_select(axis, inside)
            if padding == "same":
                image = torch.where(outside, fill, image)
        elif padding == "reflect":
            image = image.index_select(axis, places)
    return image


def weighted_windows(image: Tensor, taps: Sequence[Sequence[float]]) -> Tensor:
    """The weighted mean of every window in the image: one shifted copy per tap, axis by axis."""
    for axis, of_axis in enumerate(taps, image.ndim - len(taps)):
        size = image.shape[axis] - len(of_axis) + 1
        image = sum(tap * image.narrow(axis, i, size) for i, tap in enumerate(of_axis))
    return image


def window_means(image: Tensor, taps: Sequence[float], padding: str) -> Tensor:
    """The mean under one window for both axes of an image."""
    return weighted_windows(extended(image, [taps, taps], padding, 0.0), [taps, taps])


def ssim_map(
    img1: Tensor,
    img2: Tensor,
    *,
    data_range: float | Tensor = 1.0,
    window="gaussian",
    window_size: int = 11,
    sigma: float = 1.5,
    k1: float = 0.01,
    k2: float = 0.03,
    padding: str = "same",
    unbiased: bool = False,
    component: str = "ssim",
    mask: Tensor | None = None,
    mask_mode: str = "weighted",
    spatial_dims: int = 2,
    rounding: float = 0.0,
) -> Tensor:
    """The map; where the mask is 0 it is 1. `rounding`: what the means are off by, relative to them."""
    x, y = img1.double(), img2.double()
    if torch.is_tensor(data_range):
        data_range = data_range.double().to(x.device).view(-1, *[1] * (spatial_dims + 1))
    c1 = (k1 * data_range) ** 2
    c2 = (k2 * data_range) ** 2
    taps = axis_taps(window, window_size, sigma, spatial_dims)

    if mask is not None and mask_mode == "normalized":
        inside = mask.double().expand_as(x)
        x, y = (torch.where(inside > 0, image, 0.0) for image in (x, y))
        weights = extended(inside, taps, padding, 1.0)

        def means(image: Tensor) -> Tensor:
            total = weighted_windows(weights * extended(image, taps, padding, 0.0), taps)
            return total / weighted_windows(weights, taps)

    else:

        def means(image: Tensor) -> Tensor:
            return weighted_windows(extended(image, taps, padding, 0.0), taps)

    mean_x, mean_y = means(x), means(y)
    if rounding:
        random = torch.Generator().manual_seed(0)
        mean_x, mean_y = (
            mean * (1 + rounding * (2 * torch.rand(mean.shape, generator=random) - 1).to(mean))
            for mean in (mean_x, mean_y)
        )
    samples = math.prod(len(of_axis) for of_axis in taps)
    correction = samples / (samples - 1) if unbiased else 1.0
    var_x = correction * (means(x * x) - mean_x**2)
    var_y = correction * (means(y * y) - mean_y**2)
    cov_xy = correction * (means(x * y) - mean_x * mean_y)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    contrast = (2 * cov_xy + c2) / (var_x + var_y + c2)
    values = {"ssim": luminance * contrast, "luminance": luminance, "contrast": contrast}[component]
    return values if mask is None else torch.where(cropped(mask, taps, padding) > 0, values, 1.0)


def cropped(image: Tensor, taps: Sequence[Sequence[float]], padding: str) -> Tensor:
    """The pixels that have a value in the map."""
    if padding == "valid":
        for axis, of_axis in enumerate(taps, image.ndim - len(taps)):
            image = image.narrow(axis, len(of_axis) // 2, image.shape[axis] - len(of_axis) + 1)
    return image


def reduce_map(values: Tensor, reduction: str) -> Tensor:
    return {
        "none": lambda: values,
        "mean": lambda: values.mean(),
        "sum": lambda: values.sum(),
        "image": lambda: values.flatten(1).mean(1),
        "channel": lambda: values.flatten(2).mean(2),
    }[reduction]()


def reduce_masked(values: Tensor, weights: Tensor, reduction: str, empty: float) -> Tensor:
    """The weighted mean or sum; `empty` for the mean of nothing."""
    weights = weights.double().expand_as(values)
    total = torch.where(weights > 0, weights * values, 0.0)
    if reduction == "sum":
        return total.sum()
    first = {"mean": 0, "image": 1, "channel": 2}[reduction]
    total, count = (part.flatten(first).sum(first) for part in (total, weights))
    return torch.where(count > 0, total / count, empty)


def ssim(img1: Tensor, img2: Tensor, *, reduction: str = "mean", **definition) -> Tensor:
    values = ssim_map(img1, img2, **definition)
    mask = definition.get("mask")
    if mask is None or reduction == "none":
        return reduce_map(values, reduction)
    return reduce_masked(values, crop_to(mask, values), reduction, 1.0)


def crop_to(image: Tensor, values: Tensor) -> Tensor:
    """The middle of the image, of the map's sizes."""
    for axis in range(2 - values.ndim, 0):
        size = values.shape[axis]
        image = image.narrow(axis, (image.shape[axis] - size) // 2, size)
    return image


def l1_ssim_loss(
    pred: Tensor,
    target: Tensor,
    ssim_weight: float = 0.2,
    padding: str = "same",
    *,
    mask: Tensor | None = None,
    **definition,
) -> Tensor:
    x, y = pred.double(), target.double()
    values = ssim_map(x, y, padding=padding, mask=mask, **definition)
    x, y = crop_to(x, values), crop_to(y, values)
    if mask is None:
        # torch.abs has the derivative 0 at 0, as the loss promises.
        l1, mean = (x - y).abs().mean(), values.mean()
    else:
        weights = crop_to(mask, values).expand_as(values)
        x, y = (torch.where(weights > 0, image, 0.0) for image in (x, y))
        l1 = reduce_masked((x - y).abs(), weights, "mean", 0.0)
        mean = reduce_masked(values, weights, "mean", 1.0)
    return (1 - ssim_weight) * l1 + ssim_weight * (1 - mean)


def mse(img1: Tensor, img2: Tensor, **definition) -> Tensor:
    """The mean squared error of each plane, over the pixels that have an SSIM."""
    values = ssim_map(img1, img2, **definition)
    x, y = crop_to(img1.double(), values), crop_to(img2.double(), values)
    return (x - y).square().flatten(2).mean(2)


def halved(image: Tensor, odd_sizes: str) -> Tensor:
    """avg_pool with a kernel of 2 along each axis, padded by 1 where the size is odd, or not."""
    for axis in range(2, image.ndim):
        if odd_sizes == "pad" and image.shape[axis] % 2 == 1:
            image = torch.cat([torch.zeros_like(image.narrow(axis, 0, 1)), image], axis)
        image = image.unfold(axis, 2, 2).mean(-1)
    return image


def ms_ssim(
    img1: Tensor,
    img2: Tensor,
    *,
    weights: Sequence[float] = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333),
    reduction: str = "mean",
    negative: str = "relu",
    odd_sizes: str = "pad",
    spatial_dims: int = 2,
    **definition,
) -> Tensor:
    definition = {"padding": "valid", "spatial_dims": spatial_dims, **definition}
    x, y = img1.double(), img2.double()
    product = 1.0
    for scale, weight in enumerate(weights, 1):
        component = "ssim" if scale == len(weights) else "contrast"
        mean = ssim(x, y, reduction="channel", component=component, **definition)
        if negative == "relu":
            product = product * mean.relu() ** weight
        else:
            t = 0.01
            below = t**weight / (1 + weight * (t - mean) / t)
            product = product * torch.where(mean < t, below, mean.clamp(min=t) ** weight)
        if scale == len(weights):
            break
        x, y = halved(x, odd_sizes), halved(y, odd_sizes)
    return {
        "mean": lambda: product.mean(),
        "sum": lambda: product.sum(),
        "image": lambda: product.mean(1),
        "channel": lambda: product,
    }[reduction]()


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
