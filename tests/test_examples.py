"""The examples in Python compute what they say."""

from __future__ import annotations

import importlib.util

import torch

from fused_ssim import ssim
from images import noise_pair
from installation import ROOT
from measure import leaf, relative_error


def test_tiles_add_up_to_the_whole(device):
    spec = importlib.util.spec_from_file_location("tiles", ROOT / "examples/python/tiles.py")
    tiles = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiles)
    x, y = (leaf(image.to(device)) for image in noise_pair(2, 3, 41, 52))
    whole = ssim(x, y, padding="valid")
    expected = torch.autograd.grad(whole, (x, y))
    total = 0.0
    for rows in tiles.spans(41, 3):
        for columns in tiles.spans(52, 2):
            part = tiles.share(x[..., rows, columns], y[..., rows, columns], x.shape)
            part.backward()
            total += part.item()
    assert abs(total - whole.item()) <= 1e-6
    for image, reference in zip((x, y), expected, strict=True):
        assert relative_error(image.grad, reference) <= 1e-5
