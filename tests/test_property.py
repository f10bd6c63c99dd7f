"""Hypothesis draws shapes, strides, types, windows and who wants a gradient."""

from __future__ import annotations

import torch
from hypothesis import example, given
from hypothesis import strategies as st

import oracle
from fused_ssim import l1_ssim_loss, ssim
from images import noise
from measure import max_error, relative_error

LENGTHS = st.one_of(st.integers(1, 20), st.integers(21, 70))
MAP_BOUND = {torch.float64: 1e-12}
GRADIENT_BOUND = {
    torch.float16: 2**-10,
    torch.bfloat16: 2**-7,
    torch.float32: 2e-5,
    torch.float64: 1e-11,
}


@st.composite
def layouts(draw):
    """How an image lies in memory: order of the sides, steps, gaps, and sides of stride 0."""
    return {
        "order": draw(st.permutations(range(4))),
        "steps": draw(st.tuples(*[st.sampled_from([1, 1, 1, 2, 3])] * 4)),
        "offset": draw(st.integers(0, 3)),
        "expand": draw(st.sets(st.sampled_from([0, 1, 2, 3]), max_size=2))
        if draw(st.integers(0, 3)) == 0
        else set(),
    }


def lay_out(pixels: torch.Tensor, layout: dict) -> torch.Tensor:
    """`pixels` at the strides that `layout` describes, between NaNs that nobody may read."""
    for side in layout["expand"]:
        pixels = pixels.narrow(side, 0, 1)
    strides, step = [0] * 4, 1
    for side in reversed(layout["order"]):
        step *= layout["steps"][side]
        strides[side] = step
        step *= pixels.shape[side]
    memory = torch.full((step + layout["offset"],), torch.nan).to(pixels)
    image = memory.as_strided(pixels.shape, strides, layout["offset"]).copy_(pixels)
    return image


@st.composite
def problems(draw):
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(LENGTHS), draw(LENGTHS))
    window_size = draw(st.sampled_from([11, 11, 11, 3, 5, 7, 9, 13, 17, 33]))
    fits = min(shape[2:]) >= window_size
    return {
        "shape": shape,
        "seed": draw(st.integers(0, 5)),
        "dtype": draw(
            st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16])
        ),
        "layouts": (draw(layouts()), draw(layouts())),
        "wants": draw(st.sampled_from([(True, True), (True, False), (False, True)])),
        "definition": {
            "window_size": window_size,
            "sigma": draw(st.one_of(st.just(1.5), st.floats(0.4, 20))),
            "padding": draw(st.sampled_from(["same", "valid"])) if fits else "same",
            "data_range": draw(st.sampled_from([1.0, 1.0, 2.0])),
        },
    }


def build(problem, device):
    images = []
    for index, layout in enumerate(problem["layouts"]):
        pixels = noise(*problem["shape"], seed=10 * problem["seed"] + index)
        image = lay_out(pixels.to(device).to(problem["dtype"]), layout)
        full = image.expand(problem["shape"])
        images.append(full.detach().requires_grad_(problem["wants"][index]))
    return images


def check_gradients(found, truth, images, bound):
    wanted = [by for by, image in zip(truth, images, strict=True) if image.requires_grad]
    for gradient, by in zip(found, wanted, strict=True):
        assert gradient.dtype == images[0].dtype
        assert relative_error(gradient, by) <= bound


PLAIN_LAYOUT = {"order": (0, 1, 2, 3), "steps": (1, 1, 1, 1), "offset": 0, "expand": set()}


@example(
    problem={
        "shape": (1, 1, 1, 1),
        "seed": 0,
        "dtype": torch.float32,
        "layouts": (PLAIN_LAYOUT, PLAIN_LAYOUT),
        "wants": (True, True),
        "definition": {"window_size": 33, "sigma": 1.5, "padding": "same", "data_range": 1.0},
    }
)
@given(problem=problems())
def test_ssim(device, problem):
    x, y = images = build(problem, device)
    definition, dtype = problem["definition"], problem["dtype"]
    expected = oracle.ssim_map(x.detach(), y.detach(), **definition)
    values = ssim(x, y, reduction="none", **definition)
    assert max_error(values, expected) <= MAP_BOUND.get(dtype, 5e-6)
    channels = ssim(x, y, reduction="channel", **definition)
    assert max_error(channels, expected.mean((2, 3))) <= 2e-6

    inputs = [image for image in images if image.requires_grad]
    upstream = noise(*expected.shape, seed=99).to(values) - 0.5
    truth = oracle.gradients(lambda a, b: oracle.ssim_map(a, b, **definition), x, y, upstream)
    found = torch.autograd.grad(values, inputs, upstream)
    check_gradients(found, truth, images, GRADIENT_BOUND[dtype])

    truth = oracle.gradients(lambda a, b: oracle.ssim(a, b, reduction="sum", **definition), x, y)
    total = ssim(x, y, reduction="sum", **definition)
    found = torch.autograd.grad(total, inputs)
    check_gradients(found, truth, images, GRADIENT_BOUND[dtype])


@given(problem=problems(), weight=st.sampled_from([0.0, 0.2, 0.7, 1.0]))
def test_loss(device, problem, weight):
    x, y = images = build(problem, device)
    padding = problem["definition"]["padding"] if min(problem["shape"][2:]) >= 11 else "same"
    scale = x.numel()
    loss = l1_ssim_loss(x, y, weight, padding)
    expected = oracle.l1_ssim_loss(x.detach(), y.detach(), weight, padding)
    assert max_error(loss, expected) <= 2e-6
    inputs = [image for image in images if image.requires_grad]
    truth = oracle.gradients(lambda a, b: scale * oracle.l1_ssim_loss(a, b, weight, padding), x, y)
    found = torch.autograd.grad(scale * loss, inputs)
    check_gradients(found, truth, images, GRADIENT_BOUND[problem["dtype"]])
