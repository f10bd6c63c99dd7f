"""SSIM and losses built on it, as functions.

SSIM is that of Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to
structural similarity", IEEE Transactions on Image Processing 13 (4), 2004::

    luminance = (2 mean_x mean_y + C1) / (mean_x^2 + mean_y^2 + C1)
    contrast  = (2 cov_xy + C2) / (var_x + var_y + C2)          (contrast times structure)
    SSIM      = luminance * contrast

with means, variances and covariance under a window, C1 = (k1 data_range)^2, C2 = (k2 data_range)^2.
Each channel is treated alone.

Images. All functions take any strides, float16, bfloat16, float32 and float64, and, unless they say
otherwise, uint8. The 16- and 32-bit types may mix; float64 goes with itself and uint8. Results are
float64 where an image is, else float32, and each gradient has the dtype of its image.

Errors. ValueError: wrong rank, different shapes or devices, empty images, images smaller than a
"valid" window, unknown names (a bad `padding` is an AssertionError, too), numbers out of range.
TypeError: no tensors, sparse ones, other dtypes, or dtypes that don't go together.
Memory that is lacking and what else torch finds are torch's own errors.

Images on the device "meta" give results without numbers: shapes and dtypes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fused_ssim import _forms, _route, _scales, _validation
from fused_ssim._parameters import (
    PADDINGS,
    Component,
    CroppedPadding,
    MaskMode,
    Negative,
    OddSizes,
    Padding,
    Reduced,
    Reduction,
)
from fused_ssim._torch_private import beyond_old_compilers

Window = str | Sequence[float] | Sequence[Sequence[float]] | Sequence[Tensor] | Tensor

allowed_padding: list[str] = list(PADDINGS)
is_3D_supported = True  # noqa: N816 (the original's name)


@beyond_old_compilers
def fused_ssim(
    img1: Tensor, img2: Tensor, padding: CroppedPadding = "same", train: bool = True
) -> Tensor:
    """Mean SSIM of two image batches in [0, 1]: the drop-in for the original fused-ssim.

    11x11 Gaussian window of sigma 1.5, k1 = 0.01, k2 = 0.03, data range 1.

    Args:
        img1: images with values in [0, 1] (not checked); uint8 pixels u stand for u / 255.
        img2: images of the same shape and device.
        padding: "same" pads with zeros and averages over all pixels; "valid" averages over the
            pixels whose window lies in the image, and needs H and W of at least 11.
        train: whether a gradient will be wanted. It is computed in the same pass, for each image
            that requires it; with False, or under torch.no_grad(), only the value is, and a
            backward pass is refused.

    Shape:
        img1, img2: [B, C, H, W]; the result [].

    Returns:
        The mean, in [-1, 1]; 1 where the images are identical.

    Raises:
        ValueError, TypeError: see `fused_ssim.functional`.

    Example:
        >>> loss = 1 - fused_ssim(rendered, photograph)
        >>> loss.backward()
    """
    _validation.check_flag("train", train)
    definition = _forms.standard(img1, img2, padding)
    return _route.reduced(img1, img2, definition, "mean", train=train)


@beyond_old_compilers
def fused_ssim3d(
    img1: Tensor, img2: Tensor, padding: CroppedPadding = "same", train: bool = True
) -> Tensor:
    """Mean SSIM of two batches of volumes in [0, 1]: `fused_ssim` with a window of 11x11x11.

    Args:
        img1: volumes; see `fused_ssim`.
        img2: volumes of the same shape and device.
        padding: "same" or "valid", which needs D, H and W of at least 11.
        train: see `fused_ssim`.

    Shape:
        img1, img2: [B, C, D, H, W]; the result [].

    Raises:
        ValueError, TypeError: see `fused_ssim.functional`.

    Example:
        >>> score = fused_ssim3d(scan, reference, train=False)
    """
    _validation.check_flag("train", train)
    definition = _forms.standard(img1, img2, padding, 3)
    return _route.reduced(img1, img2, definition, "mean", train=train)


class FusedSSIMMap:
    """The SSIM map under the name and signature of the original package."""

    @staticmethod
    @beyond_old_compilers
    def apply(
        C1: float,  # noqa: N803 (the original's names)
        C2: float,  # noqa: N803
        img1: Tensor,
        img2: Tensor,
        padding: CroppedPadding = "same",
        train: bool = True,
        spatial_dims: int = 2,
    ) -> Tensor:
        """The SSIM map of two image batches under a Gaussian window of 11 taps, sigma 1.5.

        Args:
            C1: (k1 data_range)^2, positive; 0.01**2 is the standard for images in [0, 1].
            C2: (k2 data_range)^2, positive; 0.03**2 is the standard.
            img1: images of a floating-point dtype.
            img2: images of the same shape and device.
            padding: "same" for a map of the images' size, "valid" for one cropped by 5 pixels at
                each border.
            train: with False a backward pass is refused.
            spatial_dims: 2 for images, 3 for volumes.

        Shape:
            img1, img2: [B, C, H, W] or [B, C, D, H, W]; the result likewise.

        Raises:
            ValueError, TypeError: see `fused_ssim.functional`.

        Example:
            >>> values = FusedSSIMMap.apply(0.01**2, 0.03**2, rendered, photograph, "valid")
        """
        c1 = _validation.positive("C1", C1, "it is 0.01**2 for images in [0, 1]")
        c2 = _validation.positive("C2", C2, "it is 0.03**2 for images in [0, 1]")
        _validation.square("C1", c1**0.5, 1.0)
        _validation.square("C2", c2**0.5, 1.0)
        _validation.check_flag("train", train)
        spatial_dims = _validation.spatial_dims(spatial_dims, (2, 3))
        dtypes = _validation.FLOATING
        definition = _forms.standard(
            img1, img2, padding, spatial_dims, dtypes=dtypes, stabilizers=(c1, c2)
        )
        return _route.mapped(img1, img2, definition, train=train)


@beyond_old_compilers
def ssim(
    img1: Tensor,
    img2: Tensor,
    *,
    data_range: float | Tensor = 1.0,
    window: Window = "gaussian",
    window_size: int = 11,
    sigma: float = 1.5,
    k1: float = 0.01,
    k2: float = 0.03,
    padding: Padding = "same",
    reduction: Reduction = "mean",
    unbiased: bool = False,
    component: Component = "ssim",
    mask: Tensor | None = None,
    mask_mode: MaskMode = "weighted",
    spatial_dims: int = 2,
) -> Tensor:
    """SSIM of two batches of images, volumes or signals, differentiable in both.

    Args:
        img1: images. A uint8 pixel u stands for u / 255 with data_range 1, for u with 255.
        img2: images of the same shape and device.
        data_range: difference between the largest and the smallest possible pixel value; positive.
            A tensor [B] holds one for each image; on a GPU its numbers are not checked.
        window: "gaussian", "uniform", or taps: numbers for one window along all axes, or a
            sequence of such sequences (1D tensors), one for each axis, in the order (D,) H, W.
            Odd in number, not negative, summing to 1, applied as correlation.
        window_size: odd number of taps of a named window.
        sigma: standard deviation of the Gaussian window in pixels; positive.
        k1: stabilizes the luminance term, C1 = (k1 data_range)^2; positive.
        k2: stabilizes the contrast term, C2 = (k2 data_range)^2; positive.
        padding: what lies beyond the border: "same" zeros, "reflect" the image mirrored at its
            outermost pixels, "replicate" its outermost pixels repeated; "valid" takes whole windows
            only. "valid" needs sides of at least the window, "reflect" more than half of it.
        reduction: "mean" or "sum" over everything, "image" or "channel" for the mean of each image
            or plane, "none" for the map.
        unbiased: sample variances, N / (N - 1) times the plain ones for a window of N taps in all.
        component: "ssim", or one of its factors: "contrast" (contrast times structure) or
            "luminance".
        mask: weights of pixels, bool or floating-point in [0, 1] (not checked), without a gradient.
            NaN and negative numbers count as 0, infinity gives NaN. Divide a mask of 0 to 255 by
            255: what lies beyond the border of "same" weighs 1 in "normalized" windows.
        mask_mode: "weighted": the plain map, averaged with the mask as weights; windows see masked
            pixels. "normalized": pixels weigh in windows, too, so that masked ones influence
            nothing, not even as NaN. Over a mask of zeros means are 1, sums 0; the map is 1 where
            the mask is 0.
        spatial_dims: 1, 2 or 3.

    Shape:
        img1, img2: [B, C, W], [B, C, H, W] or [B, C, D, H, W], by spatial_dims; [C, H, W] with
            spatial_dims=2 is a batch of one, and the result lacks the batch axis.
        mask: the spatial sizes alone, or the images' rank with 1 for B or C or both.
        result: "mean", "sum": []; "image": [B]; "channel": [B, C]; "none": [B, C, *map sizes],
            which are the image's but with "valid", where they are size - window_size + 1.

    Returns:
        SSIM in [-1, 1] (for "sum" its sum).

    Raises:
        ValueError, TypeError: see `fused_ssim.functional`.

    Example:
        >>> per_image = ssim(a, b, data_range=255, padding="valid", reduction="image")
        >>> outside_the_sky = ssim(a, b, mask=~sky, mask_mode="normalized")
    """
    checked_form = _forms.ssim_form(
        data_range=data_range,
        window=window,
        window_size=window_size,
        sigma=sigma,
        k1=k1,
        k2=k2,
        padding=padding,
        unbiased=unbiased,
        component=component,
        spatial_dims=spatial_dims,
        reduction=reduction,
        mask_mode=mask_mode,
    )
    unbatched = spatial_dims == 2 and all(
        isinstance(image, Tensor) and image.dim() == 3 for image in (img1, img2)
    )
    if unbatched:
        img1, img2 = img1[None], img2[None]
        mask = mask[None] if isinstance(mask, Tensor) and mask.dim() == 3 else mask
    x, y, weights, stabilizers = _forms.checked(
        checked_form, img1, img2, spatial_dims, mask, unbatched
    )
    definition = checked_form.definition
    if reduction == "none":
        result = _route.mapped(
            x, y, definition, stabilizers=stabilizers, mask=weights, mask_mode=mask_mode
        )
    else:
        result = _route.reduced(
            x, y, definition, reduction, stabilizers=stabilizers, mask=weights, mask_mode=mask_mode
        )
    return result[0] if unbatched and result.dim() else result


@beyond_old_compilers
def ssim_and_mse(
    img1: Tensor,
    img2: Tensor,
    *,
    data_range: float | Tensor = 1.0,
    window: Window = "gaussian",
    window_size: int = 11,
    sigma: float = 1.5,
    k1: float = 0.01,
    k2: float = 0.03,
    padding: Padding = "same",
    unbiased: bool = False,
    spatial_dims: int = 2,
) -> tuple[Tensor, Tensor]:
    """SSIM and the mean squared error of each plane, in one pass; for evaluation, no gradient.

    The error is taken over the pixels that have an SSIM, and of a uint8 pixel u as u / 255 unless
    data_range is 255. PSNR is 10 log10(data_range^2 / mse).

    Args:
        img1, img2, data_range, window, window_size, sigma, k1, k2, padding, unbiased, spatial_dims:
            see `ssim`.

    Shape:
        img1, img2: [B, C, W], [B, C, H, W] or [B, C, D, H, W], by spatial_dims; both results
            [B, C].

    Raises:
        ValueError, TypeError: see `fused_ssim.functional`.

    Example:
        >>> similarity, mse = ssim_and_mse(a, b, data_range=255)
        >>> psnr = 10 * torch.log10(255**2 / mse.mean(1))
    """
    checked_form = _forms.form(
        data_range=data_range,
        window=window,
        window_size=window_size,
        sigma=sigma,
        k1=k1,
        k2=k2,
        padding=padding,
        unbiased=unbiased,
        spatial_dims=spatial_dims,
    )
    x, y, _, stabilizers = _forms.checked(checked_form, img1, img2, spatial_dims)
    return _route.ssim_and_mse(x, y, checked_form.definition, stabilizers=stabilizers)


@beyond_old_compilers
def ms_ssim(
    img1: Tensor,
    img2: Tensor,
    *,
    data_range: float | Tensor = 1.0,
    window: Window = "gaussian",
    window_size: int = 11,
    sigma: float = 1.5,
    k1: float = 0.01,
    k2: float = 0.03,
    weights: Sequence[float] | Tensor | None = None,
    padding: Padding = "valid",
    reduction: Reduced = "mean",
    negative: Negative = "relu",
    odd_sizes: OddSizes = "pad",
    spatial_dims: int = 2,
) -> Tensor:
    """Multi-scale SSIM, differentiable in both images.

    Wang, Simoncelli, Bovik, "Multi-scale structural similarity for image quality assessment",
    Asilomar Conference 2003: the product of the mean contrast of each scale and of the mean SSIM of
    the coarsest, each to the power of its weight; a scale has half the size of the one before.

    Args:
        img1, img2, data_range, window, window_size, sigma, k1, k2, padding, spatial_dims: see
            `ssim`.
        weights: an exponent for each scale, the finest first, not negative; None for the paper's
            (0.0448, 0.2856, 0.3001, 0.2363, 0.1333).
        reduction: "channel" gives the product of each plane, "image" their mean over the channels,
            "mean" and "sum" that and the sum over everything.
        negative: what a mean c has for a factor, weight w. "relu": max(c, 0)^w, without a gradient
            where c <= 0. "smooth": below t = 0.01 t^w / (1 + w (t - c) / t), which is positive and
            has a gradient everywhere.
        odd_sizes: "pad" puts one zero in front of an odd side before pixels are averaged in twos;
            "crop" drops the last pixel.

    Shape:
        img1, img2: [B, C, W], [B, C, H, W] or [B, C, D, H, W], by spatial_dims; with "valid", S
            scales and n taps each side has at least (n - 1) 2^(S - 1) + 1 pixels ("pad": 161 as a
            rule) or n 2^(S - 1) ("crop": 176).
        result: "mean", "sum": []; "image": [B]; "channel": [B, C].

    Returns:
        MS-SSIM, in [0, 1].

    Raises:
        ValueError, TypeError: see `fused_ssim.functional`.

    Example:
        >>> score = ms_ssim(a, b, data_range=255)
        >>> loss = 1 - ms_ssim(rendered, photograph, negative="smooth")
    """
    whole, exponents = _forms.ms_ssim_form(
        data_range=data_range,
        window=window,
        window_size=window_size,
        sigma=sigma,
        k1=k1,
        k2=k2,
        padding=padding,
        spatial_dims=spatial_dims,
        weights=weights,
        reduction=reduction,
        negative=negative,
        odd_sizes=odd_sizes,
    )
    _validation.check_images(img1, img2, spatial_dims=spatial_dims)
    return _scales.reduced(
        img1, img2, whole, exponents, reduction, negative, odd_sizes, spatial_dims
    )


@beyond_old_compilers
def l1_ssim_loss(
    pred: Tensor,
    target: Tensor,
    ssim_weight: float = 0.2,
    padding: CroppedPadding = "same",
    *,
    train: bool = True,
    mask: Tensor | None = None,
    mask_mode: MaskMode = "weighted",
    spatial_dims: int = 2,
) -> Tensor:
    """(1 - w) mean |pred - target| + w (1 - SSIM): the photometric loss of 3D Gaussian Splatting.

    Value and gradients come out of one pass. SSIM is that of `fused_ssim`; the formula of the loss
    is that of Kerbl, Kopanas, Leimkuehler, Drettakis, "3D Gaussian Splatting for Real-Time Radiance
    Field Rendering", ACM TOG 42 (4), 2023. The derivative of |pred - target| at 0 is 0.

    Args:
        pred: images in [0, 1]; uint8 pixels u stand for u / 255.
        target: images of the same shape and device.
        ssim_weight: w, from 0 to 1.
        padding: as in `fused_ssim`; with "valid" L1 is averaged over the same pixels as SSIM.
        train: as in `fused_ssim`.
        mask: weights of pixels, for both terms; see `ssim`. Over a mask of zeros the loss and its
            gradient are 0.
        mask_mode: "weighted" or "normalized"; see `ssim`.
        spatial_dims: 1, 2 or 3.

    Shape:
        pred, target: [B, C, W], [B, C, H, W] or [B, C, D, H, W], by spatial_dims; mask: as in
            `ssim`; the result [].

    Raises:
        ValueError, TypeError: see `fused_ssim.functional`.

    Example:
        >>> l1_ssim_loss(rendered, photograph, mask=~dynamic_objects).backward()
    """
    w = _validation.weight("ssim_weight", ssim_weight)
    _validation.check_flag("train", train)
    _validation.check_mask_mode(mask_mode)
    spatial_dims = _validation.spatial_dims(spatial_dims)
    definition = _forms.standard(pred, target, padding, spatial_dims, ("pred", "target"))
    if mask is not None:
        _validation.check_mask(mask, pred)
    return _route.reduced(
        pred,
        target,
        definition,
        "mean",
        loss_weight=w,
        train=train,
        mask=mask,
        mask_mode=mask_mode,
    )


@beyond_old_compilers
def fused_l1_ssim_loss(
    img1: Tensor,
    img2: Tensor,
    ssim_weight: float = 0.2,
    padding: CroppedPadding | bool = "same",
    train: bool = True,
) -> Tensor:
    """`l1_ssim_loss` under the name and signature that it has in a pull request to the original.

    Args:
        img1, img2, ssim_weight, train: see `l1_ssim_loss`.
        padding: "same" or "valid"; a bool is taken for `train`, which is the fourth argument there.

    Shape:
        img1, img2: [B, C, H, W]; the result [].

    Raises:
        ValueError, TypeError: see `fused_ssim.functional`.

    Example:
        >>> loss = fused_l1_ssim_loss(rendered, photograph, 0.2, True)
    """
    if isinstance(padding, bool):
        return l1_ssim_loss(img1, img2, ssim_weight, train=padding)
    return l1_ssim_loss(img1, img2, ssim_weight, padding, train=train)
