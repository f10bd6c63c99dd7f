"""Images extended beyond their borders by their own pixels.

Made of slices, flips and concatenations, so that it serves every dtype and device, and can be
differentiated any number of times. The adjoint adds in a fixed order, which that of torch's own
reflection and replication does not do on CUDA.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fused_ssim._parameters import Border


def pad(image: Tensor, radii: Sequence[int], border: Border) -> Tensor:
    """The image with `radii[i]` more pixels at both ends of the i-th of its last axes.

    "reflect" does not repeat the pixel at the border and needs sides larger than the radius;
    "replicate" repeats that pixel alone.

    Shape:
        image: [..., *sizes], with `len(radii)` sizes; the result [..., *(sizes + 2 * radii)].
    """
    for axis, radius in enumerate(radii, image.dim() - len(radii)):
        if radius == 0:
            continue
        size = image.shape[axis]
        if border == "reflect":
            before = image.narrow(axis, 1, radius).flip(axis)
            after = image.narrow(axis, size - 1 - radius, radius).flip(axis)
        else:
            shape = [*image.shape[:axis], radius, *image.shape[axis + 1 :]]
            before = image.narrow(axis, 0, 1).expand(shape)
            after = image.narrow(axis, size - 1, 1).expand(shape)
        image = torch.cat([before, image, after], axis)
    return image
