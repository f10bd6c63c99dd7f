"""docs/conventions.md: which of our arguments give which library's number.

Libraries that the tests depend on are called. Of the others the numbers are recorded, with the version that
gave them; to see what those that are installed give today (of fastMRI losses.py alone, as fastmri_losses):

    PYTHONPATH=tests python tests/test_conventions.py
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from fused_ssim import ms_ssim, ssim
from images import blurred, photograph
from measure import max_error

Pair = tuple[Tensor, Tensor]


def images() -> Pair:
    """Two photographs, darker and blurred, and as they are; float64 in [0, 1], of even sizes."""
    truth = torch.cat(
        [photograph("astronaut")[..., 40:216, 120:360], photograph("chelsea")[..., 60:236, 100:340]]
    ).double()
    return 0.9 * blurred(truth) + 0.03, truth


def pixels() -> Pair:
    """The same as uint8."""
    image, truth = ((255 * each).round().to(torch.uint8) for each in images())
    return image, truth


def volumes() -> Pair:
    """[1, 1, 30, 40, 48]: pieces of the photographs, one above the other."""
    image, truth = (
        torch.stack([each[0, c, top : top + 40, :48] for c in range(3) for top in range(0, 50, 5)])
        for each in images()
    )
    return image[None, None], truth[None, None]


def the(module: str, name: str) -> Callable[..., Any]:
    """A library's function, looked up when it is called."""
    return lambda *arguments, **options: getattr(importlib.import_module(module), name)(
        *arguments, **options
    )


def by_array(function: Callable[..., Any], x: Tensor, y: Tensor) -> list[float]:
    """For functions of one image, [H, W, C] in NumPy's terms."""
    x, y = (image.permute(0, 2, 3, 1).contiguous() for image in (x, y))
    return [function(a.numpy(), b.numpy()) for a, b in zip(x, y, strict=True)]


def by_opencv(a: numpy.ndarray, b: numpy.ndarray) -> float:
    cv2 = importlib.import_module("cv2")
    return sum(cv2.quality.QualitySSIM_compute(a, b)[0][:3]) / 3


def by_tensorflow(name: str, x: Tensor, y: Tensor) -> list[float]:
    function = getattr(importlib.import_module("tensorflow").image, name)
    return list(map(float, function(*(i.permute(0, 2, 3, 1).numpy() for i in (x, y)), 1.0)))


def by_fastmri(x: Tensor, y: Tensor) -> Tensor:
    loss = the("fastmri_losses", "SSIMLoss")().double()
    return 1 - loss(x[:, :1], y[:, :1], y[:, 0].amax((1, 2)))


def ours_as_fastmri(x: Tensor, y: Tensor) -> Tensor:
    x, y = x[:, :1], y[:, :1]
    return ssim(x, y, data_range=y.amax((1, 2, 3)), unbiased=True, **UNIFORM)


def ours_as_a_loss(x: Tensor, y: Tensor) -> Tensor:
    values = ssim(x, y, padding="reflect", reduction="none")
    return ((1 - values) / 2).clamp(0, 1).mean()


UNIFORM = {"window": "uniform", "window_size": 7, "padding": "valid"}
valid = partial(ssim, padding="valid", reduction="image")
reflected = partial(ssim, padding="reflect", reduction="image")
scales = partial(ms_ssim, reduction="image")
skimage = the("skimage.metrics", "structural_similarity")
standard = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
torchmetrics = "torchmetrics.functional.image"


@dataclass(frozen=True)
class Line:
    """A line of the page."""

    name: str
    make: Callable[[], Pair]
    ours: Callable[[Tensor, Tensor], Tensor]
    theirs: Callable[[Tensor, Tensor], Any]
    bound: float  # what their arithmetic in float32, or taps in float32, are off by
    version: str | None = None  # of the recorded numbers; None: the library is called
    recorded: tuple[float, ...] = ()


LINES = [
    Line(
        "pytorch-msssim ssim",
        pixels,
        partial(valid, data_range=255),
        lambda x, y: the("pytorch_msssim", "ssim")(x.double(), y.double(), size_average=False),
        1e-5,
    ),
    Line(
        "pytorch-msssim ms_ssim",
        pixels,
        partial(scales, data_range=255),
        lambda x, y: the("pytorch_msssim", "ms_ssim")(x.double(), y.double(), size_average=False),
        1e-5,
    ),
    Line(
        "torchmetrics structural_similarity_index_measure",
        images,
        reflected,
        partial(
            the(torchmetrics, "structural_similarity_index_measure"),
            data_range=1.0,
            reduction="none",
        ),
        1e-9,
    ),
    Line(
        "scikit-image structural_similarity",
        images,
        partial(ssim, reduction="image", unbiased=True, **UNIFORM),
        partial(by_array, partial(skimage, data_range=1, channel_axis=-1)),
        1e-9,
    ),
    Line(
        "scikit-image structural_similarity, the standard one",
        images,
        valid,
        partial(by_array, partial(skimage, data_range=1, channel_axis=-1, **standard)),
        1e-9,
    ),
    Line(
        "kornia ssim",
        images,
        reflected,
        lambda x, y: the("kornia.metrics", "ssim")(x, y, 11).mean((1, 2, 3)),
        1e-6,
        "0.9.0",
        (0.786526047, 0.676326955),
    ),
    Line(
        "kornia ssim3d",
        volumes,
        partial(reflected, spatial_dims=3),
        lambda x, y: the("kornia.metrics", "ssim3d")(x, y, 11).mean(),
        1e-6,
        "0.9.0",
        (0.920793013,),
    ),
    Line(
        "kornia ssim_loss",
        images,
        ours_as_a_loss,
        lambda x, y: the("kornia.losses", "ssim_loss")(x, y, 11),
        1e-6,
        "0.9.0",
        (0.134286750,),
    ),
    Line(
        "piqa SSIM",
        images,
        valid,
        lambda x, y: the("piqa", "SSIM")(reduction="none").double()(x, y),
        1e-5,
        "1.3.2",
        (0.789237369, 0.675594945),
    ),
    Line(
        "piqa MS_SSIM",
        images,
        scales,
        lambda x, y: the("piqa", "MS_SSIM")(reduction="none").double()(x, y),
        1e-5,
        "1.3.2",
        (0.962648696, 0.929097677),
    ),
    Line(
        "frame-analytics ssim",
        images,
        valid,
        partial(the("frame_analytics", "ssim"), data_range=1.0, reduction="none"),
        1e-8,
        "0.7.0",
        (0.789234986, 0.675592045),
    ),
    Line(
        "frame-analytics ms_ssim",
        images,
        scales,
        partial(the("frame_analytics", "ms_ssim"), data_range=1.0, reduction="none"),
        1e-8,
        "0.7.0",
        (0.962648378, 0.929097084),
    ),
    Line(
        "MONAI SSIMMetric",
        images,
        valid,
        lambda x, y: the("monai.metrics", "SSIMMetric")(2)(x, y),
        1e-4,  # four millionths, were it not in float32
        "1.6.1",
        (0.789260030, 0.675591648),
    ),
    Line(
        "MONAI SSIMMetric of volumes",
        volumes,
        partial(valid, spatial_dims=3),
        lambda x, y: the("monai.metrics", "SSIMMetric")(3)(x, y),
        1e-4,
        "1.6.1",
        (0.924926698,),
    ),
    Line("fastMRI SSIMLoss", images, ours_as_fastmri, by_fastmri, 1e-5, "0.3.0", (0.752851284,)),
    Line(
        "tf.image.ssim",
        images,
        valid,
        partial(by_tensorflow, "ssim"),
        1e-5,
        "2.21.0",
        (0.789233685, 0.675585449),
    ),
    Line(
        "tf.image.ssim_multiscale",
        images,
        scales,
        partial(by_tensorflow, "ssim_multiscale"),
        1e-5,
        "2.21.0",
        (0.962646544, 0.929096699),
    ),
    Line(
        "OpenCV QualitySSIM",
        pixels,
        partial(reflected, data_range=255),
        partial(by_array, by_opencv),
        1e-5,
        "5.0.0.93",
        (0.785948515, 0.675935566),
    ),
    Line(
        "fast-ssim ssim",
        pixels,
        partial(ssim, data_range=255, reduction="image", unbiased=True, **UNIFORM),
        partial(by_array, the("fast_ssim", "ssim")),
        1e-5,
        "1.4.0",
        (0.807212472, 0.702742636),
    ),
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
def test_a_library_s_number(device, line):
    x, y = line.make()
    theirs = line.theirs(x, y) if line.version is None else line.recorded
    ours = line.ours(x.to(device), y.to(device)).reshape(-1).cpu()
    assert max_error(ours, torch.as_tensor(theirs, dtype=torch.float64).reshape(-1)) <= line.bound


if __name__ == "__main__":
    for line in LINES:
        try:
            values = torch.as_tensor(line.theirs(*line.make())).double().reshape(-1).tolist()
        except ImportError as error:
            print(f"{line.name}: {error}")
        else:
            print(f"{line.name}: {[round(v, 9) for v in values]}, recorded {list(line.recorded)}")
