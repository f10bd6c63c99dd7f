"""float16 gradients of means: a millionth is below what float16 holds, so a GradScaler must help."""

from __future__ import annotations

import pytest
import torch

import oracle
from fused_ssim import fused_ssim, l1_ssim_loss, ssim
from images import noise_pair
from measure import gradient_scaler, leaf, relative_error

SCALE = 2.0**16  # what torch's GradScaler begins with
FUNCTIONS = {
    "fused_ssim": (fused_ssim, oracle.ssim),
    "channel": (
        lambda x, y: ssim(x, y, reduction="channel", padding="valid").sum(),
        lambda x, y: oracle.ssim(x, y, reduction="channel", padding="valid").sum(),
    ),
    "loss": (l1_ssim_loss, oracle.l1_ssim_loss),
}


@pytest.mark.parametrize("functions", FUNCTIONS.values(), ids=FUNCTIONS.keys())
@pytest.mark.parametrize("other", [torch.float16, torch.float32], ids=str)
def test_scaled_gradients_are_right(device, functions, other):
    function, reference = functions
    x, y = noise_pair(2, 3, 301, 437)
    x, y = leaf(x.half().to(device)), leaf(y.to(other).to(device))
    expected = oracle.gradients(reference, x, y)
    by_x, by_y = torch.autograd.grad(function(x, y) * SCALE, (x, y))
    assert by_x.dtype == torch.float16
    assert by_y.dtype == other
    for found, wanted in zip((by_x, by_y), expected, strict=True):
        assert relative_error(found.double() / SCALE, wanted) <= 2e-3


@pytest.mark.parametrize("reduction", ["mean", "image", "channel"])
@pytest.mark.parametrize("mode", ["weighted", "normalized"])
@pytest.mark.parametrize("nothing", [torch.nan, -1.0])
def test_what_a_mask_does_not_count(device, nothing, mode, reduction):
    x, y = (image.half().to(device) for image in noise_pair(2, 2, 20, 30))
    mask = noise_pair(2, 1, 20, 30, seed=1)[0].to(device)

    def gradient(of_top):
        image, weights = leaf(x.clone()), mask.clone()
        weights[..., :8, :] = of_top
        value = ssim(image, y, mask=weights, mask_mode=mode, reduction=reduction, padding="valid")
        return torch.autograd.grad(SCALE * value.sum(), image)[0]

    expected = gradient(0.0)
    assert expected.abs().max() > 1
    assert relative_error(gradient(nothing), expected) <= 2e-3


def test_a_scaler_trains(device):
    target = noise_pair(1, 3, 64, 96)[0].to(device)
    image = torch.full_like(target, 0.5).requires_grad_()
    optimiser = torch.optim.Adam([image], lr=0.05)
    scaler = gradient_scaler(device, SCALE)
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = 1 - fused_ssim(image.half(), target.half())
        losses.append(loss.item())
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_an_incoming_one_changes_nothing(device, dtype):
    # The gradient is ready when backward begins; an incoming 1 must leave it as it is, twice, too.
    x, y = (leaf(image.to(dtype).to(device)) for image in noise_pair(1, 3, 40, 50))
    loss = fused_ssim(x, y)
    (kept,) = torch.autograd.grad(loss, x, retain_graph=True)
    (again,) = torch.autograd.grad(2 * loss, x, retain_graph=True)
    (last,) = torch.autograd.grad(loss, x)
    assert torch.equal(kept, last)
    assert torch.equal(again, 2 * kept)
