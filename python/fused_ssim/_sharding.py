"""Images as DTensors: each process computes the planes that it holds, and no image is gathered."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fused_ssim import _results
from fused_ssim._parameters import Definition, Reduced
from fused_ssim._pixels import sum_dtype
from fused_ssim._torch_private import PLAIN_TENSORS

_Compute = Callable[[Tensor, Tensor], Any]


def is_distributed(img1: Tensor, img2: Tensor) -> bool:
    """Whether one of them is a DTensor."""
    if type(img1) in PLAIN_TENSORS and type(img2) in PLAIN_TENSORS:
        return False
    module = sys.modules.get("torch.distributed.tensor")  # whose import takes long
    return module is not None and any(isinstance(image, module.DTensor) for image in (img1, img2))


def reduced(compute: _Compute, img1: Any, img2: Any, reduction: Reduced, pixels: int) -> Tensor:
    """The reduction of what `compute` gives of each plane, a mean over so many pixels.

    Planes are of one size, so that a mean is right however unevenly they are distributed.
    """
    planes: Tensor
    (planes,) = shards(lambda x, y: [compute(x, y)], img1, img2, [[*img1.shape[:2]]])
    if reduction == "channel":
        return planes
    if reduction == "image":
        return _replicated(planes.sum(1)) / planes.shape[1]
    total = _replicated(planes.sum())
    return total * pixels if reduction == "sum" else total / planes.numel()


def map_shape(image: Tensor, definition: Definition) -> list[int]:
    return _results.map_shape(image.shape, definition.window_sizes, definition.valid)


def shards(compute: _Compute, img1: Any, img2: Any, shapes: Sequence[list[int]]) -> list[Any]:
    """DTensors of these shapes, [B, C, ...], of what `compute` gives of the images' own parts."""
    from torch.distributed.tensor import DTensor

    mesh, placements = _placements(img1, img2)
    x, y = (image.to_local(grad_placements=placements) for image in (img1, img2))
    if x.numel() > 0:
        results = compute(x, y)
    else:  # more processes than planes
        nothing = x.to(sum_dtype(x, y)) + y.to(sum_dtype(x, y))
        results = [nothing.reshape([*x.shape[:2], *shape[2:]]) for shape in shapes]
    return [
        DTensor.from_local(
            result,
            mesh,
            placements,
            run_check=False,
            shape=torch.Size(shape),
            stride=tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape))),
        )
        for result, shape in zip(results, shapes, strict=True)
    ]


def _placements(img1: Any, img2: Any) -> tuple[Any, Any]:
    """The mesh that both images are distributed over, and how they are."""
    from torch.distributed.tensor import DTensor

    for name, image in (("img1", img1), ("img2", img2)):
        if not isinstance(image, DTensor):
            raise TypeError(
                f"fused_ssim: expected both images as DTensors, got {name} as a plain tensor; use "
                "torch.distributed.tensor.distribute_tensor, or .full_tensor() of the other"
            )
        for placement in image.placements:
            if not (placement.is_replicate() or placement.is_shard(0) or placement.is_shard(1)):
                raise ValueError(
                    f"fused_ssim: expected {name} sharded over its batch or its channels (dimension "
                    f"0 or 1), or replicated, got {placement}; windows reach over any other cut: use "
                    ".redistribute(placements=[Shard(0)]), or sum padding='valid' over local tiles "
                    "that overlap (docs/pytorch.md)"
                )
    if img1.device_mesh != img2.device_mesh or img1.placements != img2.placements:
        raise ValueError(
            f"fused_ssim: expected both images distributed alike, got {img1.placements} on "
            f"{img1.device_mesh} and {img2.placements} on {img2.device_mesh}; use "
            ".redistribute(img1.device_mesh, img1.placements)"
        )
    return img1.device_mesh, img1.placements


def _replicated(result: Any) -> Tensor:
    """The numbers themselves, where each process has a summand of them."""
    from torch.distributed.tensor import Replicate

    placements = [Replicate() if at.is_partial() else at for at in result.placements]
    whole: Tensor = result.redistribute(placements=placements)
    return whole
