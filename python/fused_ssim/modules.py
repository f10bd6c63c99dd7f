"""The functions of `fused_ssim.functional` as modules that hold their parameters."""

from __future__ import annotations

import torch

from fused_ssim import _validation, functional


class SSIM(torch.nn.Module):
    """`fused_ssim.ssim` with fixed parameters; see there for shapes, ranges and errors.

    Parameters are checked when the module is made. The module has no state of its own.
    """

    def __init__(
        self,
        *,
        data_range: float = 1.0,
        window_size: int = 11,
        sigma: float = 1.5,
        k1: float = 0.01,
        k2: float = 0.03,
        padding: str = "same",
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        _validation.check_reduction(reduction)
        functional.definition(
            data_range=data_range,
            window_size=window_size,
            sigma=sigma,
            k1=k1,
            k2=k2,
            padding=padding,
        )
        self.data_range = data_range
        self.window_size = window_size
        self.sigma = sigma
        self.k1 = k1
        self.k2 = k2
        self.padding = padding
        self.reduction = reduction

    def forward(self, img1: torch.Tensor, img2: torch.Tensor) -> torch.Tensor:
        """SSIM of two image batches [B, C, H, W]."""
        return functional.ssim(
            img1,
            img2,
            data_range=self.data_range,
            window_size=self.window_size,
            sigma=self.sigma,
            k1=self.k1,
            k2=self.k2,
            padding=self.padding,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        return (
            f"data_range={self.data_range}, window_size={self.window_size}, sigma={self.sigma}, "
            f"k1={self.k1}, k2={self.k2}, padding={self.padding!r}, reduction={self.reduction!r}"
        )


class L1SSIMLoss(torch.nn.Module):
    """`fused_ssim.l1_ssim_loss` with fixed parameters; see there for shapes, ranges and errors."""

    def __init__(self, ssim_weight: float = 0.2, padding: str = "same") -> None:
        super().__init__()
        _validation.check_weight("ssim_weight", ssim_weight)
        _validation.check_padding(padding)
        self.ssim_weight = ssim_weight
        self.padding = padding

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of two image batches [B, C, H, W]: a tensor without dimensions."""
        return functional.l1_ssim_loss(pred, target, self.ssim_weight, self.padding)

    def extra_repr(self) -> str:
        return f"ssim_weight={self.ssim_weight}, padding={self.padding!r}"
