"""Metrics of a pair of images, with the errors that a user can cause in one line.

On the CPU the kernels read NumPy's memory, without torch; what they lack (by_torch.py) imports it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from fused_ssim import _C, _arrays
from fused_ssim._parameters import Definition, Padding, definition_of
from fused_ssim.cli.errors import CliError, first_line
from fused_ssim.cli.images import CHANNEL_NAMES, Pixels
from fused_ssim.cli.settings import Channels, Metric, Settings

# Luma of ITU-R BT.601: weights of R, G and B in 0..1, and the value of black. Studio swing is black
# at 16 and white at 235, of 255.
_LUMA = {
    "y": ((65.481 / 255, 128.553 / 255, 24.966 / 255), 16 / 255),
    "y-full": ((0.299, 0.587, 0.114), 0.0),
}
_SSIM_WEIGHT = 0.2  # of l1_ssim_loss
_NUMPY_BORDERS: dict[Padding, Literal["reflect", "edge"]] = {
    "reflect": "reflect",
    "replicate": "edge",
}


@dataclass(frozen=True)
class Scores:
    """What was measured, by metric."""

    values: dict[Metric, float]
    per_channel: dict[Metric, tuple[float, ...]]
    channel_names: tuple[str, ...]
    size: tuple[int, int]
    """Width and height of the images, of which a border may have been cropped."""
    ssim_map: Pixels | None
    """[C, H', W'], when asked for."""

    def without_map(self) -> Scores:
        """The numbers alone."""
        return replace(self, ssim_map=None)


@dataclass(frozen=True)
class Prepared:
    """Two images of one shape, with nothing left to do but to measure them."""

    a: Pixels
    b: Pixels
    mask: Pixels | None
    channel_names: tuple[str, ...]
    size: tuple[int, int]


def check_settings(settings: Settings, mask: Pixels | None = None) -> None:
    """Refuse settings that no image could be measured with, before any image is read."""
    if needs_torch(settings, mask):
        from fused_ssim.cli.devices import check_device

        check_device(settings.device)
    if "ms-ssim" in settings.metrics and mask is not None:
        raise CliError("--mask does not go with --metric ms-ssim, whose scales have no mask")
    # The kernels check the window; over one pixel there is always one without a border.
    blank = np.zeros((1, 1, 1), np.uint8)
    try:
        _arrays.ssim_and_mse(blank, blank, "HWC", definition=_definition(settings, "same"))
    except (ValueError, NotImplementedError) as error:
        raise CliError(first_line(error)) from None


def prepare(a: Pixels, b: Pixels, settings: Settings, mask: Pixels | None = None) -> Prepared:
    """Crop, take the channels that are measured, and refuse what has no SSIM.

    Args:
        a: [H, W, C], C = 1 or 3: uint8, or float32 in 0..1.
        b: likewise; a single channel is compared with each of three.
        settings: how to measure.
        mask: [H, W, 1], weights in 0..1.
    """
    _check_same_size(a, b, "different sizes", "scale or crop one of them")
    if mask is not None:
        _check_same_size(a, mask, "--mask of another size", "the mask must have the images' size")
        mask = _cropped(mask, settings.crop_border)
    size = (a.shape[1], a.shape[0])
    a, b = (
        channels_of(_cropped(image, settings.crop_border), settings.channels) for image in (a, b)
    )
    count = max(a.shape[2], b.shape[2])
    a, b = (np.broadcast_to(image, (*image.shape[:2], count)) for image in (a, b))
    _check_window_fits(a, settings)
    names = CHANNEL_NAMES[count] if settings.channels in ("each", "rgb") else ("Y",)
    return Prepared(a, b, mask, names, size)


def measure(
    a: Pixels,
    b: Pixels,
    settings: Settings,
    *,
    mask: Pixels | None = None,
    with_map: bool = False,
    threads: int = 0,
) -> Scores:
    """Compare two images as prepare() takes them, on `threads` threads of the CPU (0: all)."""
    images = prepare(a, b, settings, mask)
    if needs_torch(settings, mask):
        return measure_by_torch([images], settings, with_map=with_map)[0]
    return measure_by_kernels(images, settings, with_map=with_map, threads=threads)


def measure_by_kernels(
    images: Prepared, settings: Settings, *, with_map: bool, threads: int
) -> Scores:
    """On NumPy's memory, where needs_torch() says that this does."""
    with _one_line_errors():
        planes = _by_kernels(images.a, images.b, settings, with_map=with_map, threads=threads)
    return _scores(planes, settings, images)


def measure_by_torch(
    pairs: Sequence[Prepared], settings: Settings, *, with_map: bool
) -> list[Scores]:
    """A batch: pairs of one shape and one dtype."""
    from fused_ssim.cli import by_torch

    with _one_line_errors():
        batch = by_torch.measure(pairs, settings, with_map=with_map)
    return [_scores(planes, settings, pair) for planes, pair in zip(batch, pairs, strict=True)]


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """What a pair's size or type causes, as a CliError."""
    try:
        yield
    except (ValueError, NotImplementedError) as error:
        raise CliError(first_line(error)) from None
    except MemoryError:
        raise CliError("not enough memory for images of this size") from None


@dataclass(frozen=True)
class Planes:
    """What kernels measure of each channel."""

    ssim: Sequence[float]
    mse: Sequence[float]
    l1: Sequence[float] | None = None
    ms_ssim: Sequence[float] | None = None
    ssim_map: Pixels | None = None


def _scores(planes: Planes, settings: Settings, images: Prepared) -> Scores:
    per_channel: dict[Metric, tuple[float, ...]] = {}
    values: dict[Metric, float] = {}
    for metric in settings.metrics:
        if metric == "psnr":
            per_channel[metric] = tuple(map(psnr_db, planes.mse))
            # Of all channels' error together, not a mean of decibels.
            values[metric] = psnr_db(_mean(planes.mse))
            continue
        if metric == "ssim":
            numbers = planes.ssim
        elif metric == "ms-ssim":
            assert planes.ms_ssim is not None  # by_torch has it
            numbers = planes.ms_ssim
        else:
            assert planes.l1 is not None  # both ways have it where the metric is asked for
            numbers = [
                (1 - _SSIM_WEIGHT) * l1 + _SSIM_WEIGHT * (1 - ssim)
                for l1, ssim in zip(planes.l1, planes.ssim, strict=True)
            ]
        per_channel[metric] = tuple(numbers)
        values[metric] = _mean(numbers)
    return Scores(values, per_channel, images.channel_names, images.size, planes.ssim_map)


def psnr_db(mse: float) -> float:
    """PSNR of a mean squared error for a data range of 1; infinite for none."""
    return -10.0 * math.log10(mse) if mse > 0.0 else math.inf


def _definition(settings: Settings, padding: Padding) -> Definition:
    taps = _taps(settings.window, settings.window_size, settings.sigma)
    # The images have been extended where the border is neither zeros nor cropped.
    return definition_of((taps, taps), 0.01**2, 0.03**2, valid=padding != "same")


@lru_cache(maxsize=8)
def _taps(window: str | tuple[float, ...], size: int, sigma: float) -> tuple[float, ...]:
    if not isinstance(window, str):
        return window
    gaussian = tuple(_C.gaussian_taps(size, sigma))  # checks the size of both
    return gaussian if window == "gaussian" else (1.0 / size,) * size


def needs_torch(settings: Settings, mask: Pixels | None) -> bool:
    """Whether kernels on NumPy's memory do not do."""
    return settings.device != "cpu" or mask is not None or "ms-ssim" in settings.metrics


def _by_kernels(
    a: Pixels, b: Pixels, settings: Settings, *, with_map: bool, threads: int
) -> Planes:
    padding = settings.ssim_padding
    definition = _definition(settings, padding)
    x, y = a, b
    radius = settings.window_size // 2
    if padding in _NUMPY_BORDERS:
        widths = ((radius, radius), (radius, radius), (0, 0))
        x, y = (np.pad(image, widths, mode=_NUMPY_BORDERS[padding]) for image in (a, b))
    ssim, mse = (
        [float(number) for number in numbers[0]]
        for numbers in _arrays.ssim_and_mse(x, y, "HWC", definition=definition, threads=threads)
    )
    if padding == "valid" and "psnr" in settings.metrics:
        # The pass saw the pixels with a whole window alone; PSNR is of all.
        mse = _mean_of_channels(np.square(_differences(a, b), dtype=np.float32))
    l1 = None
    if "l1-ssim" in settings.metrics:
        inner = slice(radius, -radius or None) if padding == "valid" else slice(None)
        l1 = _mean_of_channels(_differences(a[inner, inner], b[inner, inner]))
    ssim_map = None
    if with_map:
        ssim_map = _arrays.ssim_map(x, y, "HWC", definition=definition, threads=threads)
    return Planes(ssim=ssim, mse=mse, l1=l1, ssim_map=ssim_map)


def _differences(a: Pixels, b: Pixels) -> Pixels:
    """[H, W, C]: |a - b|, float32 in 0..1."""
    if a.dtype == b.dtype == np.uint8:
        return as_floats(np.maximum(a, b) - np.minimum(a, b))
    difference: Pixels = np.abs(as_floats(a) - as_floats(b))
    return difference


def _mean_of_channels(values: Pixels) -> list[float]:
    return [float(mean) for mean in values.mean(axis=(0, 1), dtype=np.float64)]


def as_floats(image: Pixels) -> Pixels:
    """Pixels as float32 in 0..1."""
    return np.divide(image, 255, dtype=np.float32) if image.dtype == np.uint8 else image


def channels_of(image: Pixels, channels: Channels) -> Pixels:
    """The channels that are measured."""
    if channels not in _LUMA:
        return image
    weights, black = _LUMA[channels]
    values = as_floats(image)
    if image.shape[2] == 1:
        values = np.repeat(values, 3, axis=2)
    luma: Pixels = values @ np.asarray(weights, np.float32) + np.float32(black)
    return luma[..., None]


def _cropped(image: Pixels, border: int) -> Pixels:
    height, width = image.shape[:2]
    if 2 * border >= min(height, width):
        raise CliError(
            f"{width}x{height} pixels have nothing left within --crop-border {border}; "
            "give a smaller one"
        )
    return image[border : height - border, border : width - border]


def _check_same_size(a: Pixels, b: Pixels, what: str, remedy: str) -> None:
    (height_a, width_a), (height_b, width_b) = a.shape[:2], b.shape[:2]
    if (height_a, width_a) != (height_b, width_b):
        raise CliError(f"{what}: {width_a}x{height_a} and {width_b}x{height_b} pixels; {remedy}")


def _check_window_fits(image: Pixels, settings: Settings) -> None:
    height, width = image.shape[:2]
    size = settings.window_size
    least = {"valid": size, "reflect": size // 2 + 1}.get(settings.ssim_padding, 1)
    if min(height, width) < least:
        raise CliError(
            f"{width}x{height} pixels is smaller than the window of {size}; "
            "use --padding same or a smaller --window-size"
        )


def _mean(numbers: Sequence[float]) -> float:
    return math.fsum(numbers) / len(numbers)
