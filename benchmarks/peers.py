"""The libraries that are compared, each behind the same three functions.

    inference    the mean SSIM, no gradient
    training     the mean SSIM, differentiable
    photometric  0.8 L1 + 0.2 (1 - SSIM), differentiable: the loss of 3D Gaussian Splatting

All with a Gaussian window of 11 taps, sigma 1.5, data range 1. What they do at the border differs
(zeros, reflection, or whole windows only) and changes the work by a percent or so.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

import torch
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss

KINDS = ("inference", "training", "photometric")
SSIM_WEIGHT = 0.2

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Library:
    """A name for tables and plots, and the function for each kind that the library has."""

    name: str
    version: str
    functions: dict[str, Loss]


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


def _fused_ssim() -> Library:
    import fused_ssim

    def inference(x: Tensor, y: Tensor) -> Tensor:
        return fused_ssim.fused_ssim(x, y, train=False)

    def photometric(x: Tensor, y: Tensor) -> Tensor:
        return fused_ssim.l1_ssim_loss(x, y, ssim_weight=SSIM_WEIGHT)

    functions: dict[str, Loss] = {
        "inference": inference,
        "training": fused_ssim.fused_ssim,
        "photometric": photometric,
    }
    return Library("fused_ssim", fused_ssim.__version__, functions)


def _original(module_name: str | None) -> Library:
    if module_name is None:
        raise ImportError("name its module with --original, installed beside this package")
    module = importlib.import_module(module_name)

    def inference(x: Tensor, y: Tensor) -> Tensor:
        value: Tensor = module.fused_ssim(x, y, train=False)
        return value

    def training(x: Tensor, y: Tensor) -> Tensor:
        value: Tensor = module.fused_ssim(x, y)
        return value

    return Library("original", "unknown", _with_photometric(inference, training))


def _pytorch_msssim() -> Library:
    package = importlib.import_module("pytorch_msssim")
    windows: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}

    def training(x: Tensor, y: Tensor) -> Tensor:
        # The window is kept on the device, as a careful user would: left to itself, the package
        # builds it on the CPU and copies it at every call.
        key = (x.shape[1], x.dtype, x.device)
        if key not in windows:
            windows[key] = _window(x).repeat(x.shape[1], 1, 1, 1)
        value: Tensor = package.ssim(x, y, data_range=1.0, win=windows[key])
        return value

    version = metadata.version("pytorch-msssim")
    return Library("pytorch-msssim", version, _with_photometric(training, training))


def _window(like: Tensor) -> Tensor:
    offsets = torch.arange(11, dtype=torch.float64) - 5
    taps = torch.exp(-offsets.square() / (2 * 1.5**2))
    return (taps / taps.sum()).to(like).view(1, 1, 1, -1)


def _torchmetrics() -> Library:
    functional = importlib.import_module("torchmetrics.functional.image")

    def training(x: Tensor, y: Tensor) -> Tensor:
        value: Tensor = functional.structural_similarity_index_measure(x, y, data_range=1.0)
        return value

    version = metadata.version("torchmetrics")
    return Library("torchmetrics", version, _with_photometric(training, training))


def _mse_loss() -> Library:
    # No rival, a yardstick: about the least that a loss over two images can cost in torch.
    return Library("mse_loss", torch.__version__, {"inference": mse_loss, "training": mse_loss})


def _with_photometric(inference: Loss, training: Loss) -> dict[str, Loss]:
    def photometric(x: Tensor, y: Tensor) -> Tensor:
        return (1.0 - SSIM_WEIGHT) * l1_loss(x, y) + SSIM_WEIGHT * (1.0 - training(x, y))

    return {"inference": inference, "training": training, "photometric": photometric}


_LOADERS = {
    "fused_ssim": _fused_ssim,
    "pytorch-msssim": _pytorch_msssim,
    "torchmetrics": _torchmetrics,
    "mse_loss": _mse_loss,
}
NAMES = (*_LOADERS, "original")
