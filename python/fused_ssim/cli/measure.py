"""SSIM and PSNR of a pair of images, with the errors that a user can cause in one line."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import fused_ssim
from fused_ssim._parameters import CroppedPadding, Reduction
from fused_ssim.cli.errors import CliError, first_line


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    padding: CroppedPadding = "same"
    window_size: int = 11
    sigma: float = 1.5
    device: str = "cpu"


@dataclass(frozen=True)
class Scores:
    """What was measured."""

    ssim: float
    per_channel: tuple[float, ...]
    psnr_db: float
    ssim_map: Tensor | None  # [C, H', W'] on the CPU, when asked for


def check_settings(settings: Settings) -> None:
    """Refuse settings that no image could be measured with, before any image is read."""
    try:
        device = torch.device(settings.device)
    except RuntimeError:
        raise CliError(f"unknown device {settings.device!r}; use cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CliError(f"device {settings.device!r} is not available: torch sees no CUDA GPU")
    try:
        blank = torch.zeros(1, 1, 1, 1, device=device)
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise CliError(
            f"device {settings.device!r} is not available: {first_line(error)}"
        ) from None
    # One pixel has no whole window, but that says nothing against the settings.
    _ssim(blank, blank, replace(settings, padding="same"), "mean")


def measure(a: Tensor, b: Tensor, settings: Settings, *, with_map: bool = False) -> Scores:
    """Compare two [C, H, W] images in 0..1; a single channel is compared with each of three."""
    (height_a, width_a), (height_b, width_b) = a.shape[-2:], b.shape[-2:]
    if (height_a, width_a) != (height_b, width_b):
        raise CliError(
            f"different sizes: {width_a}x{height_a} and {width_b}x{height_b} pixels; "
            "scale or crop one of them"
        )
    if settings.padding == "valid" and min(height_a, width_a) < settings.window_size:
        raise CliError(
            f"{width_a}x{height_a} pixels is smaller than the window of {settings.window_size}; "
            "use --padding same or a smaller --window-size"
        )
    channels = max(a.shape[0], b.shape[0])
    batch_a, batch_b = (
        image.expand(channels, -1, -1).unsqueeze(0).to(settings.device) for image in (a, b)
    )

    ssim_map = None
    if with_map:
        ssim_map = _ssim(batch_a, batch_b, settings, "none")[0].cpu()
        per_channel = ssim_map.double().mean(dim=(-2, -1))
    else:
        per_channel = _ssim(batch_a, batch_b, settings, "channel")[0].double().cpu()
    return Scores(
        ssim=float(per_channel.mean()),
        per_channel=tuple(per_channel.tolist()),
        psnr_db=psnr_db(a, b),
        ssim_map=ssim_map,
    )


def psnr_db(a: Tensor, b: Tensor) -> float:
    """PSNR for a data range of 1; infinite for identical images."""
    error = float((a - b).double().square().mean())
    return -10.0 * math.log10(error) if error > 0.0 else math.inf


def _ssim(a: Tensor, b: Tensor, settings: Settings, reduction: Reduction) -> Tensor:
    try:
        return fused_ssim.ssim(
            a,
            b,
            window_size=settings.window_size,
            sigma=settings.sigma,
            padding=settings.padding,
            reduction=reduction,
        )
    except (ValueError, NotImplementedError) as error:
        raise CliError(first_line(error)) from None
