"""Who computes: the kernels where they serve, the composite of torch operations elsewhere."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fused_ssim import _autograd, _composite, _sharding, _transforms
from fused_ssim._parameters import Definition, MaskMode, Reduced
from fused_ssim._refusals import without_gradient
from fused_ssim._torch_private import is_compiling, is_forward_mode, is_transformed

# For tests and comparisons: FUSED_SSIM_COMPOSITE=1 in the environment when this is imported.
composite_is_forced = os.environ.get("FUSED_SSIM_COMPOSITE", "") not in ("", "0")


@contextlib.contextmanager
def by_torch_operations() -> Iterator[None]:
    """Forces the composite, as the environment does: to compare with it."""
    global composite_is_forced
    before, composite_is_forced = composite_is_forced, True
    try:
        yield
    finally:
        composite_is_forced = before


# Windows that fit the shared memory of every GPU (src/cuda/separable.h).
_MAX_CUDA_TAPS = 65
# src/cuda/ssim_cuda.h
_MAX_CUDA_SCALES = 32


def reduced(
    img1: Tensor,
    img2: Tensor,
    definition: Definition,
    reduction: Reduced,
    *,
    loss_weight: float | None = None,
    train: bool = True,
    stabilizers: Tensor | None = None,
    mask: Tensor | None = None,
    mask_mode: MaskMode = "weighted",
) -> Tensor:
    """The reduction of S; of (1 - w) |img1 - img2| + w (1 - S) for a `loss_weight` w."""
    if _sharding.is_distributed(img1, img2):
        refuse_beside_shards(mask, stabilizers)
        of_planes = functools.partial(
            reduced,
            definition=definition,
            reduction="channel",
            loss_weight=loss_weight,
            train=train,
        )
        pixels = math.prod(_sharding.map_shape(img1, definition)[2:])
        return _sharding.reduced(of_planes, img1, img2, reduction, pixels)
    # Numbers in the code, since a compiler takes those of defaults for variables.
    statistic_weight, l1_weight, offset = 1.0, 0.0, 0.0
    if loss_weight is not None:
        statistic_weight, l1_weight, offset = -loss_weight, 1.0 - loss_weight, loss_weight
    if kernels_serve(img1, definition):
        return _autograd.reduced(
            img1,
            img2,
            definition,
            reduction,
            statistic_weight,
            l1_weight,
            offset,
            train,
            stabilizers,
            mask,
            mask_mode,
        )
    map_of = _map_by_kernels(img1, definition, mask, mask_mode, stabilizers)
    return _composite.reduced(
        img1,
        img2,
        definition,
        reduction,
        statistic_weight=statistic_weight,
        l1_weight=l1_weight,
        offset=offset,
        train=train,
        stabilizers=stabilizers,
        mask=mask,
        mask_mode=mask_mode,
        map_of=map_of,
    )


def mapped(
    img1: Tensor,
    img2: Tensor,
    definition: Definition,
    *,
    train: bool = True,
    stabilizers: Tensor | None = None,
    mask: Tensor | None = None,
    mask_mode: MaskMode = "weighted",
) -> Tensor:
    """The map of S, [B, C, *map sizes]."""
    if _sharding.is_distributed(img1, img2):
        refuse_beside_shards(mask, stabilizers)
        values: Tensor
        (values,) = _sharding.shards(
            lambda x, y: [mapped(x, y, definition, train=train)],
            img1,
            img2,
            [_sharding.map_shape(img1, definition)],
        )
        return values
    if not train:
        constant = mapped(
            img1.detach(),
            img2.detach(),
            definition,
            stabilizers=stabilizers,
            mask=mask,
            mask_mode=mask_mode,
        )
        return without_gradient(constant, img1, img2)
    if kernels_serve(img1, definition):
        return _autograd.mapped(img1, img2, definition, stabilizers, mask, mask_mode)
    map_of = _map_by_kernels(img1, definition, mask, mask_mode, stabilizers)
    return _composite.mapped(
        img1,
        img2,
        definition,
        stabilizers=stabilizers,
        mask=mask,
        mask_mode=mask_mode,
        map_of=map_of,
    )


def _map_by_kernels(
    img1: Tensor,
    definition: Definition,
    mask: Tensor | None,
    mask_mode: MaskMode,
    stabilizers: Tensor | None,
) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The map by kernels, where only a transform keeps them from all the rest; else a word about the
    composite."""
    # Compilers don't trace what vmap and gradients of gradients need of autograd functions.
    if has_kernels(img1, definition) and not is_forward_mode() and not is_compiling():
        seen = mask if mask_mode == "normalized" else None
        return _transforms.map_by_kernels(definition, stabilizers, seen, mask_mode)
    _say_once(img1)
    return None


def ssim_and_mse(
    img1: Tensor, img2: Tensor, definition: Definition, *, stabilizers: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The means of S and of (img1 - img2)^2 over each plane, [B, C] each."""
    if _sharding.is_distributed(img1, img2):
        refuse_beside_shards(None, stabilizers)
        values, mse = _sharding.shards(
            lambda x, y: ssim_and_mse(x, y, definition), img1, img2, [[*img1.shape[:2]]] * 2
        )
        return values, mse
    if kernels_serve(img1, definition):
        return _autograd.ssim_and_mse(img1, img2, definition, stabilizers=stabilizers)
    _say_once(img1)
    return _composite.ssim_and_mse(img1, img2, definition, stabilizers=stabilizers)


def refuse_beside_shards(mask: Tensor | None, data_range: Any) -> None:
    for name, given in (("mask", mask), ("tensor as data_range", data_range)):
        if isinstance(given, Tensor):
            raise NotImplementedError(
                f"fused_ssim: expected no {name} beside DTensors, got one; call the function with "
                "the local tensors, .to_local()"
            )


def kernels_serve(image: Tensor, definition: Definition) -> bool:
    """Whether kernels compute all of this form, on this device, under the transforms in force."""
    return has_kernels(image, definition) and not is_transformed()


def has_kernels(image: Tensor, definition: Definition) -> bool:
    """Whether there are kernels for this form on this device."""
    if composite_is_forced:
        return False
    if image.is_cpu or image.is_meta:
        return True
    return (
        image.is_cuda
        and torch.version.cuda is not None
        and max(definition.window_sizes) <= _MAX_CUDA_TAPS
    )


def kernels_serve_scales(image: Tensor, definition: Definition, scales: int) -> bool:
    """Whether MS-SSIM is one operator; elsewhere each scale goes its own way."""
    return kernels_serve(image, definition) and (not image.is_cuda or scales <= _MAX_CUDA_SCALES)


def _say_once(image: Tensor) -> None:
    if composite_is_forced:
        return
    if is_forward_mode():
        what = "forward-mode differentiation"
    elif image.is_cuda and torch.version.cuda is not None:
        what = "this form of SSIM"
    else:
        what = f"device {image.device}"
    _composite.say_once(what)
