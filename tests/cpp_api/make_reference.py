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
from fused_ssim import FusedSSIMMap, l1_ssim_loss, ssim

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


CASES: dict[str, tuple[Pair, Callable[..., torch.Tensor]]] = {
    "fused_ssim": (pair(), lambda x, y: fused_ssim.fused_ssim(x, y)),
    "fused_ssim valid": (pair(), lambda x, y: fused_ssim.fused_ssim(x, y, "valid")),
    "float16": (pair(torch.float16), lambda x, y: fused_ssim.fused_ssim(x, y)),
    "bfloat16": (pair(torch.bfloat16), lambda x, y: fused_ssim.fused_ssim(x, y)),
    "float64": (pair(torch.float64), lambda x, y: fused_ssim.fused_ssim(x, y)),
    "channels_last": (channels_last(pair()), lambda x, y: fused_ssim.fused_ssim(x, y)),
    "defaults": (pair(), lambda x, y: ssim(x, y)),
    "sum": (pair(), lambda x, y: ssim(x, y, reduction="sum")),
    "image": (pair(), lambda x, y: ssim(x, y, reduction="image")),
    "channel": (pair(), lambda x, y: ssim(x, y, reduction="channel", padding="valid")),
    "none": (pair(), lambda x, y: ssim(x, y, reduction="none", padding="valid")),
    "options": (
        pair(),
        lambda x, y: ssim(x, y, data_range=2.0, window_size=7, sigma=1.1, k1=0.02, k2=0.05),
    ),
    "l1_ssim_loss": (pair(), lambda x, y: l1_ssim_loss(x, y)),
    "l1_ssim_loss 0.7 valid": (pair(), lambda x, y: l1_ssim_loss(x, y, 0.7, "valid")),
    "FusedSSIMMap": (pair(), lambda x, y: FusedSSIMMap.apply(1e-4, 9e-4, x, y, "valid")),
}


def results() -> dict[str, torch.Tensor]:
    found = {}
    for name, ((x, y), function) in CASES.items():
        x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
        value = function(x, y)
        # Every element of the result gets a weight of its own.
        weight = torch.linspace(0.5, 1.5, value.numel()).to(value).view(value.shape)
        value.backward(weight)
        found[f"{name}/img1"], found[f"{name}/img2"] = x.detach(), y.detach()
        found[f"{name}/value"], found[f"{name}/weight"] = value.detach(), weight
        found[f"{name}/grad1"], found[f"{name}/grad2"] = x.grad, y.grad
    return {name: tensor.cpu() for name, tensor in found.items()}


X, Y = pair()
ERRORS: dict[str, Callable[[], object]] = {
    "rank": lambda: ssim(X[0], Y),
    "rank of the second": lambda: ssim(X, Y[0]),
    "shapes": lambda: ssim(X, Y[..., 1:]),
    "dtypes": lambda: ssim(X, Y.double()),
    "integers": lambda: ssim((255 * X).to(torch.uint8), Y),
    "complex": lambda: ssim(X.to(torch.complex64), Y),
    "empty": lambda: ssim(X[:0], Y[:0]),
    "sparse": lambda: ssim(X.to_sparse(), Y),
    "device": lambda: ssim(X.to("meta"), Y.to("meta")),
    "padding": lambda: fused_ssim.fused_ssim(X, Y, "reflect"),
    "padding of ssim": lambda: ssim(X, Y, padding=""),
    "reduction": lambda: ssim(X, Y, reduction="median"),
    "window of 12": lambda: ssim(X, Y, window_size=12),
    "window of 35": lambda: ssim(X, Y, window_size=35),
    "small image": lambda: ssim(X[..., :10], Y[..., :10], padding="valid"),
    "sigma": lambda: ssim(X, Y, sigma=0.0),
    "data_range": lambda: ssim(X, Y, data_range=-1.0),
    "data_range nan": lambda: ssim(X, Y, data_range=float("nan")),
    "k1": lambda: ssim(X, Y, k1=float("inf")),
    "k2": lambda: ssim(X, Y, k2=-0.03),
    "stabilizer": lambda: ssim(X, Y, data_range=1e-17),
    "large stabilizer": lambda: ssim(X, Y, data_range=123456789.0e16),
    "weight": lambda: l1_ssim_loss(X, Y, 1.5),
    "names of the loss": lambda: l1_ssim_loss(X, Y[0]),
    "C1": lambda: FusedSSIMMap.apply(0.0, 9e-4, X, Y),
    "spatial_dims 3": lambda: FusedSSIMMap.apply(1e-4, 9e-4, X, Y, "same", True, 3),
    "spatial_dims 4": lambda: FusedSSIMMap.apply(1e-4, 9e-4, X, Y, "same", True, 4),
    "without gradient": lambda: fused_ssim.fused_ssim(
        X.clone().requires_grad_(), Y, train=False
    ).backward(),
    "map without gradient": lambda: (
        FusedSSIMMap.apply(1e-4, 9e-4, X.clone().requires_grad_(), Y, "same", False)
        .sum()
        .backward()
    ),
    "second derivative": lambda: second_derivative(fused_ssim.fused_ssim),
    "second derivative of the map": lambda: second_derivative(
        lambda x, y: ssim(x, y, reduction="none").mean()
    ),
}


def second_derivative(function: Callable[..., torch.Tensor]) -> None:
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(x, Y), x, create_graph=True)
    gradient.square().sum().backward()


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

    def forward(self, img1: torch.Tensor, img2: torch.Tensor) -> torch.Tensor:
        return torch.ops.fused_ssim.ssim(
            img1, img2, 0.01**2, 0.03**2, 11, 1.5, False, 0, 1.0, 0.0, 0.0, False, False
        )[0]


if __name__ == "__main__":
    torch.save({**results(), **messages()}, FILE)
    torch.jit.script(Scripted()).save(f"{FILE}.script")
