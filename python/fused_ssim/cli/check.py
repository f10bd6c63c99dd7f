"""`fused-ssim check`: whether this build's kernels compute right on this machine.

Every form, window, type and layout that has code of its own, on images small and large enough for each
schedule, beside torch operations in float64.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fused_ssim
from fused_ssim import _route
from fused_ssim.cli.devices import check_device
from fused_ssim.cli.errors import CliError, first_line

Outputs = tuple[list[Tensor], list[Tensor]]
"""Values, and gradients."""
Form = Callable[..., Outputs]

_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8)
# Errors that are allowed: of values absolutely, of gradients by their norm.
_VALUE_BOUND = {torch.float64: 1e-11}
_GRADIENT_BOUND = {torch.float64: 1e-9, torch.float16: 2**-9, torch.bfloat16: 2**-6}
_FLOAT32_VALUE_BOUND, _FLOAT32_GRADIENT_BOUND = 2e-5, 1e-4


@dataclass(frozen=True)
class Case:
    """One type and layout of a kind."""

    dtype: str
    layout: str
    error: float | None
    """The largest error, as a part of what is allowed; None where there is no result, or no number."""
    message: str | None
    """What went wrong."""

    @property
    def is_right(self) -> bool:
        return self.message is None


@dataclass(frozen=True)
class Kind:
    """A form with one window and one size of images."""

    form: str
    window: str
    size: tuple[int, ...]
    cases: tuple[Case, ...]

    def __str__(self) -> str:
        size = "x".join(map(str, self.size))
        return _line(f"{self.form:<30} {self.window:<12} {size:<14}", self.cases)


def _line(what: str, cases: Sequence[Case]) -> str:
    wrong = sum(not case.is_right for case in cases)
    worst = max((case.error for case in cases if case.error is not None), default=0.0)
    verdict = f"{wrong} WRONG" if wrong else "ok"
    return f"{what} {len(cases):>3} cases, worst {worst:5.3f} of the error allowed: {verdict}"


# ---- forms --------------------------------------------------------------------------------------


def _value(function: Callable[..., Tensor], **fixed: Any) -> Form:
    def run(x: Tensor, y: Tensor, **form: Any) -> Outputs:
        return [function(x, y, **fixed, **form)], []

    return run


def _step(function: Callable[..., Tensor], *, both: bool = False, **fixed: Any) -> Form:
    def run(x: Tensor, y: Tensor, **form: Any) -> Outputs:
        images = [x.detach().requires_grad_(), y.detach().requires_grad_(both)]
        value = function(*images, **fixed, **form)
        # As of sums: float16 has no gradients of a mean over many pixels.
        upstream = torch.full_like(value, x.numel() / value.numel())
        wanted = images if both else images[:1]
        return [value.detach()], list(torch.autograd.grad(value, wanted, upstream))

    return run


def _ssim_and_mse(x: Tensor, y: Tensor, **form: Any) -> Outputs:
    return list(fused_ssim.ssim_and_mse(x, y, **form)), []


def _masked(mode: str) -> Form:
    def run(x: Tensor, y: Tensor, **form: Any) -> Outputs:
        sizes = x.shape[2:]
        mask = torch.arange(sizes.numel(), device=x.device).view(sizes) % 5 > 0
        return _step(fused_ssim.ssim, mask=mask, mask_mode=mode)(x, y, **form)

    return run


def _each_range(x: Tensor, y: Tensor, **form: Any) -> Outputs:
    data_range = torch.linspace(1.0, 2.0, x.shape[0], device=x.device)
    return _step(fused_ssim.ssim, data_range=data_range)(x, y, **form)


_WINDOWS: dict[str, dict[str, Any]] = {
    "11": {},
    "7": {"window_size": 7},
    "uniform 7": {"window": "uniform", "window_size": 7},
    "13": {"window_size": 13, "sigma": 2.0},
    "asymmetric": {"window": (0.1, 0.2, 0.4, 0.2, 0.1, 0.0, 0.0)},
}
_IMAGE_FORMS: dict[str, Form] = {
    "value": _value(fused_ssim.ssim, reduction="channel"),
    "map": _value(fused_ssim.ssim, reduction="none"),
    "value, gradient": _step(fused_ssim.ssim),
    "value, both gradients": _step(fused_ssim.ssim, both=True),
    "map, its gradients": _step(fused_ssim.ssim, both=True, reduction="none"),
    "contrast, gradient": _step(fused_ssim.ssim, component="contrast"),
    "SSIM, mean squared error": _ssim_and_mse,
    "weighted mask, gradient": _masked("weighted"),
    "normalized mask, gradient": _masked("normalized"),
    "ranges of images, gradient": _each_range,
}
# Of which windows other than the standard one have no code of their own.
_STANDARD_FORMS: dict[str, Form] = {
    "L1 and SSIM, gradient": _step(fused_ssim.l1_ssim_loss),
    "MS-SSIM, both gradients": _step(
        fused_ssim.ms_ssim, both=True, weights=(0.3, 0.3, 0.4), padding="same"
    ),
}
_MASKED_VOLUME_FORMS: dict[str, Form] = {
    "volume, weighted, gradient": _masked("weighted"),
    "volume, normalized, gradient": _masked("normalized"),
}
_LOOSER = {"contrast, gradient": 10.0, "MS-SSIM, both gradients": 5.0}
_LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda image: image.contiguous(),
    "unaligned rows": lambda image: torch.cat([image[..., :1], image], -1)[..., 1:],
    "channels last": lambda image: image.movedim(1, -1).contiguous().movedim(-1, 1),
    "every other column": lambda image: image.repeat_interleave(2, -1)[..., ::2],
}


def _kinds(
    device: torch.device,
) -> Iterator[tuple[str, Form, str, dict[str, Any], tuple[int, ...]]]:
    # Large enough for the kernels of large images, those of maps among them, on every GPU.
    large = (1, 3, 1100, 1001) if device.type == "cuda" else (1, 3, 64, 301)
    sizes: tuple[tuple[int, ...], ...] = ((2, 3, 37, 61), large)
    for name, form in _IMAGE_FORMS.items():
        for size in sizes:
            for window, arguments in _WINDOWS.items():
                yield name, form, window, arguments, size
    for name, form in _STANDARD_FORMS.items():
        for size in sizes:
            yield name, form, "11", {}, size
    volume, signal = (1, 2, 15, 21, 34), (2, 3, 301)
    for dims, name, size in ((3, "volume, gradient", volume), (1, "signal, gradient", signal)):
        for window, arguments in _WINDOWS.items():
            form = _step(fused_ssim.ssim)
            yield name, form, window, {**arguments, "spatial_dims": dims}, size
    for name, form in _MASKED_VOLUME_FORMS.items():
        yield name, form, "11", {"spatial_dims": 3}, volume


# ---- running them -------------------------------------------------------------------------------


def _images(size: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Waves and noise, as whole numbers of 0 .. 255 in float64."""
    generator = torch.Generator().manual_seed(0)
    places = torch.arange(torch.Size(size[2:]).numel()).view(size[2:])
    waves = 0.5 + 0.3 * torch.sin(places / 97.0) * torch.cos(places / 11.0)
    x = (waves + 0.2 * (torch.rand(size, generator=generator) - 0.5)).clamp(0, 1)
    y = (x + 0.1 * torch.randn(size, generator=generator)).clamp(0, 1)
    first, second = ((255 * image).round().double().to(device) for image in (x, y))
    return first, second


def _check(
    name: str, form: Form, arguments: dict[str, Any], size: tuple[int, ...], device: torch.device
) -> Iterator[Case]:
    pixels = _images(size, device)
    has_gradient = name.endswith(("gradient", "gradients"))
    # n / 256 is a number of every type; an 8-bit pixel stands for n / 255.
    truths: dict[bool, Outputs] = {}
    for dtype in _TYPES:
        is_bytes = dtype == torch.uint8
        if is_bytes and has_gradient:
            continue
        if is_bytes not in truths:
            exact = [
                image.float().div(255).double() if is_bytes else image / 256 for image in pixels
            ]
            with _route.by_torch_operations():
                truths[is_bytes] = form(*exact, **arguments)
        for layout, lay_out in _LAYOUTS.items():
            images = [lay_out((image if is_bytes else image / 256).to(dtype)) for image in pixels]
            error: float | None = None
            message: str | None = None
            try:
                outputs = form(*images, **arguments)
                again = form(*images, **arguments)
                error = _error(outputs, truths[is_bytes], dtype) / _LOOSER.get(name, 1.0)
                if not error <= 1.0:
                    message = f"the error is {error:.3g} times what is allowed"
                elif not _are_equal(outputs, again):
                    message = "a second run gives other bits"
            except (RuntimeError, NotImplementedError) as failure:
                message = first_line(failure)
            if error is not None and not math.isfinite(error):
                error = None
            yield Case(str(dtype).removeprefix("torch."), layout, error, message)


def _error(found: Outputs, truth: Outputs, dtype: torch.dtype) -> float:
    """The largest error, as a part of what is allowed."""
    value_bound = _VALUE_BOUND.get(dtype, _FLOAT32_VALUE_BOUND)
    gradient_bound = _GRADIENT_BOUND.get(dtype, _FLOAT32_GRADIENT_BOUND)
    errors = [
        (value.double() - exact).abs().max().item() / value_bound
        for value, exact in zip(found[0], truth[0], strict=True)
    ]
    errors += [
        ((gradient.double() - exact).norm() / exact.norm()).item() / gradient_bound
        for gradient, exact in zip(found[1], truth[1], strict=True)
    ]
    return max(math.inf if math.isnan(error) else error for error in errors)


def _are_equal(first: Outputs, second: Outputs) -> bool:
    return all(
        torch.equal(a, b)
        for outputs, others in zip(first, second, strict=True)
        for a, b in zip(outputs, others, strict=True)
    )


def _times(device: torch.device) -> dict[str, float]:
    """Median microseconds at 1x3x1080x1920 in float32, of torch's own beside ours."""
    from torch.utils.benchmark import Timer  # imports parts of torch that speak up without a GPU

    x, y = (torch.rand(1, 3, 1080, 1920, device=device) for _ in range(2))
    leaf = x.clone().requires_grad_()
    loss = torch.nn.functional.mse_loss
    steps: dict[str, Callable[[], object]] = {
        "fused_ssim": lambda: fused_ssim.fused_ssim(x, y, train=False),
        "fused_ssim, training step": lambda: torch.autograd.grad(
            fused_ssim.fused_ssim(leaf, y), leaf
        ),
        "mse_loss": lambda: loss(x, y),
        "mse_loss, training step": lambda: torch.autograd.grad(loss(leaf, y), leaf),
        "copy": lambda: y.copy_(x),
    }
    return {
        name: 1e6
        * Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads())
        .blocked_autorange(min_run_time=0.5)
        .median
        for name, step in steps.items()
    }


def _measured(place: torch.device, *, verbose: bool) -> Iterator[Kind]:
    """All kinds; prints a line for each form (`verbose`: for each kind), and what is wrong."""
    for name, group in groupby(_kinds(place), key=lambda kind: kind[0]):
        kinds = []
        for _, form, window, arguments, size in group:
            cases = tuple(_check(name, form, arguments, size, place))
            kinds.append(Kind(name, window, size, cases))
        if not verbose:
            print(_line(f"{name:<30}", [case for kind in kinds for case in kind.cases]), flush=True)
        for kind in kinds:
            wrong = [case for case in kind.cases if not case.is_right]
            if verbose or wrong:
                print(kind, flush=True)
            for case in wrong:
                print(f"    {case.dtype}, {case.layout}: {case.message}")
        yield from kinds


def run(*, device: str, json_file: Path | None, bench: bool, verbose: bool) -> int:
    """Check, print and write; the exit code: 1 where something is wrong."""
    check_device(device)
    place = torch.device(device)
    if place.type not in ("cpu", "cuda"):
        raise CliError(f"expected cpu or cuda, which have kernels, got {device!r}")
    info = fused_ssim.build_info()
    name = f"CPU level {info.cpu_level}"
    if place.type == "cuda":
        properties = torch.cuda.get_device_properties(place)
        name = f"{properties.name}, compute {properties.major}.{properties.minor}"
    started = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of forms without a kernel
        kinds = list(_measured(place, verbose=verbose))
    total = sum(len(kind.cases) for kind in kinds)
    wrong = sum(not case.is_right for kind in kinds for case in kind.cases)
    seconds = time.monotonic() - started
    times = _times(place) if bench else None
    if times is not None:
        for step, time_us in times.items():
            ratio = time_us / times["mse_loss, training step" if "step" in step else "mse_loss"]
            print(f"{step:<30} {time_us:10.1f} us, {ratio:.2f} times mse_loss")
        moved = 2 * 4 * 3 * 1080 * 1920 / times["copy"] / 1e3
        print(f"{'copy bandwidth':<30} {moved:10.1f} GB/s")
    found = f"{wrong} of {total} cases wrong" if wrong else f"all {total} cases right"
    print(f"verdict: {found}, {name}, fused_ssim {info.version}, torch {info.torch_running}")
    if json_file is not None:
        report = {
            "schema": 1,
            "device": name,
            "right": total - wrong,
            "wrong": wrong,
            "seconds": round(seconds, 1),
            "kinds": [asdict(kind) for kind in kinds],
            "times_us": times,
            "build": info.as_dict(),
        }
        json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if wrong else 0
