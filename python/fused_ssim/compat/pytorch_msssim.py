"""pytorch-msssim's functions and modules on the kernels of this package.

>>> from fused_ssim.compat.pytorch_msssim import ssim, ms_ssim, SSIM, MS_SSIM

Signatures, defaults, warnings and exceptions are those of pytorch-msssim 1.0. Other than there,
computation is in float32 at least and so are results, uint8 images are taken, windows sum to one
exactly, images with a contrast of zero have an MS-SSIM with a gradient (0, not NaN), and of each
axis that is too short for the window one warning tells instead of five.
"""

from __future__ import annotations

import warnings
from collections.abc import MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from fused_ssim import _composite, _scales, _validation, _windows, functional
from fused_ssim._parameters import SCALE_WEIGHTS, Component
from fused_ssim._torch_private import beyond_old_compilers, is_compiling
from fused_ssim.compat import ArgumentError

__all__ = ["MS_SSIM", "SSIM", "ms_ssim", "ssim"]

_Taps = tuple[float, ...]
_Constants = tuple[float, float] | list[float]
_ADVICE = "the default is an odd number of taps for each channel, [channels, 1, 1, taps]"


@beyond_old_compilers
def ssim(
    X: Tensor,
    Y: Tensor,
    data_range: float = 255,
    size_average: bool = True,
    win_size: int = 11,
    win_sigma: float = 1.5,
    win: Tensor | None = None,
    K: _Constants = (0.01, 0.03),
    nonnegative_ssim: bool = False,
) -> Tensor:
    """SSIM over the pixels whose window lies in the image, as in `pytorch_msssim.ssim`.

    Args:
        X, Y: images or volumes of one shape; spatial axes of one pixel are dropped.
        data_range: the largest number that a pixel can have.
        size_average: whether to average over the batch, too.
        win_size: taps of the Gaussian window, odd; an axis with fewer pixels is not filtered, with
            a UserWarning.
        win_sigma: its standard deviation, in pixels.
        win: taps in place of the Gaussian's, a row for each channel. They are read on the host,
            once for each tensor.
        K: k1 and k2.
        nonnegative_ssim: whether negative means of single planes count as 0.

    Shape:
        X, Y: [B, C, H, W] or [B, C, D, H, W]; win: [C, 1, 1, taps] or [C, 1, 1, 1, taps]; the
        result [] or, without size_average, [B].

    Raises:
        ValueError: different shapes, other ranks, an even number of taps, or (a RuntimeError, too)
            a window for other channels or axes than the images have.
        TypeError: see `fused_ssim.functional`.

    Example:
        >>> loss = 1 - ssim(rendered, photograph, data_range=1)
    """
    X, Y = _squeezed(X, Y)
    means = _means(X, Y, "ssim", data_range, K, win_size, win_sigma, _rows(win, X))
    if nonnegative_ssim:
        means = torch.relu(means)
    return means.mean() if size_average else means.mean(1)


@beyond_old_compilers
def ms_ssim(
    X: Tensor,
    Y: Tensor,
    data_range: float = 255,
    size_average: bool = True,
    win_size: int = 11,
    win_sigma: float = 1.5,
    win: Tensor | None = None,
    weights: Sequence[float] | Tensor | None = None,
    K: _Constants = (0.01, 0.03),
) -> Tensor:
    """Multi-scale SSIM, as in `pytorch_msssim.ms_ssim`.

    Args:
        X, Y, data_range, size_average, win_size, win_sigma, win, K: see `ssim`.
        weights: the exponent of each scale, the finest first, not negative; None for the five of
            Wang et al.

    Shape:
        X, Y: [B, C, H, W] or [B, C, D, H, W], with H and W of more than 16 (taps - 1), for any
        number of scales; the result [] or, without size_average, [B].

    Raises:
        AssertionError: H or W too small; a ValueError, too.
        ValueError, TypeError, RuntimeError: see `ssim`.

    Example:
        >>> loss = 1 - ms_ssim(rendered, photograph, data_range=1)
    """
    X, Y = _squeezed(X, Y)
    rows = _rows(win, X)
    taps = len(rows[0]) if rows else _gaussian(win_size, win_sigma)[0]
    if min(X.shape[-2:]) <= 16 * (taps - 1):
        raise ArgumentError(
            f"ms_ssim: expected height and width of more than {16 * (taps - 1)}, got "
            f"{list(X.shape)}; {_validation.channels_last_hint(X)}use a smaller window"
        )
    k1, k2 = _constants(K)
    exponents = _validation.scale_weights(SCALE_WEIGHTS if weights is None else weights)
    if len(rows) < 2 and min(X.shape[2:]) > (taps - 1) << (len(exponents) - 1):
        return functional.ms_ssim(
            X,
            Y,
            data_range=data_range,
            window=rows[0] if rows else "gaussian",
            window_size=win_size,
            sigma=win_sigma,
            k1=k1,
            k2=k2,
            weights=exponents,
            reduction="mean" if size_average else "image",
            spatial_dims=X.dim() - 2,
        )

    def mean_of(x: Tensor, y: Tensor, coarsest: bool) -> Tensor:
        component: Component = "ssim" if coarsest else "contrast"
        return _means(x, y, component, data_range, K, win_size, win_sigma, rows)

    def factor_of(mean: Tensor, exponent: float) -> Tensor:
        return _scales.power(mean, exponent, "relu")

    divisor = 1 if data_range == 255 else 255
    products = _scales.product(X, Y, exponents, mean_of, factor_of, "pad", divisor)
    return products.mean() if size_average else products.mean(1)


class _Module(torch.nn.Module):
    """What the two modules share: a Gaussian window for a number of channels and axes."""

    def __init__(
        self,
        data_range: float,
        size_average: bool,
        win_size: int,
        win_sigma: float,
        channel: int,
        spatial_dims: int,
        K: _Constants,
    ) -> None:
        super().__init__()
        self._taps = _windows.gaussian(*_gaussian(win_size, win_sigma))
        self._win_sigma = win_sigma
        self._win: Tensor | None = None
        self._shape = [channel, *(1,) * spatial_dims, len(self._taps)]
        self.data_range = data_range
        self.size_average = size_average
        self.win_size = win_size
        self.K = K

    @property
    def win(self) -> Tensor:
        """The window as pytorch-msssim has it: float32 [channels, 1, 1, taps]; another may be set."""
        return (
            self._win
            if self._win is not None
            else torch.tensor(self._taps).expand(self._shape).clone()
        )

    @win.setter
    def win(self, win: Tensor) -> None:
        self._win = win

    def _check(self, image: Tensor) -> None:
        if self._win is not None or not isinstance(image, Tensor):
            return
        image, _ = _squeezed(image, image)
        if _shape_of_window(image) != self._shape[:-1]:
            sides = "channel", "spatial_dims"
            of_images = zip(sides, (image.shape[1], image.dim() - 2), strict=True)
            own = dict(zip(sides, (self._shape[0], len(self._shape) - 2), strict=True))
            changes = {name: value for name, value in of_images if own[name] != value}
            needed = ", ".join(f"{name}={value}" for name, value in changes.items())
            got = ", ".join(f"{name}={own[name]}" for name in changes)
            raise ArgumentError(
                f"{type(self).__name__}: expected {needed} for images {list(image.shape)}, got "
                f"{got}; {_validation.channels_last_hint(image)}make the module with {needed}"
            )

    def _arguments(self) -> dict[str, Any]:
        """Of the function, those that both have."""
        return {
            "data_range": self.data_range,
            "size_average": self.size_average,
            # As there, where the module's window was made of it once for all.
            "win_size": len(self._taps),
            "win_sigma": self._win_sigma,
            "win": self._win,
            "K": self.K,
        }


class SSIM(_Module):
    """`ssim` with fixed parameters, as `pytorch_msssim.SSIM`.

    Args:
        channel: of the images.
        spatial_dims: 2 for [B, C, H, W], 3 for [B, C, D, H, W].
        data_range, size_average, win_size, win_sigma, K, nonnegative_ssim: see `ssim`.

    Example:
        >>> criterion = SSIM(data_range=1, channel=3)
        >>> loss = 1 - criterion(rendered, photograph)
    """

    def __init__(
        self,
        data_range: float = 255,
        size_average: bool = True,
        win_size: int = 11,
        win_sigma: float = 1.5,
        channel: int = 3,
        spatial_dims: int = 2,
        K: _Constants = (0.01, 0.03),
        nonnegative_ssim: bool = False,
    ) -> None:
        super().__init__(data_range, size_average, win_size, win_sigma, channel, spatial_dims, K)
        self.nonnegative_ssim = nonnegative_ssim

    def forward(self, X: Tensor, Y: Tensor) -> Tensor:
        """SSIM of two batches."""
        self._check(X)
        return ssim(X, Y, **self._arguments(), nonnegative_ssim=self.nonnegative_ssim)


class MS_SSIM(_Module):  # noqa: N801 (the peer's name)
    """`ms_ssim` with fixed parameters, as `pytorch_msssim.MS_SSIM`.

    Args:
        channel, spatial_dims: see `SSIM`.
        data_range, size_average, win_size, win_sigma, weights, K: see `ms_ssim`.

    Example:
        >>> criterion = MS_SSIM(data_range=1, channel=3)
        >>> loss = 1 - criterion(rendered, photograph)
    """

    def __init__(
        self,
        data_range: float = 255,
        size_average: bool = True,
        win_size: int = 11,
        win_sigma: float = 1.5,
        channel: int = 3,
        spatial_dims: int = 2,
        weights: Sequence[float] | None = None,
        K: _Constants = (0.01, 0.03),
    ) -> None:
        super().__init__(data_range, size_average, win_size, win_sigma, channel, spatial_dims, K)
        self.weights = weights

    def forward(self, X: Tensor, Y: Tensor) -> Tensor:
        """MS-SSIM of two batches."""
        self._check(X)
        return ms_ssim(X, Y, **self._arguments(), weights=self.weights)


def _constants(K: _Constants) -> tuple[float, float]:
    if len(K) != 2:
        raise ValueError(f"K: expected two numbers, got {K!r}; the default is (0.01, 0.03)")
    k1, k2 = (_validation.positive("K", number, "the default is (0.01, 0.03)") for number in K)
    return k1, k2


def _gaussian(win_size: int, win_sigma: float) -> tuple[int, float]:
    """The checked taps and standard deviation."""
    sigma = _validation.positive("win_sigma", win_sigma, "the default is 1.5 pixels")
    return _validation.window_size(win_size, "win_size"), sigma


def _squeezed(X: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
    """The images without spatial axes of one pixel."""
    for name, image in (("X", X), ("Y", Y)):
        _validation.check_is_tensor(name, image)
    if X.shape != Y.shape:
        raise ValueError(
            f"X and Y: expected one shape, got {list(X.shape)} and {list(Y.shape)}; scale or crop "
            "one of them"
        )
    single = [axis for axis in range(2, X.dim()) if X.shape[axis] == 1]
    x, y = X.squeeze(single), Y.squeeze(single)
    if x.dim() not in (4, 5):
        raise ValueError(
            "X and Y: expected [B, C, H, W] or [B, C, D, H, W] once spatial axes of one pixel are "
            f"dropped, got {list(X.shape)}; use .unsqueeze() or .reshape()"
        )
    _validation.check_images(x, y, ("X", "Y"), x.dim() - 2)
    return x, y


def _means(
    X: Tensor,
    Y: Tensor,
    component: Component,
    data_range: float,
    K: _Constants,
    win_size: int,
    win_sigma: float,
    rows: Sequence[_Taps],
) -> Tensor:
    """The mean of each plane, [B, C].

    `rows` are the taps of each channel, those of all, or none for the Gaussian's.
    """
    k1, k2 = _constants(K)
    taps = len(rows[0]) if rows else _gaussian(win_size, win_sigma)[0]
    short = [axis for axis in range(2, X.dim()) if X.shape[axis] < taps]
    for axis in short:
        warnings.warn(
            f"Skipping Gaussian Smoothing along axis {axis} of images {list(X.shape)}, which is "
            f"shorter than the window of {taps} taps",
            UserWarning,
            stacklevel=_composite.levels_to_the_caller(),
        )

    def of_window(x: Tensor, y: Tensor, row: _Taps | None) -> Tensor:
        window: _Taps | str | list[_Taps] = "gaussian" if row is None else row
        if short:
            (row,) = (row,) if row else _windows.axes("gaussian", win_size, win_sigma, 1)
            window = [(1.0,) if axis in short else row for axis in range(2, X.dim())]
        return functional.ssim(
            x,
            y,
            data_range=data_range,
            window=window,
            window_size=win_size,
            sigma=win_sigma,
            k1=k1,
            k2=k2,
            padding="valid",
            reduction="channel",
            component=component,
            spatial_dims=X.dim() - 2,
        )

    if len(rows) < 2:
        return of_window(X, Y, rows[0] if rows else None)
    planes = zip(torch.split(X, 1, 1), torch.split(Y, 1, 1), rows, strict=True)
    return torch.cat([of_window(x, y, row) for x, y, row in planes], 1)


# Reading a window waits for a GPU that holds it, so it happens once for each state of a tensor.
_rows_read: MutableMapping[Tensor, tuple[int, list[_Taps]]] = WeakIdKeyDictionary()


def _rows(win: Tensor | None, image: Tensor) -> list[_Taps]:
    """The taps of each channel, or of all of them; nothing for the Gaussian."""
    if win is None:
        return []
    if not isinstance(win, Tensor):
        raise TypeError(f"win: expected a torch.Tensor, got {type(win).__name__}; {_ADVICE}")
    expected = _shape_of_window(image)
    if list(win.shape[:-1]) != expected:
        raise ArgumentError(
            f"win: expected the shape [{', '.join(map(str, expected))}, taps] for images "
            f"{list(image.shape)}, got {list(win.shape)}; {_ADVICE}"
        )
    if is_compiling() or win.is_inference():
        return _read(win)
    known = _rows_read.get(win)
    if known is None or known[0] != win._version:
        known = _rows_read[win] = win._version, _read(win)
    return known[1]


def _read(win: Tensor) -> list[_Taps]:
    rows = win.reshape(win.shape[0], -1).cpu()
    if bool((rows == rows[:1]).all()):
        rows = rows[:1]
    return [_validation.given_window(row) for row in rows]


def _shape_of_window(image: Tensor) -> list[int]:
    """Of a window for these images, but its taps."""
    return [image.shape[1], *(1,) * (image.dim() - 2)]
