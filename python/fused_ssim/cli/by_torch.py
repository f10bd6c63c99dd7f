"""What the kernels don't compute on NumPy's memory: other devices, masks, MS-SSIM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fused_ssim
from fused_ssim._parameters import SCALE_WEIGHTS, Padding
from fused_ssim._scales import least_size
from fused_ssim.cli.errors import CliError
from fused_ssim.cli.images import Pixels
from fused_ssim.cli.measure import Planes, Prepared, as_floats
from fused_ssim.cli.settings import Settings


def measure(pairs: Sequence[Prepared], settings: Settings, *, with_map: bool) -> list[Planes]:
    """As measure.measure(), for pairs that share a shape, dtypes and the mask."""
    device = torch.device(settings.device)
    try:
        x = batch([pair.a for pair in pairs], device)
        y = batch([pair.b for pair in pairs], device)
        mask = pairs[0].mask
        weights = None if mask is None else batch([as_floats(mask)], device)
        return _measure(x, y, weights, settings, with_map=with_map)
    except torch.cuda.OutOfMemoryError:
        raise CliError(
            f"not enough memory on {settings.device} for images of this size; use --device cpu"
        ) from None


def batch(images: Sequence[Pixels], device: torch.device | str) -> Tensor:
    """Images [H, W, C] as [B, C, H, W], by way of pinned memory where there is a GPU to copy to."""
    first = images[0]
    on_gpu = torch.device(device).type == "cuda"
    host = torch.empty(
        (len(images), *first.shape),
        dtype=torch.uint8 if first.dtype == np.uint8 else torch.float32,
        pin_memory=on_gpu,
    )
    np.stack(images, out=host.numpy())
    return host.to(device, non_blocking=on_gpu).permute(0, 3, 1, 2)


def _measure(
    x: Tensor, y: Tensor, weights: Tensor | None, settings: Settings, *, with_map: bool
) -> list[Planes]:
    window: dict[str, Any] = {
        "window": settings.window,
        "window_size": settings.window_size,
        "sigma": settings.sigma,
    }
    form: dict[str, Any] = {**window, "padding": settings.ssim_padding}
    valid = settings.ssim_padding == "valid"
    radius = settings.window_size // 2 if valid else 0
    inner = (..., *2 * (slice(radius, -radius or None),))
    if weights is None and not valid:
        values, errors = fused_ssim.ssim_and_mse(x, y, **form)
        mse = errors.double().tolist()
    else:
        # The one pass knows no mask, and sees the pixels with a whole window alone; PSNR is of all.
        form["mask"] = weights
        values = fused_ssim.ssim(x, y, reduction="channel", **form)
        if weights is not None and not weights[inner].sum() > 0:
            raise CliError("the mask is black where windows are: no pixel is left to measure")
        mse = _means((_floats(x) - _floats(y)).square(), weights)
    ssim = values.double().tolist()
    count = len(ssim)
    l1: list[Any] = [None] * count
    if "l1-ssim" in settings.metrics:
        difference = (_floats(x[inner]) - _floats(y[inner])).abs()
        l1 = _means(difference, None if weights is None else weights[inner])
    ms_ssim: list[Any] = [None] * count
    if "ms-ssim" in settings.metrics:
        padding = settings.ms_ssim_padding
        _check_scales_fit(x, settings.window_size, padding)
        scales = fused_ssim.ms_ssim(x, y, padding=padding, reduction="channel", **window)
        ms_ssim = scales.double().tolist()
    maps: list[Any] = [None] * count
    if with_map:
        maps = list(fused_ssim.ssim(x, y, reduction="none", **form).cpu().numpy())
    return [Planes(*numbers) for numbers in zip(ssim, mse, l1, ms_ssim, maps, strict=True)]


def _check_scales_fit(images: Tensor, window_size: int, padding: Padding) -> None:
    least = least_size(window_size, padding, len(SCALE_WEIGHTS), "pad")
    height, width = images.shape[2:]
    if min(height, width) < least:
        raise CliError(
            f"{width}x{height} pixels is smaller than the {least} that the five scales of ms-ssim "
            "need; use --padding same, a smaller --window-size, or leave ms-ssim out of --metric"
        )


def _floats(image: Tensor) -> Tensor:
    return image.float() / 255 if image.dtype == torch.uint8 else image


def _means(values: Tensor, weights: Tensor | None) -> list[list[float]]:
    """The mean of each channel of each image, weighted."""
    if weights is None:
        means: list[list[float]] = values.mean(dim=(-2, -1), dtype=torch.float64).tolist()
        return means
    total = weights.double().sum()
    means = ((values * weights).sum(dim=(-2, -1), dtype=torch.float64) / total).tolist()
    return means
