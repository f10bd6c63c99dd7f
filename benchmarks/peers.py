"""The libraries that are compared, each behind the same functions, one for each kind of step.

A Gaussian window of 11 taps, sigma 1.5, data range 1 (255 for 8-bit images), unless the kind says
otherwise. What they do at the border differs (zeros, reflection, or whole windows only) and changes the
work by a percent or so. A library that cannot be imported is left out, with a note.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss
from workload import Library, Loss

SSIM_WEIGHT = 0.2
_UNIFORM = {"window": "uniform", "window_size": 7, "padding": "valid", "unbiased": True}
_FFMPEG_FRAMES = 24


def load(names: list[str], original_module: str | None) -> tuple[list[Library], list[str]]:
    """The libraries that can be imported, and a note for each that cannot."""
    libraries, notes = [], []
    for name in names:
        try:
            libraries.append(load_one(name, original_module))
        except ImportError as error:
            notes.append(f"{name} is left out: {error}")
    return libraries, notes


def load_one(name: str, original_module: str | None = None) -> Library:
    """One library by its name."""
    if name == "original":
        return _original(original_module)
    return _LOADERS[name]()


@cache
def _mask(height: int, width: int, device: torch.device) -> Tensor:
    """Nine pixels in ten, for all planes."""
    generator = torch.Generator(device).manual_seed(1)
    return torch.rand(height, width, generator=generator, device=device) > 0.1


def _mask_of(x: Tensor) -> Tensor:
    return _mask(*x.shape[-2:], x.device)


def _fused_ssim() -> Library:
    import fused_ssim

    in_bytes: dict[str, Any] = {"data_range": 255, "padding": "valid"}
    functions: dict[str, Loss] = {
        "inference": partial(fused_ssim.fused_ssim, train=False),
        "training": fused_ssim.fused_ssim,
        "photometric": partial(fused_ssim.l1_ssim_loss, ssim_weight=SSIM_WEIGHT),
        "masked": lambda x, y: fused_ssim.ssim(x, y, mask=_mask_of(x)),
        "ms_ssim": fused_ssim.ms_ssim,
        "ms_ssim_training": fused_ssim.ms_ssim,
        "uint8": partial(fused_ssim.ssim, **in_bytes),
        "uint8_uniform": partial(fused_ssim.ssim, data_range=255, **_UNIFORM),
        "volume": partial(fused_ssim.fused_ssim3d, padding="valid", train=False),
        "volume_training": partial(fused_ssim.fused_ssim3d, padding="valid"),
    }
    return Library("fused_ssim", fused_ssim.__version__, functions)


def _torch_operations() -> Library:
    """This package's composite: what the same numbers cost without its kernels."""
    from fused_ssim import _route

    def without_kernels(function: Loss, x: Tensor, y: Tensor) -> Tensor:
        before, _route.composite_is_forced = _route.composite_is_forced, True
        try:
            return function(x, y)
        finally:
            _route.composite_is_forced = before

    functions = _fused_ssim().functions
    kinds = ("masked", "volume", "volume_training")
    return Library(
        "torch operations",
        torch.__version__,
        {kind: partial(without_kernels, functions[kind]) for kind in kinds},
    )


def _original(module_name: str | None) -> Library:
    if module_name is None:
        raise ImportError("name its module with --original, installed beside this package")
    module = importlib.import_module(module_name)
    functions = _of_ssim(module.fused_ssim) | {"inference": partial(module.fused_ssim, train=False)}
    if hasattr(module, "fused_ssim3d"):
        functions |= _of_volumes(partial(module.fused_ssim3d, padding="valid"))
    return Library("original", "unknown", functions, on=("cuda",), on_default_stream=True)


def _pytorch_msssim() -> Library:
    package = importlib.import_module("pytorch_msssim")

    @cache
    def window(channels: int, axes: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        # Kept on the device, as a careful user would: left to itself, the package builds it on the
        # CPU and copies it at every call.
        offsets = torch.arange(11, dtype=torch.float64) - 5
        taps = torch.exp(-offsets.square() / (2 * 1.5**2))
        taps = (taps / taps.sum()).to(device, dtype)
        return taps.expand(channels, *[1] * axes, 11).contiguous()

    def of(function: str, x: Tensor, y: Tensor, data_range: float = 1.0) -> Tensor:
        win = window(x.shape[1], x.dim() - 2, x.dtype, x.device)
        value: Tensor = getattr(package, function)(x, y, data_range=data_range, win=win)
        return value

    ssim, scales = partial(of, "ssim"), partial(of, "ms_ssim")
    functions: dict[str, Loss] = {
        **_of_ssim(ssim),
        **_of_volumes(ssim),
        "ms_ssim": scales,
        "ms_ssim_training": scales,
        "uint8": lambda x, y: ssim(x.float(), y.float(), data_range=255),
    }
    return Library("pytorch-msssim", metadata.version("pytorch-msssim"), functions)


def _torchmetrics() -> Library:
    image = importlib.import_module("torchmetrics.functional.image")
    ssim = partial(image.structural_similarity_index_measure, data_range=1.0)
    scales = partial(image.multiscale_structural_similarity_index_measure, data_range=1.0)
    functions = _of_ssim(ssim) | {"ms_ssim": scales, "ms_ssim_training": scales}
    functions |= _of_volumes(ssim)
    return Library("torchmetrics", metadata.version("torchmetrics"), functions)


def _frame_analytics() -> Library:
    package = importlib.import_module("frame_analytics")
    ssim, scales = (partial(f, data_range=1.0) for f in (package.ssim, package.ms_ssim))
    functions = _of_ssim(ssim) | {"ms_ssim": scales, "ms_ssim_training": scales}
    functions["uint8"] = partial(package.ssim, data_range=255.0)
    return Library("frame-analytics", metadata.version("frame-analytics"), functions)


def _kornia() -> Library:
    metrics = importlib.import_module("kornia.metrics")

    def masked(x: Tensor, y: Tensor) -> Tensor:
        mask = _mask_of(x).to(x.dtype).expand_as(x)
        value: Tensor = (metrics.ssim(x, y, 11) * mask).sum() / mask.sum()
        return value

    functions = _of_ssim(lambda x, y: metrics.ssim(x, y, 11).mean())
    functions |= _of_volumes(lambda x, y: metrics.ssim3d(x, y, 11).mean()) | {"masked": masked}
    return Library("kornia", metadata.version("kornia"), functions)


def _piqa() -> Library:
    package = importlib.import_module("piqa")

    @cache
    def module(name: str, channels: int, dtype: torch.dtype, device: torch.device) -> Any:
        return getattr(package, name)(n_channels=channels).to(device, dtype)

    def of(name: str, x: Tensor, y: Tensor) -> Tensor:
        value: Tensor = module(name, x.shape[1], x.dtype, x.device)(x, y)
        return value

    scales = partial(of, "MS_SSIM")
    functions = _of_ssim(partial(of, "SSIM")) | {"ms_ssim": scales, "ms_ssim_training": scales}
    return Library("piqa", metadata.version("piqa"), functions)


def _scikit_image() -> Library:
    function = importlib.import_module("skimage.metrics").structural_similarity
    standard = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}

    def of(x: Tensor, y: Tensor, **arguments: Any) -> Tensor:
        pairs = zip(x.numpy(), y.numpy(), strict=True)
        return torch.tensor([function(a, b, channel_axis=0, **arguments) for a, b in pairs]).mean()

    functions: dict[str, Loss] = {
        "inference": partial(of, data_range=1.0, **standard),
        "uint8": partial(of, **standard),
        "uint8_uniform": of,
        "volume": partial(of, data_range=1.0, **standard),
    }
    return Library("scikit-image", metadata.version("scikit-image"), functions, on=("cpu",))


def _opencv() -> Library:
    cv2 = importlib.import_module("cv2")
    if not hasattr(cv2, "quality"):
        raise ImportError("cv2 has no module quality; opencv-contrib-python-headless has it")

    def of(a: Any, b: Any) -> float:
        return sum(cv2.quality.QualitySSIM_compute(a, b)[0][: a.shape[-1]]) / a.shape[-1]

    return Library("OpenCV", cv2.__version__, {"uint8": partial(_interleaved, of)}, on=("cpu",))


def _fast_ssim() -> Library:
    function = importlib.import_module("fast_ssim").ssim
    functions: dict[str, Loss] = {"uint8_uniform": partial(_interleaved, function)}
    return Library("fast-ssim", metadata.version("fast-ssim"), functions, on=("cpu",))


def _interleaved(function: Callable[[Any, Any], float], x: Tensor, y: Tensor) -> Tensor:
    """By a function of arrays [H, W, C] in their usual layout, which is made once for each image."""
    pairs = zip(_last(x), _last(y), strict=True)
    return torch.tensor([function(a, b) for a, b in pairs]).mean()


@cache
def _last(image: Tensor) -> Any:
    return image.permute(0, 2, 3, 1).contiguous().numpy()


def _ffmpeg() -> Library:
    """Its filter, whose window is 8 x 8 at every fourth pixel; a run of many frames, start included."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise ImportError("there is no program ffmpeg")
    folder = tempfile.TemporaryDirectory()
    paths: dict[int, Path] = {}

    def clip(image: Tensor) -> list[str]:
        path = paths.setdefault(id(image), Path(folder.name) / f"{id(image)}.rgb")
        if not path.exists():
            path.write_bytes(_last(image)[0].tobytes() * _FFMPEG_FRAMES)
        size = f"{image.shape[-1]}x{image.shape[-2]}"
        return ["-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", size, "-i", str(path)]

    def of(x: Tensor, y: Tensor) -> Tensor:
        if x.shape[:2] != (1, 3):
            raise ValueError("one image of three channels at a time")
        command = [program, "-hide_banner", "-nostdin", *clip(x), *clip(y)]
        command += ["-lavfi", "format=gbrp,ssim", "-f", "null", "-"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return torch.tensor(float(done.stderr.rpartition("All:")[2].split()[0]))

    version = subprocess.run([program, "-version"], check=True, capture_output=True, text=True)
    functions: dict[str, Loss] = {"uint8_uniform": of}
    return Library("ffmpeg", version.stdout.split()[2], functions, ("cpu",), _FFMPEG_FRAMES)


def _mse_loss() -> Library:
    # No rival, a yardstick: about the least that a loss over two images can cost in torch.
    return Library("mse_loss", torch.__version__, {"inference": mse_loss, "training": mse_loss})


def _of_ssim(ssim: Loss) -> dict[str, Loss]:
    def photometric(x: Tensor, y: Tensor) -> Tensor:
        return (1.0 - SSIM_WEIGHT) * l1_loss(x, y) + SSIM_WEIGHT * (1.0 - ssim(x, y))

    return {"inference": ssim, "training": ssim, "photometric": photometric}


def _of_volumes(ssim: Loss) -> dict[str, Loss]:
    return {"volume": ssim, "volume_training": ssim}


_LOADERS = {
    "fused_ssim": _fused_ssim,
    "frame-analytics": _frame_analytics,
    "pytorch-msssim": _pytorch_msssim,
    "torchmetrics": _torchmetrics,
    "kornia": _kornia,
    "piqa": _piqa,
    "scikit-image": _scikit_image,
    "OpenCV": _opencv,
    "fast-ssim": _fast_ssim,
    "ffmpeg": _ffmpeg,
    "torch operations": _torch_operations,
    "mse_loss": _mse_loss,
}
NAMES = (*_LOADERS, "original")


def forms(subject: str) -> list[Library]:
    """Forms of this package's SSIM in place of libraries: "windows" of many sizes, or "masks"."""
    import fused_ssim

    functions: dict[str, Loss] = {}
    if subject == "windows":
        for taps in (11, 3, 5, 7, 9, 13, 15, 21, 33):
            # Sigma grows with the window as 1.5 does with 11 taps.
            functions[f"{taps} taps"] = partial(
                fused_ssim.ssim, window_size=taps, sigma=taps * 1.5 / 11
            )
    else:
        functions["none"] = fused_ssim.ssim
        for mode in ("weighted", "normalized"):
            for dtype in ("bool", "float"):
                functions[f"{mode}, {dtype}"] = partial(_under_a_mask, mode, dtype)
    return [
        Library(name, fused_ssim.__version__, dict.fromkeys(("inference", "training"), function))
        for name, function in functions.items()
    ]


def _under_a_mask(mode: str, dtype: str, x: Tensor, y: Tensor) -> Tensor:
    import fused_ssim

    mask = _mask_of(x) if dtype == "bool" else _numbers(x.shape, x.device)
    return fused_ssim.ssim(x, y, mask=mask, mask_mode=mode)


@cache
def _numbers(shape: torch.Size, device: torch.device) -> Tensor:
    generator = torch.Generator(device).manual_seed(1)
    return torch.rand(shape, generator=generator, device=device)
