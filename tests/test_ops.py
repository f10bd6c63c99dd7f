"""The operators underneath: schemas, fakes and registration by torch's own checks, and bad calls.

Python's checks stand in front of them; these calls go past those.
"""

from __future__ import annotations

import pytest
import torch

import fused_ssim as fused_ssim  # registers the operators
import oracle
from images import noise, noise_pair
from measure import max_error, relative_error
from oracle import gaussian_taps

if torch.__version__ < "2.4":
    pytest.skip("torch.library.opcheck came with torch 2.4", allow_module_level=True)
from torch.library import opcheck

DEFINITION = {
    "taps": gaussian_taps(),
    "window_sizes": [1, 11, 11],
    "c1": 1e-4,
    "c2": 9e-4,
    "valid": False,
    "statistic": 0,
    "uint8_divisor": 255,
}
WEIGHTS = {"statistic_weight": 1.0, "l1_weight": 0.0, "offset": 0.0}
MEAN, SUM, IMAGE, CHANNEL = range(4)
SCALE = ([1, 11, 11], False)
ops = torch.ops.fused_ssim


def definition(**changes):
    return [*{**DEFINITION, **changes}.values()]


def split(**changes):
    """What `definition` takes, and what operators take by name."""
    common = {name: value for name, value in changes.items() if name in DEFINITION}
    return common, {name: value for name, value in changes.items() if name not in DEFINITION}


def images(device, *shape, dtype=torch.float32):
    return tuple(image.to(device).to(dtype) for image in noise_pair(*(shape or (2, 3, 17, 23))))


def channels_last(image):
    return image.contiguous(memory_format=torch.channels_last)


def expanded(image):
    return image[:1, :1].expand(image.shape)


def gaps(image):
    return torch.stack([image, image], dim=-1)[..., 0]


LAYOUTS = [torch.Tensor.contiguous, channels_last, expanded, gaps]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_opcheck_ssim(device, layout, dtype):
    x, y = (layout(image) for image in images(device, dtype=dtype))
    for reduction, wants in (
        (MEAN, (True, True)),
        (SUM, (False, True)),
        (IMAGE, (False, False)),
        (CHANNEL, (True, False)),
    ):
        arguments = (*definition(valid=reduction == SUM), reduction, 0.2, 0.8, 0.1, *wants)
        opcheck(ops.ssim, (x, y, *arguments))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_opcheck_map(device, layout, dtype):
    valid = layout in (expanded, gaps)
    x, y = (layout(image) for image in images(device, dtype=dtype))
    arguments = definition(valid=valid)
    opcheck(ops.ssim_map, (x, y, *arguments))
    upstream = noise(*ops.ssim_map(x, y, *arguments).shape).to(device)
    upstream = upstream.double() if dtype == torch.float64 else upstream
    for seed, wants in (
        (upstream, (True, True)),
        (expanded(upstream), (True, False)),
        (channels_last(upstream), (False, False)),
    ):
        opcheck(ops.ssim_map_backward, (seed, x, y, *arguments, *wants))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_opcheck_scale(device, layout, dtype):
    unit, _ = (layout(image) for image in images(device, dtype=dtype))
    accumulation = torch.float64 if dtype == torch.float64 else torch.float32
    for reduction, shape in ((MEAN, ()), (SUM, ()), (IMAGE, (2,)), (CHANNEL, (2, 3))):
        upstream = noise(*shape).to(device).to(accumulation)
        opcheck(ops.scale_gradient, (unit, upstream, reduction, *SCALE))
        if layout is not expanded:  # writing to memory that is shared means nothing
            opcheck(ops.scale_gradient_, (unit.clone(), upstream, reduction, *SCALE))


@pytest.mark.parametrize("mode", [0, 1])
def test_opcheck_under_a_mask(mode):
    # Kernels on the CPU alone serve masks.
    for dtype in (torch.float32, torch.float16):
        x, y = images("cpu", dtype=dtype)
        mask = (noise(1, 1, 17, 23, seed=4) > 0.4).expand(x.shape)
        rare = {"mask": mask, "mask_mode": mode}
        for reduction in (MEAN, CHANNEL):
            arguments = (*definition(valid=True), reduction, 0.2, 0.8, 0.1, True, True)
            opcheck(ops.ssim, (x, y, *arguments), rare)
        values = ops.ssim_map(x, y, *definition(), **rare)
        opcheck(ops.ssim_map, (x, y, *definition()), rare)
        opcheck(ops.ssim_map_backward, (values, x, y, *definition(), True, False), rare)


def test_ssim_and_mse_under_a_mask():
    x, y = images("cpu")
    mask = noise(1, 1, 17, 23, seed=4).gt(0.4).expand(x.shape)
    value, mse = ops.ssim_and_mse(x, y, *definition(), mask=mask)
    assert max_error(value, oracle.ssim(x, y, reduction="channel", mask=mask)) <= 1e-6
    squares = oracle.reduce_masked((x - y).double().square(), mask, "channel", 0.0)
    assert max_error(mse, squares) <= 1e-6


def test_opcheck_refusals(device):
    x, y = images(device)
    opcheck(ops.without_gradient, (x.sum(), [x, y]))


OTHERS = {
    "short": {"taps": gaussian_taps(5, 1.0), "window_sizes": [1, 5, 5]},
    "asymmetric": {"taps": [0.2, 0.3, 0.5], "window_sizes": [1, 3, 3], "statistic": 1},
    "for each axis": {
        "taps": [*gaussian_taps(3, 1.0), *gaussian_taps(13, 2.0)],
        "window_sizes": [1, 3, 13],
        "statistic": 2,
        "valid": True,
    },
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_opcheck_of_other_windows_and_types(device, other):
    x, y = images(device)
    u = (255 * y).to(torch.uint8)
    other = definition(**other)
    for pair in ((x, u), (u, x), (x.half(), y), (u, u)):
        wants = [image.dtype != torch.uint8 for image in pair]
        opcheck(ops.ssim, (*pair, *other, MEAN, *WEIGHTS.values(), *wants))
        opcheck(ops.ssim_and_mse, (*pair, *other))
        opcheck(ops.ssim_map, (*pair, *other))
        upstream = torch.ones_like(ops.ssim_map(*pair, *other))
        opcheck(ops.ssim_map_backward, (upstream, *pair, *other, *wants))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_no_lists_stand_for_the_standard_window(device, dims):
    x, y = (image.to(device) for image in noise_pair(*(2, 3, 12, 13, 14)[: 2 + dims]))
    sizes = [11 if axis >= 3 - dims else 1 for axis in range(3)]
    listed = definition(taps=gaussian_taps(), window_sizes=sizes, valid=True)
    none = definition(taps=[], window_sizes=[], valid=True)
    for with_lists, without in zip(
        ops.ssim(x, y, *listed, MEAN, *WEIGHTS.values(), True, True),
        ops.ssim(x, y, *none, MEAN, *WEIGHTS.values(), True, True),
        strict=True,
    ):
        assert torch.equal(with_lists, without)
    assert torch.equal(ops.ssim_map(x, y, *listed), ops.ssim_map(x, y, *none))
    opcheck(ops.ssim_map, (x, y, *none))
    half, factor = x.half(), torch.full((), 3.0, device=device)
    assert torch.equal(
        ops.scale_gradient(half, factor, MEAN, sizes, True),
        ops.scale_gradient(half, factor, MEAN, [], True),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_scale(device, dtype):
    unit, _ = images(device, dtype=dtype)
    pixels = 17 * 23
    for reduction, shape, divisor in (
        (MEAN, (), 6 * pixels),
        (SUM, (), 1),
        (IMAGE, (2,), 3 * pixels),
        (CHANNEL, (2, 3), pixels),
    ):
        # Only of float16 images is a gradient that of the sum.
        factor = 1000.0 / (divisor if dtype == torch.float16 else 1)
        upstream = 1000.0 * noise(*shape).to(device)
        spread = upstream.view(*shape, *[1] * (4 - len(shape))) / 1000.0
        found = ops.scale_gradient(unit, upstream, reduction, *SCALE)
        assert relative_error(found, factor * unit.double() * spread) <= 1e-3
        in_place = unit.clone()
        assert ops.scale_gradient_(in_place, upstream, reduction, *SCALE) is None
        assert torch.equal(in_place, found)


def test_combined_value(device):
    x, y = images(device)
    value, by_x, by_y = ops.ssim(x, y, *definition(), MEAN, -0.2, 0.8, 0.2, True, True)
    assert max_error(value, oracle.l1_ssim_loss(x, y)) <= 1e-6
    truth = oracle.gradients(oracle.l1_ssim_loss, x, y)
    assert relative_error(by_x, truth[0]) <= 5e-6
    assert relative_error(by_y, truth[1]) <= 5e-6


def test_squares(device):
    x, y = images(device)
    value, by_x, by_y = ops.ssim(
        x, y, *definition(), MEAN, 0.0, 0.0, 0.0, True, True, l2_weight=1.0
    )
    assert max_error(value, (x.double() - y.double()).square().mean()) <= 1e-6
    truth = oracle.gradients(lambda a, b: (a - b).square().mean(), x, y)
    assert relative_error(by_x, truth[0]) <= 5e-6
    assert relative_error(by_y, truth[1]) <= 5e-6


def test_unwanted_gradients_are_empty(device):
    x, y = images(device)
    _, by_x, by_y = ops.ssim(x, y, *definition(), MEAN, *WEIGHTS.values(), False, True)
    assert by_x.numel() == 0
    assert by_y.shape == y.shape


BAD_CALLS = {
    "rank": (lambda x: x[0], {}),
    "shape": (lambda x: x[..., :-1], {}),
    "dtype": (lambda x: x.double(), {}),
    "integers": (lambda x: x.to(torch.int16), {}),
    "empty": (lambda x: x[:0], {}),
    "even window": (None, {"taps": [0.1] * 10, "window_sizes": [1, 10, 10]}),
    "no window": (None, {"window_sizes": [1, 0, 0]}),
    "huge window": (None, {"window_sizes": [1, 2**40 + 1, 11]}),
    "negative window": (None, {"window_sizes": [1, -3, 11]}),
    "two windows": (None, {"window_sizes": [11, 11]}),
    "taps left": (None, {"window_sizes": [1, 3, 3]}),
    "taps missing": (None, {"window_sizes": [1, 11, 13]}),
    "sum of taps": (None, {"taps": [0.1] * 11}),
    "negative taps": (None, {"taps": [-0.5, 2.0, -0.5], "window_sizes": [1, 3, 3]}),
    "c1": (None, {"c1": 0.0}),
    "c2": (None, {"c2": float("nan")}),
    "statistic": (None, {"statistic": 3}),
    "uint8_divisor": (None, {"uint8_divisor": 7}),
    "mask": (None, {"mask": torch.ones(1, 1, 1, 1)}),
    "mask mode": (None, {"mask_mode": 2}),
    "stabilizers": (None, {"stabilizers": torch.ones(2, 3)}),
}


@pytest.mark.parametrize(("spoil", "arguments"), BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_bad_calls_are_refused(device, spoil, arguments):
    x, y = images(device)
    other = spoil(y) if spoil else y
    for valid in (False, True):
        common, rare = split(**arguments | {"valid": valid})
        bad = definition(**common)
        for op, given in (
            (ops.ssim, (x, other, *bad, MEAN, *WEIGHTS.values(), True, True)),
            (ops.ssim_map, (x, other, *bad)),
            (ops.ssim_and_mse, (x, other, *bad)),
            (ops.ssim_map_backward, (x, x, other, *bad, True, True)),
        ):
            with pytest.raises((RuntimeError, ValueError, TypeError), match="expected"):
                op(*given, **rare)


@pytest.mark.gpu
def test_what_no_kernel_serves_is_refused():
    x, y = images("cuda")
    long = definition(taps=[1 / 4095] * 4095, window_sizes=[1, 4095, 4095])
    with pytest.raises(RuntimeError, match=r"expected windows that fit.* torch operations"):
        ops.ssim_map(x, y, *long)
    with pytest.raises(RuntimeError, match=r"expected windows that fit.* torch operations"):
        ops.ssim(x, y, *long, MEAN, *WEIGHTS.values(), True, True)


@pytest.mark.parametrize("image", [1, 2])
def test_a_gradient_of_integers_is_refused(device, image):
    x, y = images(device)
    pair = [x, y]
    pair[image - 1] = (255 * pair[image - 1]).to(torch.uint8)
    wants = {"wants_gradient1": image == 1, "wants_gradient2": image == 2}
    message = f"expected no grad{image}, for img{image} is of int"
    with pytest.raises((RuntimeError, ValueError), match=message):
        ops.ssim(*pair, *definition(), MEAN, *WEIGHTS.values(), *wants.values())


@pytest.mark.parametrize("reduction", [-1, 4, 2**40])
def test_unknown_reduction_is_refused(device, reduction):
    x, y = images(device)
    with pytest.raises((RuntimeError, ValueError), match="reduction"):
        ops.ssim(x, y, *definition(), reduction, *WEIGHTS.values(), True, True)
    with pytest.raises((RuntimeError, ValueError), match="reduction"):
        ops.scale_gradient(x, torch.ones((), device=device), reduction, *SCALE)


def test_small_image_with_valid_is_refused(device):
    x, y = images(device, 1, 1, 10, 30)
    with pytest.raises((RuntimeError, ValueError), match="valid"):
        ops.ssim_map(x, y, *definition(valid=True))


def test_wrong_upstream_is_refused(device):
    x, y = images(device)
    for bad in (
        torch.ones(2, 3, 17, 22, device=device),
        torch.ones(3, 17, 23, device=device),
        torch.ones(2, 3, 17, 23, device=device, dtype=torch.float64),
        torch.ones(2, 3, 7, 13, device=device),
    ):
        with pytest.raises((RuntimeError, ValueError), match="expected"):
            ops.ssim_map_backward(bad, x, y, *definition(), True, True)
    for bad in (
        torch.ones(3, device=device),
        torch.ones(2, device=device, dtype=torch.float64),
        torch.ones(4, device=device)[::2],
    ):
        with pytest.raises((RuntimeError, ValueError), match="expected"):
            ops.scale_gradient(x, bad, IMAGE, *SCALE)
    for sizes in ([1, 11], [1, -(2**63), 11], [1, 2**40, 11], [1, 99, 99]):
        with pytest.raises((RuntimeError, ValueError), match="expected"):
            ops.scale_gradient(x, torch.ones((), device=device), MEAN, sizes, True)


@pytest.mark.parametrize("shape", [(2, 1, 14, 15), (1, 3, 1, 15), (1, 3, 14, 1)])
def test_opcheck_of_strides_that_do_not_matter(device, shape):
    # Contiguous and channels_last at once, or nearly: the gradient may have either's strides.
    x, y = images(device, *shape)
    x = x.to(memory_format=torch.channels_last)
    opcheck(ops.ssim, (x, y, *definition(), MEAN, *WEIGHTS.values(), True, False))


SCALES = {"exponents": [0.3, 0.5, 0.2], "negative": 0, "odd_sizes": 0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_opcheck_ms_ssim(device, layout, dtype):
    x, y = (layout(image) for image in images(device, dtype=dtype))
    for odd_sizes, wants in ((0, (True, True)), (1, (False, True)), (0, (False, False))):
        scales = {**SCALES, "odd_sizes": odd_sizes, "negative": odd_sizes}.values()
        opcheck(ops.ms_ssim, (x, y, *definition(), *scales, *wants))
    value, derivatives, *saved = ops.ms_ssim(x, y, *definition(), *SCALES.values(), True, False)
    arguments = (*saved[:2], value, derivatives, 0)
    opcheck(ops.ms_ssim_backward, arguments)
    expected = ops.ms_ssim_backward(*arguments)
    opcheck(ops.ms_ssim_backward_, tuple(a.clone() if torch.is_tensor(a) else a for a in arguments))
    ops.ms_ssim_backward_(*arguments)
    assert torch.equal(saved[0], expected)


def test_bad_calls_of_ms_ssim_are_refused():
    x, y = images("cpu")

    def call(x=x, y=y, **changes):
        common, rare = split(**changes)
        scales = {name: rare.pop(name, value) for name, value in SCALES.items()}
        return ops.ms_ssim(x, y, *definition(**common), *scales.values(), True, True, **rare)

    for message, changes in (
        ("exponent", {"exponents": []}),
        ("not negative", {"exponents": [-0.5]}),
        ("finite exponent", {"exponents": [float("nan"), 1.0]}),
        ("negative from 0 to 1", {"negative": 2}),
        ("odd_sizes", {"odd_sizes": 2}),
        ("mask", {"mask": torch.ones_like(x)}),
        ("valid", {"valid": True}),
        ("at least (one|2) pixel", {"exponents": [0.1] * 6, "odd_sizes": 1}),
        ("img2", {"y": y[..., 1:]}),
    ):
        with pytest.raises((RuntimeError, ValueError), match=message):
            call(**changes)
    value, derivatives, gradient, coarser, *_ = call()
    for bad in (
        (gradient, coarser[1:], value, derivatives),
        (gradient, coarser, value[:1], derivatives),
        (gradient, coarser, value.double(), derivatives),
        (gradient, coarser, value, derivatives.float()),
        (gradient, coarser, value, derivatives[1:]),
        (gradient, coarser, value, derivatives[:0]),
    ):
        with pytest.raises((RuntimeError, ValueError), match="expected contiguous"):
            ops.ms_ssim_backward(*bad, 0)
