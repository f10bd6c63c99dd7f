"""Hypothesis draws functions, forms, shapes, strides, types and who wants a gradient."""

from __future__ import annotations

import torch
from hypothesis import example, given
from hypothesis import strategies as st

import oracle
from fused_ssim import l1_ssim_loss, ms_ssim, ssim, ssim_and_mse
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
def layouts(draw, rank=4):
    """How an image lies in memory: order of the sides, steps, gaps, and sides of stride 0."""
    return {
        "order": draw(st.permutations(range(rank))),
        "steps": draw(st.tuples(*[st.sampled_from([1, 1, 1, 2, 3])] * rank)),
        "offset": draw(st.integers(0, 3)),
        "expand": draw(st.sets(st.integers(0, rank - 1), max_size=2))
        if draw(st.integers(0, 3)) == 0
        else set(),
    }


def lay_out(pixels: torch.Tensor, layout: dict) -> torch.Tensor:
    """`pixels` at the strides that `layout` describes, between NaNs that nobody may read."""
    for side in layout["expand"]:
        pixels = pixels.narrow(side, 0, 1)
    strides, step = [0] * pixels.dim(), 1
    for side in reversed(layout["order"]):
        step *= layout["steps"][side]
        strides[side] = step
        step *= pixels.shape[side]
    fill = torch.nan if pixels.is_floating_point() else 255
    memory = pixels.new_full((step + layout["offset"],), fill)
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


# ---- every form ---------------------------------------------------------------------------------

HALF_BOUND = {torch.float16: 2**-8, torch.bfloat16: 2**-5}


@st.composite
def taps(draw, size):
    weights = draw(st.lists(st.integers(1, 9), min_size=size, max_size=size))
    return [weight / sum(weights) for weight in weights]


@st.composite
def forms(draw):
    """A function, the images it gets, and its arguments."""
    dims = draw(st.sampled_from([1, 2, 2, 3]))
    function = draw(st.sampled_from(["ssim", "ssim", "ssim_and_mse", "ms_ssim", "l1_ssim_loss"]))
    longest = {1: 40, 2: 16, 3: 9}[dims]
    shape = [draw(st.integers(1, 2)), draw(st.integers(1, 3))]
    shape += [draw(st.integers(1, longest)) for _ in range(dims)]
    dtypes = [torch.uint8, torch.float16, torch.bfloat16, torch.float32]
    dtypes = draw(
        st.one_of(
            st.tuples(st.sampled_from(dtypes), st.sampled_from(dtypes)),
            st.sampled_from([(torch.float64, torch.float64), (torch.float64, torch.uint8)]),
        )
    )
    arguments = {"spatial_dims": dims}
    if function == "l1_ssim_loss":
        sizes = [11] * dims
        arguments["ssim_weight"] = draw(st.sampled_from([0.0, 0.2, 1.0]))
    else:
        size = draw(st.sampled_from([1, 3, 5, 11]))
        sizes = [size] * dims
        kind = draw(st.sampled_from(["gaussian", "uniform", "taps", "taps of each axis"]))
        arguments["window"] = kind
        if kind == "taps":
            arguments["window"] = draw(taps(size))
        elif kind == "taps of each axis":
            sizes = [draw(st.sampled_from([1, 3, 5, 7])) for _ in range(dims)]
            arguments["window"] = [draw(taps(size)) for size in sizes]
        else:
            arguments["window_size"] = size
            arguments["sigma"] = draw(st.sampled_from([1.5, 1.5, 0.4, 0.8, 3.0]))
    paddings = ["same", "replicate"] if function != "l1_ssim_loss" else ["same"]
    scales = 2 if function == "ms_ssim" else 1
    if all(length >= scales * size for length, size in zip(shape[2:], sizes, strict=True)):
        paddings.append("valid")
    if function != "l1_ssim_loss" and all(
        length > scales * (size // 2 + 1) for length, size in zip(shape[2:], sizes, strict=True)
    ):
        paddings.append("reflect")
    arguments["padding"] = draw(st.sampled_from(paddings))
    if function != "l1_ssim_loss" and torch.uint8 not in dtypes:
        arguments["data_range"] = draw(
            st.sampled_from([1.0, 3.0, torch.tensor([0.5, 2.0])[: shape[0]]])
        )
    if function == "ms_ssim":
        arguments["weights"] = (0.4, 0.6)
        arguments["negative"] = draw(st.sampled_from(["relu", "smooth"]))
        arguments["odd_sizes"] = "pad"
    if function == "ssim":
        arguments["component"] = draw(st.sampled_from(["ssim", "contrast", "luminance"]))
    if function in ("ssim", "ssim_and_mse") and max(sizes) > 1:
        arguments["unbiased"] = draw(st.booleans())
    if function in ("ssim", "l1_ssim_loss") and draw(st.booleans()):
        leading = draw(st.sampled_from([(), (1, 1), (shape[0], 1), tuple(shape[:2])]))
        mask = noise(*leading, *shape[2:], seed=draw(st.integers(0, 9)))
        soft = draw(st.booleans())
        arguments["mask"] = (2 * mask - 0.8).clamp(0, 1) if soft else mask > 0.5
        arguments["mask_mode"] = draw(st.sampled_from(["weighted", "normalized"]))
    if function in ("ssim", "ms_ssim"):
        names = ["mean", "sum", "image", "channel"] + ["none"] * (function == "ssim")
        arguments["reduction"] = draw(st.sampled_from(names))
    return {
        "function": function,
        "shape": shape,
        "dtypes": dtypes,
        "layouts": (draw(layouts(dims + 2)), draw(layouts(dims + 2))),
        "arguments": arguments,
        "seed": draw(st.integers(0, 5)),
    }


def pixels_of(form, index, device):
    """An image, and the numbers that it stands for."""
    shape, dtype = form["shape"], form["dtypes"][index]
    numbers = noise(*shape, seed=10 * form["seed"] + index).to(device)
    stored = (255 * numbers).round().to(dtype) if dtype == torch.uint8 else numbers.to(dtype)
    image = lay_out(stored, form["layouts"][index]).expand(shape).detach()
    if dtype == torch.uint8:
        return image, (image.float() / 255).double()
    return image.requires_grad_(), image.detach().double()


@given(form=forms())
def test_every_form(device, way, form):
    (x, a), (y, b) = (pixels_of(form, index, device) for index in (0, 1))
    arguments = {
        name: value.to(device) if torch.is_tensor(value) else value
        for name, value in form["arguments"].items()
    }
    if form["function"] == "ssim_and_mse":
        value, mse = ssim_and_mse(x, y, **arguments)
        assert max_error(value, oracle.ssim(a, b, reduction="channel", **arguments)) <= 1e-5
        assert max_error(mse, oracle.mse(a, b, **arguments)) <= 1e-6
        return
    ours, truth = {
        "ssim": (ssim, oracle.ssim),
        "ms_ssim": (ms_ssim, oracle.ms_ssim),
        "l1_ssim_loss": (l1_ssim_loss, oracle.l1_ssim_loss),
    }[form["function"]]
    value, expected = ours(x, y, **arguments), truth(a, b, **arguments)
    scale = x.numel() if arguments.get("reduction") == "sum" else 1
    assert max_error(value, expected) <= 2e-5 * scale
    images = [image for image in (x, y) if image.requires_grad]
    if not images:
        return
    # float16 has no millionths, and nothing above 65504: under one tap a derivative reaches 50.
    upstream = min(x.numel(), 500) * (noise(*expected.shape, seed=99).to(device) + 0.5)
    found = torch.autograd.grad(value, images, upstream.to(value.dtype))

    def gradients_by_oracle(rounding):
        by_oracle = oracle.gradients(
            lambda p, q: truth(p, q, rounding=rounding, **arguments), a, b, upstream
        )
        return [by for by, image in zip(by_oracle, (x, y), strict=True) if image.requires_grad]

    rounded = None
    for i, (gradient, by) in enumerate(zip(found, gradients_by_oracle(0.0), strict=True)):
        assert gradient.dtype == images[i].dtype
        bound = HALF_BOUND.get(gradient.dtype, 1e-4) * by.norm() + 1e-5 * upstream.norm()
        error = (gradient.double() - by).norm()
        if error > bound and torch.float64 not in form["dtypes"]:
            # Where windows are flat, and C2 small, the pixels' differences from the means are all that
            # there is: what the last digit of the means does to the exact gradient is no mistake.
            rounded = rounded or gradients_by_oracle(2.0**-23)
            bound += (rounded[i] - by).norm()
        assert error <= bound
