"""The functions of `fused_ssim.functional` as modules that hold their parameters.

Parameters are checked when a module is made. They are numbers and names, never tensors, so a module
has no state, and can be copied, pickled and moved as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fused_ssim import _forms, _validation, functional
from fused_ssim._parameters import (
    Component,
    CroppedPadding,
    MaskMode,
    Negative,
    OddSizes,
    Padding,
    Reduced,
    Reduction,
)
from fused_ssim.functional import Window


class _Parameters(torch.nn.Module):
    """A module of arguments, which its representation lists."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        if "window" in arguments and not isinstance(arguments["window"], str):
            arguments["window"] = _validation.given_window(arguments["window"])
        if "data_range" in arguments:
            arguments["data_range"] = _validation.fixed_data_range(arguments["data_range"])
        self._names = tuple(arguments)
        for name, value in arguments.items():
            setattr(self, name, value)

    def _arguments(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._arguments().items())


class SSIM(_Parameters):
    """`fused_ssim.ssim` with fixed parameters; see there for ranges and errors.

    Shape:
        img1, img2: [B, C, W], [B, C, H, W] or [B, C, D, H, W], by spatial_dims; a mask of the spatial
            sizes alone or of the images' rank; the result by reduction: [], [B], [B, C] or the map.

    Example:
        >>> criterion = SSIM(data_range=255, padding="valid")
        >>> loss = 1 - criterion(rendered, photograph)
    """

    def __init__(
        self,
        *,
        data_range: float = 1.0,
        window: Window = "gaussian",
        window_size: int = 11,
        sigma: float = 1.5,
        k1: float = 0.01,
        k2: float = 0.03,
        padding: Padding = "same",
        reduction: Reduction = "mean",
        unbiased: bool = False,
        component: Component = "ssim",
        mask_mode: MaskMode = "weighted",
        spatial_dims: int = 2,
    ) -> None:
        super().__init__(
            data_range=data_range,
            window=window,
            window_size=window_size,
            sigma=sigma,
            k1=k1,
            k2=k2,
            padding=padding,
            reduction=reduction,
            unbiased=unbiased,
            component=component,
            mask_mode=mask_mode,
            spatial_dims=spatial_dims,
        )
        _forms.ssim_form(**self._arguments())

    def forward(self, img1: Tensor, img2: Tensor, mask: Tensor | None = None) -> Tensor:
        """SSIM of two image batches."""
        return functional.ssim(img1, img2, mask=mask, **self._arguments())


class MS_SSIM(_Parameters):  # noqa: N801 (what the peers call it)
    """`fused_ssim.ms_ssim` with fixed parameters; see there for the least sides, ranges and errors.

    Shape:
        img1, img2: [B, C, W], [B, C, H, W] or [B, C, D, H, W], by spatial_dims; the result by
            reduction: [], [B] or [B, C].

    Example:
        >>> criterion = MS_SSIM(data_range=255)
        >>> loss = 1 - criterion(rendered, photograph)
    """

    def __init__(
        self,
        *,
        data_range: float = 1.0,
        window: Window = "gaussian",
        window_size: int = 11,
        sigma: float = 1.5,
        k1: float = 0.01,
        k2: float = 0.03,
        weights: Sequence[float] | None = None,
        padding: Padding = "valid",
        reduction: Reduced = "mean",
        negative: Negative = "relu",
        odd_sizes: OddSizes = "pad",
        spatial_dims: int = 2,
    ) -> None:
        super().__init__(
            data_range=data_range,
            window=window,
            window_size=window_size,
            sigma=sigma,
            k1=k1,
            k2=k2,
            weights=None if weights is None else _validation.scale_weights(weights),
            padding=padding,
            reduction=reduction,
            negative=negative,
            odd_sizes=odd_sizes,
            spatial_dims=spatial_dims,
        )
        _forms.ms_ssim_form(**self._arguments())

    def forward(self, img1: Tensor, img2: Tensor) -> Tensor:
        """MS-SSIM of two image batches."""
        return functional.ms_ssim(img1, img2, **self._arguments())


class L1SSIMLoss(_Parameters):
    """`fused_ssim.l1_ssim_loss` with fixed parameters; see there for ranges and errors.

    Shape:
        pred, target: [B, C, W], [B, C, H, W] or [B, C, D, H, W], by spatial_dims; a mask of the
            spatial sizes alone or of the images' rank; the result [].

    Example:
        >>> criterion = L1SSIMLoss(ssim_weight=0.2)
        >>> criterion(rendered, photograph).backward()
    """

    def __init__(
        self,
        ssim_weight: float = 0.2,
        padding: CroppedPadding = "same",
        *,
        mask_mode: MaskMode = "weighted",
        spatial_dims: int = 2,
    ) -> None:
        super().__init__(
            ssim_weight=_validation.weight("ssim_weight", ssim_weight),
            padding=padding,
            mask_mode=mask_mode,
            spatial_dims=spatial_dims,
        )
        _validation.check_padding(padding)
        _validation.check_mask_mode(mask_mode)
        _validation.spatial_dims(spatial_dims)

    def forward(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of two image batches: a tensor without dimensions."""
        return functional.l1_ssim_loss(pred, target, mask=mask, **self._arguments())
