"""Bad input, at every entry point: what was expected, what came, and what to do."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from fused_ssim import (
    MS_SSIM,
    SSIM,
    FusedSSIMMap,
    L1SSIMLoss,
    fused_l1_ssim_loss,
    fused_ssim,
    fused_ssim3d,
    l1_ssim_loss,
    ms_ssim,
    ssim,
    ssim_and_mse,
)
from images import noise

ENTRIES = {
    "fused_ssim": fused_ssim,
    "fused_ssim without train": lambda x, y: fused_ssim(x, y, train=False),
    "FusedSSIMMap": lambda x, y: FusedSSIMMap.apply(1e-4, 9e-4, x, y),
    "ssim": ssim,
    "ssim none": lambda x, y: ssim(x, y, reduction="none"),
    "ssim channel": lambda x, y: ssim(x, y, reduction="channel"),
    "ssim window": lambda x, y: ssim(x, y, window_size=7),
    "ssim reflect": lambda x, y: ssim(x, y, padding="reflect"),
    "ssim_and_mse": ssim_and_mse,
    "ms_ssim": lambda x, y: ms_ssim(x, y, window_size=3, weights=(0.5, 0.5)),
    "MS_SSIM": MS_SSIM(window_size=3, weights=(0.5, 0.5)),
    "l1_ssim_loss": l1_ssim_loss,
    "fused_l1_ssim_loss": fused_l1_ssim_loss,
    "SSIM": SSIM(),
    "L1SSIMLoss": L1SSIMLoss(),
}
WITH_PADDING = {
    "fused_ssim": lambda x, y, padding: fused_ssim(x, y, padding),
    "fused_ssim without train": lambda x, y, padding: fused_ssim(x, y, padding, train=False),
    "fused_l1_ssim_loss": lambda x, y, padding: fused_l1_ssim_loss(x, y, padding=padding),
    "FusedSSIMMap": lambda x, y, padding: FusedSSIMMap.apply(1e-4, 9e-4, x, y, padding),
    "ssim": lambda x, y, padding: ssim(x, y, padding=padding),
    "ssim none": lambda x, y, padding: ssim(x, y, padding=padding, reduction="none"),
    "l1_ssim_loss": lambda x, y, padding: l1_ssim_loss(x, y, padding=padding),
    "SSIM": lambda x, y, padding: SSIM(padding=padding)(x, y),
    "L1SSIMLoss": lambda x, y, padding: L1SSIMLoss(padding=padding)(x, y),
}
# The padding that images are extended by, beside the two.
WITH_ANY_PADDING = {
    "ssim": lambda x, y, padding: ssim(x, y, padding=padding),
    "ssim_and_mse": lambda x, y, padding: ssim_and_mse(x, y, padding=padding),
    "ms_ssim": lambda x, y, padding: ms_ssim(x, y, padding=padding, weights=(1.0,)),
    "SSIM": lambda x, y, padding: SSIM(padding=padding)(x, y),
    "MS_SSIM": lambda x, y, padding: MS_SSIM(padding=padding, weights=(1.0,))(x, y),
}
MASKED = {
    "ssim": lambda x, y, mask: ssim(x, y, mask=mask),
    "ssim none": lambda x, y, mask: ssim(x, y, mask=mask, reduction="none"),
    "ssim normalized": lambda x, y, mask: ssim(x, y, mask=mask, mask_mode="normalized"),
    "l1_ssim_loss": lambda x, y, mask: l1_ssim_loss(x, y, mask=mask),
    "SSIM": lambda x, y, mask: SSIM()(x, y, mask),
    "L1SSIMLoss": lambda x, y, mask: L1SSIMLoss()(x, y, mask),
}
DEFINITIONS = {
    "ssim_and_mse": lambda x, y, **definition: ssim_and_mse(x, y, **definition),
    "ms_ssim": lambda x, y, **definition: ms_ssim(
        x, y, weights=(1.0,), **{"padding": "same", **definition}
    ),
    "ssim": lambda x, y, **definition: ssim(x, y, **definition),
    "ssim none": lambda x, y, **definition: ssim(x, y, reduction="none", **definition),
    "SSIM": lambda x, y, **definition: SSIM(**definition)(x, y),
    "MS_SSIM": lambda x, y, **definition: MS_SSIM(
        weights=(1.0,), **{"padding": "same", **definition}
    )(x, y),
}


def parametrize(name, table):
    return pytest.mark.parametrize(name, table.values(), ids=table.keys())


each_entry = parametrize("entry", ENTRIES)
each_with_padding = parametrize("entry", WITH_PADDING)
each_with_any_padding = parametrize("entry", WITH_ANY_PADDING)
each_masked = parametrize("entry", MASKED)
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


# torch 2.1 and 2.2 have no uint16.
SIXTEEN_BITS = [getattr(torch, name) for name in ("int16", "uint16") if hasattr(torch, name)]
UNSUPPORTED = [
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
    *SIXTEEN_BITS[1:],
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
@pytest.mark.parametrize("dtype", SIXTEEN_BITS, ids=str)
def test_16_bit_integers_are_to_be_divided(device, entry, dtype):
    bad = torch.ones(1, 3, 16, 16, device=device).to(dtype)
    largest = str(torch.iinfo(dtype).max)
    raises(TypeError, lambda: entry(bad, bad), "divide", largest)
    raises(TypeError, lambda: entry(image(device), bad), "divide", largest)


def test_map_of_the_original_takes_no_bytes(device):
    bad = torch.ones(1, 3, 16, 16, device=device, dtype=torch.uint8)
    raises(TypeError, lambda: FusedSSIMMap.apply(1e-4, 9e-4, bad, bad), "uint8", "/ 255")
    raises(TypeError, lambda: FusedSSIMMap.apply(1e-4, 9e-4, image(device), bad), "uint8", "/ 255")


@each_entry
def test_different_dtypes(device, entry):
    x = image(device)
    for other in (torch.float16, torch.bfloat16, torch.float32):
        name = str(other).removeprefix("torch.")
        raises(TypeError, lambda o=other: entry(x.to(o), x.double()), name, "float64", "uint8")
        raises(TypeError, lambda o=other: entry(x.double(), x.to(o)), name, "float64", "uint8")


@each_entry
@pytest.mark.parametrize("shape", [(), (16,), (16, 16), (1, 2, 3, 4, 16, 16)], ids=str)
def test_wrong_rank(device, entry, shape):
    bad = torch.rand(shape, device=device)
    raises(ValueError, lambda: entry(bad, bad), "[B, C, H, W]", str(list(shape)))
    raises(ValueError, lambda: entry(image(device), bad))
    raises(ValueError, lambda: entry(bad, image(device)))


@parametrize(
    "entry", {name: e for name, e in ENTRIES.items() if not name.lower().startswith("ssim")}
)
def test_image_without_a_batch(device, entry):
    bad = image(device)[0]
    raises(ValueError, lambda: entry(bad, bad), "[B, C, H, W]", "[3, 16, 16]", "unsqueeze")


@each_entry
def test_image_without_a_batch_beside_one_with(device, entry):
    x = image(device)
    raises(ValueError, lambda: entry(x, x[0]), "[B, C, H, W]", "[3, 16, 16]", "unsqueeze")
    raises(ValueError, lambda: entry(x[0], x), "[3, 16, 16]")


@each_entry
def test_volumes_are_told_where_to_go(device, entry):
    bad = torch.rand(1, 3, 4, 16, 16, device=device)
    raises(ValueError, lambda: entry(bad, bad), "volumes", "spatial_dims=3", "fused_ssim3d")


@pytest.mark.parametrize("shape", [(3, 4, 16, 16), (1, 3, 16), (1, 1, 2, 3, 4, 5)], ids=str)
def test_wrong_rank_of_volumes_and_signals(device, shape):
    bad = torch.rand(shape, device=device)
    for call in (
        lambda: fused_ssim3d(bad, bad),
        lambda: ssim(bad, bad, spatial_dims=3),
        lambda: l1_ssim_loss(bad, bad, spatial_dims=3),
        lambda: FusedSSIMMap.apply(1e-4, 9e-4, bad, bad, "same", True, 3),
    ):
        raises(ValueError, call, "[B, C, D, H, W]", str(list(shape)))
    if len(shape) != 3:
        raises(ValueError, lambda: ssim(bad, bad, spatial_dims=1), "[B, C, W]", str(list(shape)))


def test_volumes_of_all_but_numbers_of_one_kind(device):
    x = image(device, 1, 2, 5, 12, 13)
    raises(TypeError, lambda: fused_ssim3d(x, None), "tensor", "NoneType")
    raises(TypeError, lambda: fused_ssim3d(x.int(), x.int()), "int32", "float32")
    raises(TypeError, lambda: fused_ssim3d(x, x.double()), "float64", "float32")
    raises(
        ValueError, lambda: fused_ssim3d(x, x[..., :-1]), "[1, 2, 5, 12, 13]", "[1, 2, 5, 12, 12]"
    )
    raises(ValueError, lambda: fused_ssim3d(x[:, :, :0], x[:, :, :0]), "pixel", "[1, 2, 0, 12, 13]")


@pytest.mark.parametrize(
    "dims",
    [0, 4, -2, 2.5, 2.0, True, "2", None, [2], (2,), numpy.array([1, 2]), torch.tensor(2)],
    ids=repr,
)
def test_spatial_dims(device, dims):
    x = image(device)
    for call in (
        lambda: ssim(x, x, spatial_dims=dims),
        lambda: ms_ssim(x, x, spatial_dims=dims),
        lambda: ssim_and_mse(x, x, spatial_dims=dims),
        lambda: l1_ssim_loss(x, x, spatial_dims=dims),
        lambda: SSIM(spatial_dims=dims),
        lambda: MS_SSIM(spatial_dims=dims),
        lambda: L1SSIMLoss(spatial_dims=dims),
        lambda: FusedSSIMMap.apply(1e-4, 9e-4, x, x, "same", True, dims),
    ):
        raises(ValueError, call, "spatial_dims", repr(dims), "volumes")


@pytest.mark.parametrize("flag", [1, 0, None, "yes"], ids=repr)
def test_flags(device, flag):
    x = image(device)
    for call in (
        lambda: fused_ssim(x, x, train=flag),
        lambda: fused_ssim3d(x[None], x[None], train=flag),
        lambda: l1_ssim_loss(x, x, train=flag),
        lambda: fused_l1_ssim_loss(x, x, train=flag),
        lambda: FusedSSIMMap.apply(1e-4, 9e-4, x, x, "same", flag),
    ):
        raises(TypeError, call, "train", repr(flag))
    raises(TypeError, lambda: ssim(x, x, unbiased=flag), "unbiased", repr(flag))


@each_masked
def test_masks(device, entry):
    x = image(device, 2, 3, 16, 17)
    good = torch.ones(16, 17, device=device)
    bad = {
        "bool": (TypeError, [good.int(), good.byte(), good.long(), good + 1j]),
        "as_tensor(mask) of shape [H, W], or [B, C, H, W]": (TypeError, [[[1.0]], [1], 1.0]),
        "torch.from_numpy(numpy.array(mask)) of shape [H, W]": (TypeError, [good.cpu().numpy()]),
        "gradient": (ValueError, [good.clone().requires_grad_()]),
        "device": (ValueError, [good.to("meta")]),
        "use .unsqueeze(1)": (
            ValueError,
            [good[None], good.expand(2, 16, 17), good[:, :-1], good[:1], good[:, :1]]
            + [good[..., None]]
            + [good.expand(shape) for shape in ((1, 1, 1, 16, 17), (3, 3, 16, 17), (2, 2, 16, 17))],
        ),
    }
    for word, (error, masks) in bad.items():
        for mask in masks:
            raises(error, lambda m=mask: entry(x, x, m), "mask", word)
    for shape in ((16, 17), (1, 1, 16, 17), (2, 1, 16, 17), (1, 3, 16, 17), (2, 3, 16, 17)):
        entry(x, x, good.expand(shape))


def test_shapes_of_masks_are_said(device):
    x = image(device)
    mask = torch.ones(2, 1, 16, 16, device=device)
    expected = "[16, 16] or [B, C, 16, 16] with B of 1 or 1 and C of 1 or 3, got [2, 1, 16, 16];"
    raises(ValueError, lambda: ssim(x, x, mask=mask), expected)
    expected = "[16, 16] or [C, 16, 16] with C of 1 or 3, got [2, 16, 16];"
    raises(ValueError, lambda: ssim(x[0], x[0], mask=mask[:, 0]), expected)


def test_scales_have_no_mask(device):
    x = image(device, 1, 1, 176, 176)
    mask = torch.ones(176, 176, device=device)
    raises(TypeError, lambda: ms_ssim(x, x, mask=mask), "ms_ssim", "mask")
    with pytest.raises(TypeError, match="forward"):
        MS_SSIM()(x, x, mask)


@pytest.mark.parametrize("mode", ["weights", "", None, 1], ids=repr)
def test_unknown_mask_mode(device, mode):
    x = image(device)
    for call in (
        lambda: ssim(x, x, mask_mode=mode),
        lambda: l1_ssim_loss(x, x, mask_mode=mode),
        lambda: SSIM(mask_mode=mode),
        lambda: L1SSIMLoss(mask_mode=mode),
    ):
        raises(ValueError, call, "mask_mode", repr(mode), "weighted", "normalized")


@pytest.mark.parametrize("entry", [fused_ssim, ssim], ids=["fused_ssim", "ssim"])
def test_pictures_that_are_no_tensors(entry):
    """The way out does what it says: of a picture [H, W, C] it makes a batch of one."""
    picture = numpy.arange(12 * 13 * 3, dtype=numpy.uint8).reshape(12, 13, 3)
    batch = torch.as_tensor(picture).permute(2, 0, 1)[None]
    for kind, value in (("numpy's ndarray", picture), ("PIL's Image", Image.fromarray(picture))):
        with pytest.raises(TypeError) as error:
            entry(batch, value)
        got, _, remedy = str(error.value).partition("; use ")
        assert got == f"img2: expected a torch.Tensor, got {kind}"
        assert remedy == "torch.as_tensor(numpy.array(img2)), for [H, W, C] .permute(2, 0, 1)[None]"
        assert torch.equal(torch.as_tensor(numpy.array(value)).permute(2, 0, 1)[None], batch)
    for value in ("a.png", Path("a.png")):
        with pytest.raises(TypeError, match="read the file first, or run `fused-ssim compare`"):
            entry(value, batch)
    with pytest.raises(TypeError, match=r"got list; use torch.as_tensor\(\)"):
        entry([[1.0]], batch)


@pytest.mark.parametrize("name", ["component", "negative", "odd_sizes"])
@pytest.mark.parametrize("value", ["structure", "", None, 2], ids=repr)
def test_other_names(device, name, value):
    x = image(device)
    function, module = (ssim, SSIM) if name == "component" else (ms_ssim, MS_SSIM)
    raises(ValueError, lambda: function(x, x, **{name: value}), name, repr(value))
    raises(ValueError, lambda: module(**{name: value}), name, repr(value))


BAD_WEIGHTS = [
    (),
    (0.5, -0.1),
    (math.nan,),
    (math.inf, 1.0),
    "0.5",
    0.5,
    None.__class__,
    {0.5, 0.4},
    {0.5: 1},
    ["a"],
    [True],
]


@pytest.mark.parametrize("weights", BAD_WEIGHTS, ids=str)
def test_weights_of_scales(device, weights):
    x = image(device)
    for call in (lambda: ms_ssim(x, x, weights=weights), lambda: MS_SSIM(weights=weights)):
        raises((TypeError, ValueError), call, "weights", "scales")


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


# Channels behind the sides: the shape, and what the message says of it.
CHANNELS_LAST = {
    (1, 40, 40, 3): "got [1, 40, 40, 3]; for [B, H, W, C] use .permute(0, 3, 1, 2), else",
    (40, 40, 3): "got [40, 40, 3]; for [H, W, C] use .permute(2, 0, 1), else",
    (2, 12, 13, 14, 1): "[B, D, H, W, C] use .permute(0, 4, 1, 2, 3), else",
    (1, 3, 40, 4): "got [1, 3, 40, 4]; use padding",
    (1, 40, 40, 5): "got [1, 40, 40, 5]; use padding",
    (3, 8, 40): "got [3, 8, 40]; use padding",
}


@pytest.mark.parametrize(("shape", "says"), CHANNELS_LAST.items(), ids=str)
def test_channels_last(device, shape, says):
    bad = torch.rand(shape, device=device)
    dims = max(len(shape) - 2, 2)
    call = functools.partial(ssim, bad, bad, spatial_dims=dims, window_size=11)
    raises(ValueError, lambda: call(padding="valid"), says)
    if min(shape[-dims:]) <= 5:
        raises(ValueError, lambda: call(padding="reflect"), says)


@each_with_definition
@pytest.mark.parametrize("size", [17, 33])
def test_smaller_than_a_chosen_window(device, entry, size):
    bad = image(device)
    raises(ValueError, lambda: entry(bad, bad, window_size=size, padding="valid"), str(size), "16")
    if size == 33:
        words = "reflect", "17", "16"
        raises(ValueError, lambda: entry(bad, bad, window_size=33, padding="reflect"), *words)
    entry(bad, bad, window_size=size)
    entry(bad, bad, window_size=size, padding="replicate")
    entry(bad, bad, window_size=15, padding="valid")


@each_with_padding
@pytest.mark.parametrize("padding", ["full", "SAME", "", None, 0, 5, b"same"], ids=str)
def test_unknown_padding(device, entry, padding):
    x = image(device)
    error = raises(ValueError, lambda: entry(x, x, padding), "same", "valid", str(padding))
    # The original package asserts, and people catch that.
    assert isinstance(error, AssertionError)


@each_with_any_padding
@pytest.mark.parametrize("padding", ["full", "SAME", "", None, 0, 5, b"same"], ids=str)
def test_unknown_padding_beside_those_that_extend(device, entry, padding):
    x = image(device)
    words = [f'"{name}"' for name in ("same", "valid", "reflect", "replicate")]
    error = raises(ValueError, lambda: entry(x, x, padding), *words, str(padding))
    assert isinstance(error, AssertionError)


@pytest.mark.parametrize("padding", ["reflect", "replicate"])
def test_padding_of_ssim_alone(device, padding):
    x = image(device)
    for call in (
        lambda: fused_ssim(x, x, padding),
        lambda: fused_ssim3d(x[None], x[None], padding),
        lambda: FusedSSIMMap.apply(1e-4, 9e-4, x, x, padding),
        lambda: l1_ssim_loss(x, x, padding=padding),
        lambda: L1SSIMLoss(padding=padding),
    ):
        error = raises(ValueError, call, "same", "valid", padding, "ms_ssim")
        assert isinstance(error, AssertionError)


@pytest.mark.parametrize("reduction", ["average", "", "MEAN", None, "batch", 1], ids=str)
def test_unknown_reduction(device, reduction):
    x = image(device)
    names = ("mean", "sum", "none", "image", "channel")
    raises(ValueError, lambda: ssim(x, x, reduction=reduction), str(reduction), *names)
    raises(ValueError, lambda: SSIM(reduction=reduction)(x, x), str(reduction), *names)
    names = ("mean", "sum", "image", "channel")
    for unknown in (reduction, "none"):
        raises(ValueError, lambda u=unknown: ms_ssim(x, x, reduction=u), str(unknown), *names)
        raises(ValueError, lambda u=unknown: MS_SSIM(reduction=u), str(unknown), *names)


@each_with_definition
@pytest.mark.parametrize("size", [-11, -1, 0, 2, 4, 10, 32, 34, 1024, 1025, 2**40 + 1])
def test_window_size(device, entry, size):
    x = image(device)
    raises(ValueError, lambda: entry(x, x, window_size=size), "window_size", str(size), "odd")


@each_with_definition
@pytest.mark.parametrize("size", [11.0, "11", None, 7.5, (11, 11), True], ids=str)
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
@pytest.mark.parametrize("name", ["data_range", "k1", "k2"])
@pytest.mark.parametrize("value", [1e-200, 1e200])
def test_squares_are_numbers(device, entry, name, value):
    x = image(device)
    raises(ValueError, lambda: entry(x, x, **{name: value}), name, str(value), "square between")


@pytest.mark.parametrize("value", [1e-200, 1e30])
def test_squares_of_the_ranges_of_images_are_numbers(device, value):
    x = image(device)
    ranges = torch.tensor([value], dtype=torch.float64)
    raises(ValueError, lambda: ssim(x, x, data_range=ranges), "data_range", "square between")


def test_numbers_are_constants(device):
    x = image(device)
    half = torch.tensor([0.5, 0.5], requires_grad=True)
    for call in (
        lambda: ms_ssim(x, x, weights=half, window_size=3),
        lambda: ssim(x, x, data_range=half[0]),
        lambda: l1_ssim_loss(x, x, half[0]),
    ):
        raises(ValueError, call, "constant", ".detach()")


@each_with_definition
@pytest.mark.parametrize("name", ["sigma", "data_range", "k1", "k2"])
@pytest.mark.parametrize("value", ["1.5", None, [1.5], 1 + 2j, True], ids=str)
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
    for call in (
        lambda: l1_ssim_loss(x, x, weight),
        lambda: fused_l1_ssim_loss(x, x, weight),
        lambda: L1SSIMLoss(weight)(x, x),
    ):
        raises(ValueError, call, "ssim_weight", str(weight), "0", "1")


@pytest.mark.parametrize("weight", ["0.2", None, [0.2], True], ids=str)
def test_ssim_weight_is_a_number(device, weight):
    x = image(device)
    for call in (
        lambda: l1_ssim_loss(x, x, weight),
        lambda: fused_l1_ssim_loss(x, x, weight),
        lambda: L1SSIMLoss(weight)(x, x),
    ):
        raises((TypeError, ValueError), call, "ssim_weight")


@each_entry
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_sparse(device, entry):
    x = image(device)
    for bad in (x.to_sparse(), x[0, 0].to_sparse_csr()):
        raises(TypeError, lambda b=bad: entry(b, b), "dense")
        raises(TypeError, lambda b=bad: entry(x, b), "dense")


@each_entry
@pytest.mark.filterwarnings("ignore")  # torch means to retire quantised tensors
def test_quantised(entry):
    x = image("cpu")
    bad = torch.quantize_per_tensor(x, 0.01, 0, torch.quint8)
    raises(TypeError, lambda: entry(bad, bad))
    raises(TypeError, lambda: entry(x, bad))


@each_entry
@pytest.mark.filterwarnings("ignore")  # torch calls nested tensors a prototype
def test_nested(device, entry):
    bad = torch.nested.nested_tensor([torch.rand(3, 16, 16), torch.rand(3, 12, 16)], device=device)
    raises((TypeError, ValueError), lambda: entry(bad, bad))


@each_entry
def test_different_devices(device, entry):
    x = image(device)
    other = torch.empty(1, 3, 16, 16, device="meta")
    raises(ValueError, lambda: entry(x, other), "meta", "device")
    raises(ValueError, lambda: entry(other, x), "meta", "device")


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
        entry(x[0, 0], x[0, 0])
    entry(x, x)


@each_entry
def test_errors_of_bad_and_good_gradients(device, entry):
    # A bad argument is found in the forward call, not deep in a backward pass.
    x = image(device).requires_grad_()
    raises(ValueError, lambda: entry(x, x[..., :-1]), "1, 3, 16, 16", "1, 3, 16, 15")


@each_entry
def test_meta_tensors_give_shapes(entry):
    x, y = image("cpu", 2, 3, 16, 17), image("cpu", 2, 3, 16, 17)
    a, b = (torch.empty_like(x, device="meta", requires_grad=True) for _ in range(2))
    expected, found = entry(x, y), entry(a, b)
    pairs = [(expected, found)] if torch.is_tensor(expected) else zip(expected, found, strict=True)
    for real, meta in pairs:
        assert meta.is_meta
        assert (meta.shape, meta.dtype) == (real.shape, real.dtype)


def test_lack_of_memory_is_torch_s_own_error(device):
    # Trainers catch the type, and people search for the words.
    one = torch.rand(1, 1, 1, 1, device=device)
    big = one.expand(1000, 1000, 1000, 1200)
    volume = big[:, :, None]
    with pytest.raises(RuntimeError) as torchs:
        torch.empty_like(big)
    words = str(torchs.value).split(". ")[0]  # what follows on a GPU counts its free bytes
    for call in (
        lambda: fused_ssim(big.requires_grad_(), big.detach()),
        lambda: l1_ssim_loss(big, big.detach().requires_grad_()),
        lambda: ssim(big, big, reduction="none"),
        lambda: fused_ssim3d(volume.detach().requires_grad_(), volume),
        lambda: torch.func.vmap(lambda a: ssim(a[None], a[None], reduction="none"))(big),
    ):
        with pytest.raises(type(torchs.value)) as ours:
            call()
        assert str(ours.value).startswith(words)
    assert type(torchs.value).__name__ == ("OutOfMemoryError" if one.is_cuda else "RuntimeError")
    assert fused_ssim(one, one) == 1
