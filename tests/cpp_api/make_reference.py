"""What the Python package computes and says: test_api.cpp does the same and compares.

    python tests/cpp_api/make_reference.py FILE [DEVICE]

Writes one dictionary with torch.save(): for each case of CASES its images, value and gradients, for
each case of ERRORS the message. The cases have the same names in test_api.cpp. And writes a program
in TorchScript that calls the operators, FILE.script.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

import fused_ssim
from fused_ssim import FusedSSIMMap, _windows, l1_ssim_loss, ms_ssim, ssim, ssim_and_mse

Pair = tuple[torch.Tensor, torch.Tensor]
FILE = sys.argv[1]
DEVICE = sys.argv[2] if len(sys.argv) > 2 else "cpu"


def pair(dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (2, 3, 37, 29)) -> Pair:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(shape, generator=generator)
    y = 0.6 * x + 0.4 * torch.rand(shape, generator=generator)
    return x.to(DEVICE, dtype), y.to(DEVICE, dtype)


def channels_last(images: Pair) -> Pair:
    x, y = images
    return x.to(memory_format=torch.channels_last), y.to(memory_format=torch.channels_last)


def uint8(image: torch.Tensor) -> torch.Tensor:
    return (255 * image).round().to(torch.uint8)


X, Y = pair()
LARGE_X, LARGE_Y = pair(shape=(1, 2, 163, 170))
U, V = uint8(X), uint8(Y)
VOLUMES = pair(shape=(2, 1, 13, 17, 12))
CASES: dict[str, tuple[Pair, Callable[..., torch.Tensor]]] = {
    "fused_ssim": ((X, Y), lambda x, y: fused_ssim.fused_ssim(x, y)),
    "fused_ssim valid": ((X, Y), lambda x, y: fused_ssim.fused_ssim(x, y, "valid")),
    "float16": (pair(torch.float16), lambda x, y: fused_ssim.fused_ssim(x, y)),
    "bfloat16": (pair(torch.bfloat16), lambda x, y: fused_ssim.fused_ssim(x, y)),
    "float64": (pair(torch.float64), lambda x, y: fused_ssim.fused_ssim(x, y)),
    "channels_last": (channels_last((X, Y)), lambda x, y: fused_ssim.fused_ssim(x, y)),
    "defaults": ((X, Y), lambda x, y: ssim(x, y)),
    "sum": ((X, Y), lambda x, y: ssim(x, y, reduction="sum")),
    "image": ((X, Y), lambda x, y: ssim(x, y, reduction="image")),
    "channel": ((X, Y), lambda x, y: ssim(x, y, reduction="channel", padding="valid")),
    "none": ((X, Y), lambda x, y: ssim(x, y, reduction="none", padding="valid")),
    "options": (
        (X, Y),
        lambda x, y: ssim(x, y, data_range=2.0, window_size=7, sigma=1.1, k1=0.02, k2=0.05),
    ),
    "unbiased": ((X, Y), lambda x, y: ssim(x, y, unbiased=True)),
    "ms_ssim": ((LARGE_X, LARGE_Y), lambda x, y: ms_ssim(x, y)),
    "ms_ssim options": (
        (X, Y),
        lambda x, y: ms_ssim(
            x,
            y,
            window_size=5,
            sigma=1.1,
            weights=(0.2, 0.3, 0.5),
            padding="same",
            reduction="channel",
            negative="smooth",
            odd_sizes="crop",
        ),
    ),
    "uniform": ((X, Y), lambda x, y: ssim(x, y, window="uniform", window_size=7)),
    "l1_ssim_loss": ((X, Y), lambda x, y: l1_ssim_loss(x, y)),
    "l1_ssim_loss 0.7 valid": ((X, Y), lambda x, y: l1_ssim_loss(x, y, 0.7, "valid")),
    "FusedSSIMMap": ((X, Y), lambda x, y: FusedSSIMMap.apply(1e-4, 9e-4, x, y, "valid")),
    "contrast": ((X, Y), lambda x, y: ssim(x, y, component="contrast")),
    "luminance": ((X, Y), lambda x, y: ssim(x, y, component="luminance", reduction="none")),
    "taps": ((X, Y), lambda x, y: ssim(x, y, window=[0.5, 0.3, 0.2], padding="valid")),
    "long window": ((X, Y), lambda x, y: ssim(x, y, window_size=35, sigma=4.0)),
    "float16 and float32": (
        (pair(torch.float16)[0], Y),
        lambda x, y: fused_ssim.fused_ssim(x, y),
    ),
    "uint8 target": ((X, V), lambda x, y: l1_ssim_loss(x, y)),
    "uint8 and float64": ((U, Y.double()), lambda x, y: ssim(x, y, reduction="none")),
    "signals": (
        (X[:, :, 5], Y[:, :, 5]),
        lambda x, y: ssim(x, y, padding="valid", reduction="none", spatial_dims=1),
    ),
    "signals, loss": ((X[..., 3], Y[..., 3]), lambda x, y: l1_ssim_loss(x, y, spatial_dims=1)),
    "volumes": (VOLUMES, lambda x, y: fused_ssim.fused_ssim3d(x, y)),
    "volumes, valid": (VOLUMES, lambda x, y: fused_ssim.fused_ssim3d(x, y, "valid")),
    "volumes, options": (
        VOLUMES,
        lambda x, y: ssim(
            x, y, window="uniform", window_size=5, unbiased=True, reduction="image", spatial_dims=3
        ),
    ),
    "volumes, map": (VOLUMES, lambda x, y: FusedSSIMMap.apply(1e-4, 9e-4, x, y, "same", True, 3)),
    "volumes, loss": (VOLUMES, lambda x, y: l1_ssim_loss(x, y, 0.3, spatial_dims=3)),
    "volumes, mask": (
        VOLUMES,
        lambda x, y: ssim(
            x, y, mask=y.detach()[0, 0] > 0.4, mask_mode="normalized", spatial_dims=3
        ),
    ),
    "volumes, ms_ssim": (
        VOLUMES,
        lambda x, y: ms_ssim(x, y, window_size=3, weights=(0.4, 0.6), spatial_dims=3),
    ),
    "two of uint8": ((U, V), lambda x, y: fused_ssim.fused_ssim(x, y)),
    "mask": ((X, Y), lambda x, y: ssim(x, y, mask=y.detach()[0, 0] > 0.4)),
    "mask normalized": (
        (X, Y),
        lambda x, y: ssim(
            x, y, mask=y.detach(), mask_mode="normalized", padding="valid", reduction="image"
        ),
    ),
    "mask and float16": (
        pair(torch.float16),
        lambda x, y: ssim(x, y, mask=y.detach()[:, :1] > 0.4, padding="valid", reduction="channel"),
    ),
    "mask normalized of a loss": (
        (X, Y),
        lambda x, y: l1_ssim_loss(x, y, mask=y.detach() > 0.4, mask_mode="normalized"),
    ),
    "two of uint8, 255": ((U, V), lambda x, y: ssim(x, y, data_range=255)),
    "ssim_and_mse": (
        (X, Y),
        lambda x, y: torch.stack(ssim_and_mse(x.detach(), y.detach(), padding="valid")),
    ),
}


def results() -> dict[str, torch.Tensor]:
    found = {}
    for name, ((img1, img2), function) in CASES.items():
        x, y = (i.clone().requires_grad_(i.is_floating_point()) for i in (img1, img2))
        value = function(x, y)
        found[f"{name}/img1"], found[f"{name}/img2"] = x.detach(), y.detach()
        found[f"{name}/value"] = value.detach()
        if value.requires_grad:
            # Every element of the result gets a weight of its own.
            weight = torch.linspace(0.5, 1.5, value.numel()).to(value).view(value.shape)
            value.backward(weight)
            found[f"{name}/weight"] = weight
        for number, image in enumerate((x, y), start=1):
            if image.grad is not None:
                found[f"{name}/grad{number}"] = image.grad
    return {name: tensor.cpu() for name, tensor in found.items()}


ERRORS: dict[str, Callable[[], object]] = {
    "rank": lambda: ssim(X[0], Y),
    "rank of the second": lambda: ssim(X, Y[0]),
    "shapes": lambda: ssim(X, Y[..., 1:]),
    "dtypes": lambda: ssim(X, Y.double()),
    "integers": lambda: ssim(X.int(), Y),
    "integers of 16 bits": lambda: ssim(X.short(), Y),
    "uint8 and data_range": lambda: ssim(U, Y, data_range=2.0),
    "uint8 and FusedSSIMMap": lambda: FusedSSIMMap.apply(1e-4, 9e-4, X, V),
    "complex": lambda: ssim(X.to(torch.complex64), Y),
    "empty": lambda: ssim(X[:0], Y[:0]),
    "sparse": lambda: ssim(X.to_sparse(), Y),
    "padding": lambda: fused_ssim.fused_ssim(X, Y, "full"),
    "padding of ssim": lambda: ssim(X, Y, padding=""),
    "reduction": lambda: ssim(X, Y, reduction="median"),
    "window of 12": lambda: ssim(X, Y, window_size=12),
    "window of 1025": lambda: ssim(X, Y, window_size=1025),
    "component": lambda: ssim(X, Y, component="structure"),
    "unbiased": lambda: ssim(X, Y, window_size=1, unbiased=True),
    "small image": lambda: ssim(X[..., :10], Y[..., :10], padding="valid"),
    "small volume": lambda: fused_ssim.fused_ssim3d(X[:, :, None], Y[:, :, None], "valid"),
    "small for three scales": lambda: ms_ssim(X, Y, weights=(0.5, 0.5, 0.5)),
    "sigma": lambda: ssim(X, Y, sigma=0.0),
    "data_range": lambda: ssim(X, Y, data_range=-1.0),
    "data_range nan": lambda: ssim(X, Y, data_range=float("nan")),
    "k1": lambda: ssim(X, Y, k1=float("inf")),
    "k2": lambda: ssim(X, Y, k2=-0.03),
    "stabilizer": lambda: ssim(X, Y, data_range=1e-17),
    "large stabilizer": lambda: ssim(X, Y, data_range=123456789.0e16),
    "mask of three axes": lambda: ssim(X, Y, mask=X[0] > 0.4),
    "mask of integers": lambda: ssim(X, Y, mask=U),
    "mask_mode": lambda: ssim(X, Y, mask=X > 0.4, mask_mode="plain"),
    "weight": lambda: l1_ssim_loss(X, Y, 1.5),
    "names of the loss": lambda: l1_ssim_loss(X, Y[0]),
    "C1": lambda: FusedSSIMMap.apply(0.0, 9e-4, X, Y),
    "C2": lambda: FusedSSIMMap.apply(1e-4, 1e38, X, Y),
    "spatial_dims 4": lambda: FusedSSIMMap.apply(1e-4, 9e-4, X, Y, "same", True, 4),
    "without gradient": lambda: fused_ssim.fused_ssim(
        X.clone().requires_grad_(), Y, train=False
    ).backward(),
    "map without gradient": lambda: (
        FusedSSIMMap.apply(1e-4, 9e-4, X.clone().requires_grad_(), Y, "same", False)
        .sum()
        .backward()
    ),
}


def messages() -> dict[str, str]:
    found = {}
    for name, call in ERRORS.items():
        try:
            call()
        except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
            kind = NotImplementedError if isinstance(error, NotImplementedError) else None
            kind = kind or next(
                k for k in (ValueError, TypeError, RuntimeError) if isinstance(error, k)
            )
            found[f"error: {name}"] = f"{kind.__name__}: {error}"
        else:
            raise AssertionError(f"{name}: no error")
    return found


class Scripted(torch.nn.Module):
    """The mean SSIM by the operator itself, as programs without Python call it."""

    def __init__(self) -> None:
        super().__init__()
        self.taps = list(_windows.gaussian(11, 1.5))

    def forward(self, img1: torch.Tensor, img2: torch.Tensor) -> torch.Tensor:
        c1, c2, valid, statistic, uint8_divisor = 0.01**2, 0.03**2, False, 0, 255
        mean = 0
        return torch.ops.fused_ssim.ssim(
            img1,
            img2,
            self.taps,
            [1, 11, 11],
            c1,
            c2,
            valid,
            statistic,
            uint8_divisor,
            mean,
            1.0,
            0.0,
            0.0,
            False,
            False,
        )[0]


if __name__ == "__main__":
    RESULTS = results()
    torch.save({**RESULTS, **messages()}, FILE)
    torch.jit.script(Scripted()).save(f"{FILE}.script")
    inputs = RESULTS["defaults/img1"], RESULTS["defaults/img2"]
    program = torch.export.export(fused_ssim.SSIM(), inputs)
    torch._inductor.aoti_compile_and_package(program, package_path=f"{FILE}.pt2")
