"""SSIM and losses built on it, as functions.

SSIM is that of Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to
structural similarity", IEEE Transactions on Image Processing 13 (4), 2004:

    SSIM = (2 mean_x mean_y + C1) (2 cov_xy + C2) / ((mean_x^2 + mean_y^2 + C1) (var_x + var_y + C2))

with means, variances (biased) and covariance under a Gaussian window, C1 = (k1 data_range)^2 and
C2 = (k2 data_range)^2. Each channel is treated alone.
"""

from __future__ import annotations

from typing import Any

import torch

from fused_ssim import _ops, _validation

allowed_padding = list(_validation.PADDINGS)

_WINDOW_SIZE = 11
_SIGMA = 1.5
_K1 = 0.01
_K2 = 0.03


def definition(
    *,
    data_range: float = 1.0,
    window_size: int = _WINDOW_SIZE,
    sigma: float = _SIGMA,
    k1: float = _K1,
    k2: float = _K2,
    padding: str = "same",
) -> _ops.Definition:
    """The checked definition of SSIM that the operators take. Not part of the public API."""
    _validation.check_positive("data_range", data_range, "it is 1 for images in [0, 1]")
    _validation.check_window_size(window_size)
    _validation.check_positive("sigma", sigma, "the standard is 1.5 pixels")
    _validation.check_positive("k1", k1, "the standard is 0.01")
    _validation.check_positive("k2", k2, "the standard is 0.03")
    _validation.check_stabilizer("k1", k1, data_range)
    _validation.check_stabilizer("k2", k2, data_range)
    _validation.check_padding(padding)
    c1 = (k1 * data_range) ** 2
    c2 = (k2 * data_range) ** 2
    return _ops.Definition(c1, c2, window_size, float(sigma), padding == "valid")


_STANDARD = {padding: definition(padding=padding) for padding in allowed_padding}


def _images(
    img1: Any, img2: Any, d: _ops.Definition, names: tuple[str, str] = ("img1", "img2")
) -> tuple[torch.Tensor, torch.Tensor]:
    """The images, checked; under autocast, of mixed precision brought to float32 as losses are."""
    if (
        isinstance(img1, torch.Tensor)
        and isinstance(img2, torch.Tensor)
        and img1.dtype != img2.dtype
        and {img1.dtype, img2.dtype} <= {torch.float16, torch.bfloat16, torch.float32}
        and _validation.is_on_known_device(img1)
        and torch.is_autocast_enabled(img1.device.type)
    ):
        img1, img2 = img1.float(), img2.float()
    _validation.check_images(img1, img2, names)
    _validation.check_window_fits(img1, d.window_size, "valid" if d.valid else "same")
    return img1, img2


def fused_ssim(
    img1: torch.Tensor, img2: torch.Tensor, padding: str = "same", train: bool = True
) -> torch.Tensor:
    """Mean SSIM of two image batches in [0, 1]: the drop-in for the original fused-ssim.

    11x11 Gaussian window of sigma 1.5, k1 = 0.01, k2 = 0.03, data range 1.

    Args:
        img1: images [B, C, H, W]; float16, bfloat16, float32 or float64, any strides, values in
            [0, 1] (not checked).
        img2: images of the same shape, dtype and device.
        padding: "same" pads with zeros and averages over all pixels; "valid" averages over the
            pixels whose window lies in the image, and needs H and W of at least 11.
        train: whether a gradient will be wanted. It is computed in the same pass, for each image
            that requires it; with False, or under torch.no_grad(), only the value is.

    Returns:
        A tensor without dimensions, in [-1, 1]; 1 where the images are identical. float64 for
        float64 images, else float32.

    Raises:
        ValueError: wrong rank, different shapes or devices, empty images, unknown padding (that
            error is an AssertionError too), or images smaller than the window with "valid".
        TypeError: not tensors, not dense, other or different dtypes.
        NotImplementedError: a device that is neither CPU nor CUDA, or one this build can't serve.
    """
    _validation.check_padding(padding)
    _validation.check_flag("train", train)
    d = _STANDARD[padding]
    img1, img2 = _images(img1, img2, d)
    return _ops.ssim(img1, img2, d, "mean", train=train)


def ssim(
    img1: torch.Tensor,
    img2: torch.Tensor,
    *,
    data_range: float = 1.0,
    window_size: int = _WINDOW_SIZE,
    sigma: float = _SIGMA,
    k1: float = _K1,
    k2: float = _K2,
    padding: str = "same",
    reduction: str = "mean",
) -> torch.Tensor:
    """SSIM of two image batches, differentiable in both.

    Args:
        img1: images [B, C, H, W]; float16, bfloat16, float32 or float64, any strides.
        img2: images of the same shape, dtype and device.
        data_range: difference between the largest and the smallest possible pixel value; positive.
        window_size: odd number of taps, 3 to 33. 11 is the fast case.
        sigma: standard deviation of the Gaussian window in pixels; positive.
        k1: stabilizes the luminance term, C1 = (k1 data_range)^2; positive.
        k2: stabilizes the contrast term, C2 = (k2 data_range)^2; positive.
        padding: "same" pads with zeros and gives a value for every pixel; "valid" gives one only
            where the whole window lies in the image, and needs H and W of at least window_size.
        reduction: "mean" or "sum" over everything ([]), "image" means ([B]), "channel" means
            ([B, C]), or "none", the map [B, C, H', W'] (H' = H - window_size + 1 with "valid").

    Returns:
        SSIM in [-1, 1] (for "sum" its sum); float64 for float64 images, else float32.

    Raises:
        ValueError, TypeError, NotImplementedError: as `fused_ssim`, and for a parameter out of the
            ranges above.
    """
    _validation.check_reduction(reduction)
    d = definition(
        data_range=data_range, window_size=window_size, sigma=sigma, k1=k1, k2=k2, padding=padding
    )
    img1, img2 = _images(img1, img2, d)
    if reduction == "none":
        return _ops.ssim_map(img1, img2, d)
    return _ops.ssim(img1, img2, d, reduction)


def l1_ssim_loss(
    pred: torch.Tensor, target: torch.Tensor, ssim_weight: float = 0.2, padding: str = "same"
) -> torch.Tensor:
    """(1 - w) mean |pred - target| + w (1 - SSIM): the photometric loss of 3D Gaussian Splatting.

    Value and gradients come out of one pass. SSIM is that of `fused_ssim`; the formula of the loss
    is that of Kerbl, Kopanas, Leimkuehler, Drettakis, "3D Gaussian Splatting for Real-Time Radiance
    Field Rendering", ACM TOG 42 (4), 2023. The derivative of |pred - target| at 0 is 0.

    Args:
        pred: images [B, C, H, W] in [0, 1]; float16, bfloat16, float32 or float64, any strides.
        target: images of the same shape, dtype and device.
        ssim_weight: w, from 0 to 1.
        padding: as in `fused_ssim`; with "valid" L1 is averaged over the same pixels as SSIM.

    Returns:
        A tensor without dimensions; float64 for float64 images, else float32.

    Raises:
        ValueError, TypeError, NotImplementedError: as `fused_ssim`.
    """
    _validation.check_padding(padding)
    _validation.check_weight("ssim_weight", ssim_weight)
    d = _STANDARD[padding]
    pred, target = _images(pred, target, d, ("pred", "target"))
    w = float(ssim_weight)
    return _ops.ssim(pred, target, d, "mean", ssim_weight=-w, l1_weight=1.0 - w, offset=w)


fused_l1_ssim_loss = l1_ssim_loss


class FusedSSIMMap:
    """The SSIM map under the name and signature of the original package."""

    @staticmethod
    def apply(
        C1: float,  # noqa: N803 (the original's names)
        C2: float,  # noqa: N803
        img1: torch.Tensor,
        img2: torch.Tensor,
        padding: str = "same",
        train: bool = True,
        spatial_dims: int = 2,
    ) -> torch.Tensor:
        """The SSIM map of two image batches under an 11x11 Gaussian window of sigma 1.5.

        Args:
            C1: (k1 data_range)^2, positive; 0.01**2 is the standard for images in [0, 1].
            C2: (k2 data_range)^2, positive; 0.03**2 is the standard.
            img1: images [B, C, H, W]; float16, bfloat16, float32 or float64, any strides.
            img2: images of the same shape, dtype and device.
            padding: "same" for a map of the images' size, "valid" for one cropped by 5 pixels at
                each border.
            train: with False a backward pass is refused.
            spatial_dims: 2; volumes (3) are not implemented yet.

        Returns:
            [B, C, H', W']; float64 for float64 images, else float32.

        Raises:
            ValueError, TypeError, NotImplementedError: as `fused_ssim`.
        """
        _validation.check_positive("C1", C1, "it is 0.01**2 for images in [0, 1]")
        _validation.check_positive("C2", C2, "it is 0.03**2 for images in [0, 1]")
        _validation.check_stabilizer("C1", C1**0.5, 1.0)
        _validation.check_stabilizer("C2", C2**0.5, 1.0)
        _validation.check_padding(padding)
        _validation.check_flag("train", train)
        if spatial_dims == 3:
            raise NotImplementedError(
                "spatial_dims: expected 2, got 3; volumes are not implemented yet, pass slices as "
                "a batch"
            )
        if spatial_dims != 2:
            raise ValueError(
                f"spatial_dims: expected 2, got {spatial_dims!r}; use 2 for images [B, C, H, W]"
            )
        d = _STANDARD[padding]._replace(c1=float(C1), c2=float(C2))
        img1, img2 = _images(img1, img2, d)
        if train:
            return _ops.ssim_map(img1, img2, d)
        return _ops.without_gradient(_ops.ssim_map(img1.detach(), img2.detach(), d), img1, img2)
