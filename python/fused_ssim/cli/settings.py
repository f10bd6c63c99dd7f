"""How to measure: what the arguments of `compare` say, for all that measures and reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fused_ssim._parameters import Padding

Metric = Literal["ssim", "ms-ssim", "psnr", "l1-ssim"]
METRICS: tuple[Metric, ...] = ("ssim", "ms-ssim", "psnr", "l1-ssim")
KEYS = {"ssim": "ssim", "ms-ssim": "ms_ssim", "psnr": "psnr_db", "l1-ssim": "l1_ssim"}
"""What a metric's number is called in JSON and CSV."""

Channels = Literal["each", "rgb", "y", "y-full"]
CHANNELS: tuple[Channels, ...] = ("each", "rgb", "y", "y-full")


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    metrics: tuple[Metric, ...] = ("ssim", "psnr")
    window: str | tuple[float, ...] = "gaussian"
    """"gaussian", "uniform" or taps."""
    window_size: int = 11
    """Also the number of given taps."""
    sigma: float = 1.5
    padding: Padding | None = None
    """None: "same", and "valid" for MS-SSIM."""
    channels: Channels = "each"
    crop_border: int = 0
    device: str = "cpu"

    @property
    def ssim_padding(self) -> Padding:
        """What lies beyond the border for all but MS-SSIM."""
        return self.padding or "same"

    @property
    def ms_ssim_padding(self) -> Padding:
        """What lies beyond the border for MS-SSIM."""
        return self.padding or "valid"
