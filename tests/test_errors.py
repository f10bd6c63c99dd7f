"""Bad input, at every entry point: an exception that says what was expected, what came, what to do."""

from __future__ import annotations

import math

import pytest
import torch

from fused_ssim import SSIM, FusedSSIMMap, L1SSIMLoss, fused_ssim, l1_ssim_loss, ssim
from images import noise

ENTRIES = {
    "fused_ssim": fused_ssim,
    "fused_ssim without train": lambda x, y: fused_ssim(x, y, train=False),
    "FusedSSIMMap": lambda x, y: FusedSSIMMap.apply(1e-4, 9e-4, x, y),
    "ssim": ssim,
    "ssim none": lambda x, y: ssim(x, y, reduction="none"),
    "ssim channel": lambda x, y: ssim(x, y, reduction="channel"),
    "ssim window": lambda x, y: ssim(x, y, window_size=7),
    "l1_ssim_loss": l1_ssim_loss,
    "SSIM": SSIM(),
    "L1SSIMLoss": L1SSIMLoss(),
}
WITH_PADDING = {
    "fused_ssim": lambda x, y, padding: fused_ssim(x, y, padding),
    "fused_ssim without train": lambda x, y, padding: fused_ssim(x, y, padding, train=False),
    "FusedSSIMMap": lambda x, y, padding: FusedSSIMMap.apply(1e-4, 9e-4, x, y, padding),
    "ssim": lambda x, y, padding: ssim(x, y, padding=padding),
    "ssim none": lambda x, y, padding: ssim(x, y, padding=padding, reduction="none"),
    "l1_ssim_loss": lambda x, y, padding: l1_ssim_loss(x, y, padding=padding),
    "SSIM": lambda x, y, padding: SSIM(padding=padding)(x, y),
    "L1SSIMLoss": lambda x, y, padding: L1SSIMLoss(padding=padding)(x, y),
}
DEFINITIONS = {
    "ssim": lambda x, y, **definition: ssim(x, y, **definition),
    "ssim none": lambda x, y, **definition: ssim(x, y, reduction="none", **definition),
    "SSIM": lambda x, y, **definition: SSIM(**definition)(x, y),
}


def parametrize(name, table):
    return pytest.mark.parametrize(name, table.values(), ids=table.keys())


each_entry = parametrize("entry", ENTRIES)
each_with_padding = parametrize("entry", WITH_PADDING)
each_with_definition = parametrize("entry", DEFINITIONS)


def image(device, *shape, dtype=torch.float32):
    return noise(*(shape or (1, 3, 16, 16))).to(device).to(dtype)


def raises(error, call, *fragments):
    """`call` raises `error`, whose message holds each fragment and is more than a bare word."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    for fragment in fragments:
        assert fragment.lower() in message.lower(), f"{fragment!r} is missing in: {message}"
    assert len(message.split()) >= 6, f"says too little: {message}"
    assert "\n" not in message.strip(), f"a traceback or a dump, not a message: {message}"
    return caught.value


@each_entry
@pytest.mark.parametrize("other", [None, 1.0, [[1.0]], "image", "array"], ids=str)
def test_not_a_tensor(device, entry, other):
    if other == "array":
        other = noise(1, 3, 16, 16).numpy()
    name = type(other).__name__
    raises(TypeError, lambda: entry(image(device), other), "tensor", name)
    raises(TypeError, lambda: entry(other, image(device)), "tensor", name)
    raises(TypeError, lambda: entry(other, other), "tensor", name)


UNSUPPORTED = [
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
    torch.complex64,
    torch.complex128,
    torch.complex32,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.uint16,
]


@each_entry
@pytest.mark.filterwarnings("ignore:ComplexHalf support")
@pytest.mark.parametrize("dtype", UNSUPPORTED, ids=str)
def test_unsupported_dtype(device, entry, dtype):
    bad = torch.ones(1, 3, 16, 16, device=device).to(dtype)
    name = str(dtype).removeprefix("torch.")
    raises(TypeError, lambda: entry(bad, bad), name, "float32")
    raises(TypeError, lambda: entry(image(device), bad), name)
    raises(TypeError, lambda: entry(bad, image(device)), name)


@each_entry
def test_different_dtypes(device, entry):
    x, y = image(device), image(device, dtype=torch.float64)
    raises(TypeError, lambda: entry(x, y), "float32", "float64")
    raises(TypeError, lambda: entry(y, x), "float32", "float64")
    raises(TypeError, lambda: entry(x.half(), x.bfloat16()), "float16", "bfloat16")


@each_entry
@pytest.mark.parametrize("shape", [(), (16,), (16, 16), (3, 16, 16), (1, 3, 4, 16, 16)], ids=str)
def test_wrong_rank(device, entry, shape):
    bad = torch.rand(shape, device=device)
    raises(ValueError, lambda: entry(bad, bad), "[B, C, H, W]", str(list(shape)))
    raises(ValueError, lambda: entry(image(device), bad))
    raises(ValueError, lambda: entry(bad, image(device)))


@each_entry
@pytest.mark.parametrize(
    "shape", [(2, 3, 16, 16), (1, 1, 16, 16), (1, 3, 17, 16), (1, 3, 16, 15)], ids=str
)
def test_different_shapes(device, entry, shape):
    # No broadcasting: a forgotten batch is more likely than a wish.
    first, second = "[1, 3, 16, 16]", str(list(shape))
    raises(ValueError, lambda: entry(image(device), image(device, *shape)), first, second)
    raises(ValueError, lambda: entry(image(device, *shape), image(device)), first, second)


@each_entry
@pytest.mark.parametrize(
    "shape", [(0, 3, 16, 16), (1, 0, 16, 16), (1, 3, 0, 16), (1, 3, 16, 0), (0, 0, 0, 0)], ids=str
)
def test_empty(device, entry, shape):
    bad = torch.empty(shape, device=device)
    raises(ValueError, lambda: entry(bad, bad), "pixel", str(list(shape)))


@each_with_padding
@pytest.mark.parametrize(("height", "width"), [(10, 16), (16, 10), (1, 1), (10, 10)])
def test_smaller_than_the_window(device, entry, height, width):
    bad = image(device, 1, 3, height, width)
    raises(ValueError, lambda: entry(bad, bad, "valid"), "11", str(min(height, width)), "same")
    entry(bad, bad, "same")  # the way out that the message names


@each_with_definition
@pytest.mark.parametrize("size", [17, 33])
def test_smaller_than_a_chosen_window(device, entry, size):
    bad = image(device)
    raises(ValueError, lambda: entry(bad, bad, window_size=size, padding="valid"), str(size), "16")
    entry(bad, bad, window_size=size)
    entry(bad, bad, window_size=15, padding="valid")


@each_with_padding
@pytest.mark.parametrize("padding", ["full", "SAME", "", "reflect", None, 0, 5, b"same"], ids=str)
def test_unknown_padding(device, entry, padding):
    x = image(device)
    error = raises(ValueError, lambda: entry(x, x, padding), "same", "valid", str(padding))
    # The original package asserts, and people catch that.
    assert isinstance(error, AssertionError)


@pytest.mark.parametrize("reduction", ["average", "", "MEAN", None, "batch", 1], ids=str)
def test_unknown_reduction(device, reduction):
    x = image(device)
    names = ("mean", "sum", "none", "image", "channel")
    raises(ValueError, lambda: ssim(x, x, reduction=reduction), str(reduction), *names)
    raises(ValueError, lambda: SSIM(reduction=reduction)(x, x), str(reduction), *names)


@each_with_definition
@pytest.mark.parametrize("size", [-11, -1, 0, 1, 2, 4, 10, 32, 34, 35, 101, 2**40])
def test_window_size(device, entry, size):
    x = image(device)
    raises(ValueError, lambda: entry(x, x, window_size=size), "window_size", str(size), "odd")


@each_with_definition
@pytest.mark.parametrize("size", [11.0, "11", None, 7.5, (11, 11)], ids=str)
def test_window_size_is_an_integer(device, entry, size):
    x = image(device)
    raises((TypeError, ValueError), lambda: entry(x, x, window_size=size), "window_size")


@each_with_definition
@pytest.mark.parametrize("name", ["sigma", "data_range", "k1", "k2"])
@pytest.mark.parametrize("value", [0, 0.0, -1.5, math.nan, math.inf, -math.inf])
def test_positive_numbers(device, entry, name, value):
    x = image(device)
    raises(ValueError, lambda: entry(x, x, **{name: value}), name, str(value), "positive")


@each_with_definition
@pytest.mark.parametrize("name", ["sigma", "data_range", "k1", "k2"])
@pytest.mark.parametrize("value", ["1.5", None, [1.5], 1 + 2j], ids=str)
def test_numbers_are_numbers(device, entry, name, value):
    x = image(device)
    raises((TypeError, ValueError), lambda: entry(x, x, **{name: value}), name)


@pytest.mark.parametrize(
    ("c1", "c2", "name"),
    [
        (0.0, 9e-4, "C1"),
        (-1e-4, 9e-4, "C1"),
        (math.inf, 9e-4, "C1"),
        (1e-4, 0, "C2"),
        (1e-4, math.nan, "C2"),
    ],
)
def test_c1_and_c2(device, c1, c2, name):
    x = image(device)
    raises(ValueError, lambda: FusedSSIMMap.apply(c1, c2, x, x), name)


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan, math.inf, -math.inf, 2])
def test_ssim_weight(device, weight):
    x = image(device)
    for call in (lambda: l1_ssim_loss(x, x, weight), lambda: L1SSIMLoss(weight)(x, x)):
        raises(ValueError, call, "ssim_weight", str(weight), "0", "1")


@pytest.mark.parametrize("weight", ["0.2", None, [0.2]], ids=str)
def test_ssim_weight_is_a_number(device, weight):
    x = image(device)
    for call in (lambda: l1_ssim_loss(x, x, weight), lambda: L1SSIMLoss(weight)(x, x)):
        raises((TypeError, ValueError), call, "ssim_weight")


@each_entry
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_sparse(device, entry):
    x = image(device)
    for bad in (x.to_sparse(), x[0, 0].to_sparse_csr()):
        raises((TypeError, NotImplementedError), lambda b=bad: entry(b, b), "dense")
        raises((TypeError, NotImplementedError), lambda b=bad: entry(x, b), "dense")


@each_entry
@pytest.mark.filterwarnings("ignore")  # torch means to retire quantised tensors
def test_quantised(entry):
    x = image("cpu")
    bad = torch.quantize_per_tensor(x, 0.01, 0, torch.quint8)
    raises((TypeError, NotImplementedError), lambda: entry(bad, bad))
    raises((TypeError, NotImplementedError), lambda: entry(x, bad))


@each_entry
@pytest.mark.filterwarnings("ignore")  # torch calls nested tensors a prototype
def test_nested(device, entry):
    bad = torch.nested.nested_tensor([torch.rand(3, 16, 16), torch.rand(3, 12, 16)], device=device)
    raises((TypeError, ValueError, NotImplementedError), lambda: entry(bad, bad))


@each_entry
def test_meta(entry):
    bad = torch.empty(1, 3, 16, 16, device="meta")
    raises(NotImplementedError, lambda: entry(bad, bad), "meta", "cpu")


@each_entry
def test_different_devices(device, entry):
    x = image(device)
    other = torch.empty(1, 3, 16, 16, device="meta")
    raises((ValueError, NotImplementedError), lambda: entry(x, other), "meta", device)
    raises((ValueError, NotImplementedError), lambda: entry(other, x), "meta", device)


def test_too_few_and_too_many_arguments(device):
    x = image(device)
    for function in (fused_ssim, ssim, l1_ssim_loss, SSIM(), L1SSIMLoss()):
        with pytest.raises(TypeError):
            function(x)
    with pytest.raises(TypeError):
        ssim(x, x, 1.0)  # what comes after the images goes by name


@each_entry
def test_an_error_leaves_things_working(device, entry):
    x = image(device)
    with pytest.raises(ValueError, match="shape"):
        entry(x[0], x[0])
    entry(x, x)


@each_entry
def test_errors_of_bad_and_good_gradients(device, entry):
    # A bad argument is found in the forward call, not deep in a backward pass.
    x = image(device).requires_grad_()
    raises(ValueError, lambda: entry(x, x[..., :-1]), "1, 3, 16, 16", "1, 3, 16, 15")
