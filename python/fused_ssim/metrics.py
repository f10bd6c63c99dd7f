"""Metrics for torchmetrics, on the kernels of this package.

>>> from fused_ssim.metrics import StructuralSimilarityIndexMeasure

`StructuralSimilarityIndexMeasure` and `MultiScaleStructuralSimilarityIndexMeasure` have the
arguments, defaults and numbers that they have in torchmetrics 1.4.2 and newer, and
`StructuralSimilarityAndPeakSignalNoiseRatio` takes two metrics from one pass. States are sums: no
image and no graph is kept, but what `reduction=None` and the options that return more than a number
ask for. Other than in torchmetrics computation is in float32 at least, and images of two dtypes are
brought to one that holds both.

Needs torchmetrics: `pip install "fused-ssim[metrics]"`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

try:
    from torchmetrics import Metric
    from torchmetrics.utilities import dim_zero_cat
except ImportError as error:
    raise ImportError(
        f"fused_ssim.metrics: expected torchmetrics, got {error!r}; install it with "
        '`pip install "fused-ssim[metrics]"`'
    ) from error

from fused_ssim import _borders, _scales, _windows, functional
from fused_ssim._parameters import SCALE_WEIGHTS, Component, Padding, Reduction
from fused_ssim._pixels import numbers, sum_dtype
from fused_ssim.compat import ArgumentError

__all__ = [
    "MultiScaleStructuralSimilarityIndexMeasure",
    "StructuralSimilarityAndPeakSignalNoiseRatio",
    "StructuralSimilarityIndexMeasure",
]

_PerAxis = float | Sequence[float]
_Sizes = int | Sequence[int]
_Range = float | tuple[float, float] | None
_Reduction = Literal["elementwise_mean", "sum", "none"] | None
_REDUCTIONS = ("elementwise_mean", "sum", "none", None)


class _Similarity(Metric):
    """Per-image similarities, averaged, summed up or collected."""

    is_differentiable = True
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound: float | None = 1.0

    similarity: Tensor | list[Tensor]
    total: Tensor

    def __init__(
        self,
        gaussian_kernel: bool,
        sigma: _PerAxis,
        kernel_size: _Sizes,
        reduction: _Reduction,
        data_range: _Range,
        k1: float,
        k2: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if reduction not in _REDUCTIONS:
            raise ValueError(
                f"reduction: expected one of {_REDUCTIONS}, got {reduction!r}; "
                '"elementwise_mean" gives the mean over all images'
            )
        if reduction in ("none", None):
            self.add_state("similarity", default=[], dist_reduce_fx="cat")
        else:
            self.add_state("similarity", default=torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("total", default=torch.tensor(0.0), dist_reduce_fx="sum")
        self.gaussian_kernel = gaussian_kernel
        self.sigma = sigma
        self.kernel_size = kernel_size
        self.reduction = reduction
        self.data_range = data_range
        self.k1 = k1
        self.k2 = k2

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The metric of this batch alone, whose images are added to the states."""
        value = super().forward(*args, **kwargs)
        self._forward_cache = _detached(value)
        for name in self._defaults:
            setattr(self, name, _detached(getattr(self, name)))
        return value

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """A figure and axes with `val`, or with what `compute` gives; needs matplotlib."""
        return self._plot(val, ax)

    def _add(self, similarities: Tensor) -> None:
        if isinstance(self.similarity, list):
            self.similarity.append(similarities)
        else:
            self.similarity = self.similarity + similarities.sum().to(self.similarity)
        self.total = self.total + similarities.shape[0]

    def _reduced(self) -> Tensor:
        if isinstance(self.similarity, list) or self.reduction in ("none", None):
            similarities: Tensor = dim_zero_cat(self.similarity)
            return similarities
        return self.similarity if self.reduction == "sum" else self.similarity / self.total

    def _images(self, preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor, float]:
        """Images that are ready to be compared, and their range."""
        if self.data_range is None:
            # Divided by their range, so that the gradient passes through it as in torchmetrics.
            dtype = sum_dtype(preds, target)
            preds, target = (numbers(image, 1, dtype) for image in (preds, target))
            ranges = [image.max() - image.min() for image in (preds, target)]
            # Not torch.maximum, which shares the gradient where both are equal.
            largest = torch.where(ranges[1] > ranges[0], ranges[1], ranges[0])
            return preds / largest, target / largest, 1.0
        if isinstance(self.data_range, tuple):
            low, high = self.data_range
            if preds.dtype == target.dtype == torch.uint8:
                if (low, high) not in ((0, 1), (0, 255)):
                    raise ValueError(
                        f"data_range: expected (0, 1) or (0, 255) for uint8 images, got "
                        f"{self.data_range}; use .float()"
                    )
                return preds, target, high  # no pixel is beyond it
            return preds.clamp(low, high), target.clamp(low, high), high - low
        return preds, target, self.data_range

    def _window(self, images: Tensor) -> tuple[dict[str, Any], list[int] | None]:
        """How functions are told the window, and how far to extend images if not by its radius."""
        dims = images.dim() - 2
        sizes = _per_axis("kernel_size", self.kernel_size, dims)
        sigmas = _per_axis("sigma", self.sigma, dims)
        if any(size <= 0 or size % 2 == 0 for size in sizes):
            raise ValueError(
                f"kernel_size: expected odd, positive numbers, got {self.kernel_size}; the "
                "default is 11"
            )
        if any(sigma <= 0 for sigma in sigmas):
            raise ValueError(
                f"sigma: expected positive numbers, got {self.sigma}; the default is 1.5"
            )
        margins = None
        if self.gaussian_kernel:
            given, sizes = sizes, [2 * int(3.5 * sigma + 0.5) + 1 for sigma in sigmas]
            if dims == 3 and given[2] != sizes[2]:
                # torchmetrics extends the last axis of volumes by half of kernel_size in any case.
                margins = [sizes[0] // 2, sizes[1] // 2, given[2] // 2]
        radii = margins or [size // 2 for size in sizes]
        if any(size <= radius for size, radius in zip(images.shape[2:], radii, strict=True)):
            least = [radius + 1 for radius in radii]
            smaller = "sigma" if self.gaussian_kernel else "kernel_size"
            raise ArgumentError(
                f"preds and target: expected at least {least} pixels along the axes, which the "
                f"reflected borders take, got {list(images.shape)}; use a smaller {smaller}"
            )
        if len({*zip(sizes, sigmas, strict=True)}) == 1:
            name = "gaussian" if self.gaussian_kernel else "uniform"
            return {"window": name, "window_size": sizes[0], "sigma": sigmas[0]}, margins
        windows = [
            _windows.gaussian(size, sigma) if self.gaussian_kernel else _windows.uniform(size)
            for size, sigma in zip(sizes, sigmas, strict=True)
        ]
        return {"window": windows}, margins

    def _ssim(
        self,
        preds: Tensor,
        target: Tensor,
        reduction: Reduction = "image",
        component: Component = "ssim",
    ) -> Tensor:
        """SSIM of images that are extended by reflection; contrasts of whole windows."""
        x, y, data_range = self._images(preds, target)
        dims = x.dim() - 2
        window, margins = self._window(x)
        padding: Padding = "reflect" if component == "ssim" else "valid"
        if padding == "reflect" and margins is not None:
            x, y = (_borders.pad(image, margins, "reflect") for image in (x, y))
            padding = "valid"
        return functional.ssim(
            x,
            y,
            data_range=data_range,
            **window,
            k1=self.k1,
            k2=self.k2,
            padding=padding,
            reduction=reduction,
            component=component,
            spatial_dims=dims,
        )


class StructuralSimilarityIndexMeasure(_Similarity):
    """SSIM, as `torchmetrics.image.StructuralSimilarityIndexMeasure`.

    Images are extended by reflection; each image's SSIM is the mean over its pixels and channels.

    Args:
        gaussian_kernel: whether the window is a Gaussian of 2 int(3.5 sigma + 0.5) + 1 taps, or
            uniform.
        sigma: of the Gaussian, one number or one for each spatial axis.
        kernel_size: taps of the uniform window, one odd number or one for each spatial axis.
        reduction: over images: "elementwise_mean", "sum", or "none" or None for all of them.
        data_range: the range of the pixels; a tuple (low, high) to clamp them to; None for the
            range found in each batch.
        k1, k2: constants of the stabilizers.
        return_full_image: whether `compute` gives the maps, too.
        return_contrast_sensitivity: whether `compute` gives the contrast of each image, too, over
            whole windows. Not with `return_full_image`.
        kwargs: of `torchmetrics.Metric`.

    Shape:
        preds, target: [B, C, H, W] or [B, C, D, H, W]; `compute` gives [] or [images].

    Raises (on update):
        ValueError, TypeError: see `fused_ssim.functional`; different shapes are a RuntimeError, too.

    Example:
        >>> metric = StructuralSimilarityIndexMeasure(data_range=1.0)
        >>> for rendered, photograph in loader:
        ...     metric.update(rendered, photograph)
        >>> metric.compute()
    """

    image_return: list[Tensor]

    def __init__(
        self,
        gaussian_kernel: bool = True,
        sigma: _PerAxis = 1.5,
        kernel_size: _Sizes = 11,
        reduction: _Reduction = "elementwise_mean",
        data_range: _Range = None,
        k1: float = 0.01,
        k2: float = 0.03,
        return_full_image: bool = False,
        return_contrast_sensitivity: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            gaussian_kernel, sigma, kernel_size, reduction, data_range, k1, k2, **kwargs
        )
        if return_full_image or return_contrast_sensitivity:
            self.add_state("image_return", default=[], dist_reduce_fx="cat")
        self.return_full_image = return_full_image
        self.return_contrast_sensitivity = return_contrast_sensitivity

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Adds the images of a batch."""
        preds, target = _of_one_kind(preds, target)
        if self.return_full_image and self.return_contrast_sensitivity:
            raise ValueError(
                "return_full_image, return_contrast_sensitivity: expected one of them, got both; "
                "use two metrics"
            )
        if self.return_full_image:
            values = self._ssim(preds, target, "none")
            self.image_return.append(values)
            self._add(values.flatten(1).mean(1))
            return
        self._add(self._ssim(preds, target))
        if self.return_contrast_sensitivity:
            self.image_return.append(self._ssim(preds, target, component="contrast"))

    def compute(self) -> Tensor | tuple[Tensor, Tensor]:
        """The reduction over all images so far."""
        if self.return_full_image or self.return_contrast_sensitivity:
            return self._reduced(), dim_zero_cat(self.image_return)
        return self._reduced()


class MultiScaleStructuralSimilarityIndexMeasure(_Similarity):
    """MS-SSIM, as `torchmetrics.image.MultiScaleStructuralSimilarityIndexMeasure`.

    Each scale's contrast (at the coarsest, SSIM with reflection) is averaged over an image's pixels
    and channels before it is raised to its power.

    Args:
        gaussian_kernel, sigma, reduction, data_range, k1, k2, kwargs: see
            `StructuralSimilarityIndexMeasure`.
        kernel_size: see there; it decides on the least size of images in any case.
        betas: the exponent of each scale, the finest first, a tuple of floats.
        normalize: what a negative mean becomes: "relu" 0, "simple" (and any other c) (c + 1) / 2,
            None a NaN.

    Shape:
        preds, target: [B, C, H, W] or [B, C, D, H, W]; `compute` gives [] or [images].

    Raises:
        ValueError: betas, normalize, reduction, kernel_size; on update also images that are too
            small, and what `StructuralSimilarityIndexMeasure` refuses.

    Example:
        >>> metric = MultiScaleStructuralSimilarityIndexMeasure(data_range=1.0)
        >>> loss = 1 - metric(rendered, photograph)
    """

    def __init__(
        self,
        gaussian_kernel: bool = True,
        kernel_size: _Sizes = 11,
        sigma: _PerAxis = 1.5,
        reduction: _Reduction = "elementwise_mean",
        data_range: _Range = None,
        k1: float = 0.01,
        k2: float = 0.03,
        betas: tuple[float, ...] = SCALE_WEIGHTS,
        normalize: Literal["relu", "simple"] | None = "relu",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            gaussian_kernel, sigma, kernel_size, reduction, data_range, k1, k2, **kwargs
        )
        sizes: Sequence[object] = [kernel_size]
        if isinstance(kernel_size, Sequence) and len(kernel_size) in (2, 3):
            sizes = kernel_size
        if not all(isinstance(size, int) for size in sizes):
            raise ValueError(
                f"kernel_size: expected an int or 2 or 3 of them, got {kernel_size!r}; the default "
                "is 11"
            )
        if not (betas and isinstance(betas, tuple) and all(isinstance(b, float) for b in betas)):
            raise ValueError(
                f"betas: expected a tuple of at least one float, got {betas!r}; the default is "
                f"{SCALE_WEIGHTS}"
            )
        if normalize and normalize not in ("relu", "simple"):
            raise ValueError(
                f'normalize: expected "relu", "simple" or None, got {normalize!r}; the default is '
                '"relu"'
            )
        self.betas = betas
        self.normalize = normalize

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Adds the images of a batch."""
        preds, target = _of_one_kind(preds, target)
        self._check_sizes(preds)

        def mean_of(x: Tensor, y: Tensor, coarsest: bool) -> Tensor:
            return self._ssim(x, y, component="ssim" if coarsest else "contrast")

        def factor_of(mean: Tensor, exponent: float) -> Tensor:
            if self.normalize == "relu":
                return _scales.power(mean, exponent, "relu")
            return (0.5 * (mean + 1.0) if self.normalize == "simple" else mean).pow(exponent)

        data_range = self.data_range
        largest = data_range[1] if isinstance(data_range, tuple) else data_range
        divisor = 1 if largest == 255 else 255
        self._add(_scales.product(preds, target, self.betas, mean_of, factor_of, "crop", divisor))

    def compute(self) -> Tensor:
        """The reduction over all images so far."""
        return self._reduced()

    def _check_sizes(self, images: Tensor) -> None:
        scales = len(self.betas)
        sizes = _per_axis("kernel_size", self.kernel_size, images.dim() - 2)
        shrunk = max(1, scales - 1) ** 2
        for side, taps in zip(images.shape[-2:], sizes, strict=False):
            least = max(2**scales, taps * shrunk)
            if side < least:
                raise ValueError(
                    f"betas: expected height and width of at least {least} for {scales} scales and "
                    f"kernel_size {taps}, got {list(images.shape)}; use fewer betas"
                )


class StructuralSimilarityAndPeakSignalNoiseRatio(_Similarity):
    """SSIM and PSNR out of one pass over the images; for evaluation, without a gradient.

    `compute` gives {"ssim": ..., "psnr": ...}: the numbers of `StructuralSimilarityIndexMeasure`
    and of `torchmetrics.image.PeakSignalNoiseRatio`, which is 10 log10(data_range^2 / mse) with the
    mean over all pixels of all images. It fits a MetricCollection; in Lightning log what `compute`
    gives, by `log_dict`, which takes no metric that gives two numbers.
    Volumes are extended by half the window along each axis (torchmetrics: by 5 along the last).

    Args:
        data_range: the range of the pixels, or a tuple (low, high) to clamp them to.
        gaussian_kernel, sigma, kernel_size, k1, k2, kwargs: see
            `StructuralSimilarityIndexMeasure`.

    Shape:
        preds, target: [B, C, H, W] or [B, C, D, H, W]; both results [].

    Raises:
        ValueError: no data_range; on update what `StructuralSimilarityIndexMeasure` refuses.

    Example:
        >>> metric = StructuralSimilarityAndPeakSignalNoiseRatio(data_range=1.0)
        >>> metric.update(rendered, photograph)
        >>> metric.compute()["psnr"]
    """

    is_differentiable = False
    plot_upper_bound = None

    sum_squared_error: Tensor
    pixels: Tensor

    def __init__(
        self,
        data_range: float | tuple[float, float],
        gaussian_kernel: bool = True,
        sigma: _PerAxis = 1.5,
        kernel_size: _Sizes = 11,
        k1: float = 0.01,
        k2: float = 0.03,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            gaussian_kernel, sigma, kernel_size, "elementwise_mean", data_range, k1, k2, **kwargs
        )
        if data_range is None:
            raise ValueError(
                "data_range: expected a number or a tuple, got None; PSNR needs the range that the "
                "images could have, for example 1.0"
            )
        self.add_state("sum_squared_error", default=torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("pixels", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Adds the images of a batch."""
        preds, target = _of_one_kind(preds.detach(), target.detach())
        x, y, data_range = self._images(preds, target)
        dims = x.dim() - 2
        window = self._window(x)[0]
        similarities, errors = functional.ssim_and_mse(
            x,
            y,
            data_range=data_range,
            **window,
            k1=self.k1,
            k2=self.k2,
            padding="reflect",
            spatial_dims=dims,
        )
        self._add(similarities.mean(1))
        plane = x[0, 0].numel()
        self.sum_squared_error = self.sum_squared_error + plane * errors.sum()
        self.pixels = self.pixels + x.numel()

    def compute(self) -> dict[str, Tensor]:
        """Both numbers of all images so far."""
        assert self.data_range is not None
        low, high = self.data_range if isinstance(self.data_range, tuple) else (0, self.data_range)
        mse = self.sum_squared_error / self.pixels
        return {"ssim": self._reduced(), "psnr": 10.0 * torch.log10((high - low) ** 2 / mse)}


def _of_one_kind(preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The images in one dtype, once their shapes are found right."""
    if preds.shape != target.shape:
        raise ArgumentError(
            f"preds and target: expected one shape, got {list(preds.shape)} and "
            f"{list(target.shape)}; scale or crop one of them"
        )
    if preds.dim() not in (4, 5):
        raise ValueError(
            f"preds and target: expected [B, C, H, W] or [B, C, D, H, W], got {list(preds.shape)}; "
            "use .unsqueeze() or .reshape()"
        )
    dtype = torch.promote_types(preds.dtype, target.dtype)
    return preds.to(dtype), target.to(dtype)


def _per_axis(name: str, given: Any, dims: int) -> list[Any]:
    if not isinstance(given, Sequence):
        return [given] * dims
    if len(given) != dims:
        raise ValueError(
            f"{name}: expected one number, or one for each of {dims} spatial axes, got {given}; "
            f"pass {dims} numbers"
        )
    return list(given)


def _detached(value: Any) -> Any:
    """Tensors, or tuples, lists and dictionaries of them, without their graphs."""
    if isinstance(value, dict):
        return {key: item.detach() for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(item.detach() for item in value)
    return value.detach()
