"""What the kernels don't compute on NumPy's memory: other devices, masks, MS-SSIM."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

import fused_ssim
from fused_ssim.cli.errors import CliError, first_line
from fused_ssim.cli.images import Pixels
from fused_ssim.cli.measure import Planes, as_floats
from fused_ssim.cli.settings import Settings

# One pair at a time: torch has threads of its own.
_lock = threading.Lock()


def check_device(settings: Settings) -> None:
    """Refuse a device that is not there."""
    try:
        device = torch.device(settings.device)
    except RuntimeError:
        raise CliError(f"unknown device {settings.device!r}; use cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CliError(f"device {settings.device!r} is not available: torch sees no CUDA GPU")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise CliError(
            f"device {settings.device!r} is not available: {first_line(error)}"
        ) from None


def measure(
    a: Pixels, b: Pixels, mask: Pixels | None, settings: Settings, *, with_map: bool
) -> Planes:
    """As measure.measure(), for images of the same shape and settings that have been checked."""
    with _lock:
        x, y = (batch(image, settings.device) for image in (a, b))
        window: dict[str, Any] = {
            "window": settings.window,
            "window_size": settings.window_size,
            "sigma": settings.sigma,
        }
        weights = None if mask is None else batch(as_floats(mask), settings.device)
        form: dict[str, Any] = {**window, "padding": settings.ssim_padding, "mask": weights}
        ssim = fused_ssim.ssim(x, y, reduction="channel", **form)
        difference = (_floats(x) - _floats(y)).abs()
        mse = _means(difference.square(), weights)
        l1 = None
        if "l1-ssim" in settings.metrics:
            radius = settings.window_size // 2 if settings.ssim_padding == "valid" else 0
            inner = (..., *2 * (slice(radius, -radius or None),))
            l1 = _means(difference[inner], None if weights is None else weights[inner])
        ms_ssim = None
        if "ms-ssim" in settings.metrics:
            padding = settings.padding or "valid"
            ms_ssim = _numbers(
                fused_ssim.ms_ssim(x, y, padding=padding, reduction="channel", **window)
            )
        ssim_map = None
        if with_map:
            ssim_map = fused_ssim.ssim(x, y, reduction="none", **form)[0].cpu().numpy()
        return Planes(ssim=_numbers(ssim), mse=mse, l1=l1, ms_ssim=ms_ssim, ssim_map=ssim_map)


def batch(image: Pixels, device: str) -> Tensor:
    """[H, W, C] as [1, C, H, W]: a copy, since torch takes no memory that it can't write to."""
    return torch.tensor(image).permute(2, 0, 1)[None].to(device)


def _floats(image: Tensor) -> Tensor:
    return image.float() / 255 if image.dtype == torch.uint8 else image


def _means(values: Tensor, weights: Tensor | None) -> list[float]:
    """The mean of each channel, weighted."""
    if weights is None:
        return _numbers(values.double().mean(dim=(-2, -1)))
    total = weights.double().sum()
    if not total > 0:
        raise CliError("the mask is black: no pixel is left to measure")
    return _numbers((values.double() * weights).sum(dim=(-2, -1)) / total)


def _numbers(per_channel: Tensor) -> list[float]:
    numbers: list[float] = per_channel[0].double().tolist()
    return numbers
