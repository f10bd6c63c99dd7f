"""The drop-in for scikit-image beside the package itself."""

from __future__ import annotations

import inspect
import itertools
import tracemalloc
import warnings

import numpy
import pytest
from skimage.metrics import structural_similarity as peer

from fused_ssim.compat.skimage import structural_similarity as ours
from images import noise_pair, pair
from measure import run_python

VALUE, MAP, GRADIENT = 1e-5, 2e-5, 1e-4
STANDARD = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
# Channels last.
SHAPES = {1: (61,), 2: (24, 31), 3: (12, 13, 11)}


def arrays(dtype, *shape, seed=7):
    generator = numpy.random.default_rng(seed)
    x = generator.random(shape)
    y = numpy.clip(0.7 * x + 0.3 * generator.random(shape), 0, 1)
    if numpy.dtype(dtype).kind in "ui":
        limits = numpy.iinfo(dtype)
        x, y = (limits.min + a * (float(limits.max) - limits.min) for a in (x, y))
    if dtype == "bool":
        x, y = x > 0.4, y > 0.4
    return x.astype(dtype), y.astype(dtype)


def check(x, y, **arguments):
    """All four forms; theirs of the same numbers in float64."""
    exact = [a.astype(numpy.float64) if a.dtype.kind == "f" else a for a in (x, y)]
    for gradient, full in itertools.product((False, True), repeat=2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = ours(x, y, gradient=gradient, full=full, **arguments)
            expected = peer(*exact, gradient=gradient, full=full, **arguments)
            types = peer(x, y, gradient=gradient, full=full, **arguments)
        if not (gradient or full):
            found, expected, types = (found,), (expected,), (types,)
        assert len(found) == len(expected)
        assert [a.dtype for a in found] == [a.dtype for a in types]
        assert abs(found[0] - expected[0]) <= VALUE
        if full:
            assert numpy.abs(found[-1] - expected[-1]).max() <= MAP
        if gradient:
            error = numpy.linalg.norm(found[1] - expected[1]) / numpy.linalg.norm(expected[1])
            assert error <= GRADIENT


def test_signature():
    mine, theirs = (inspect.signature(f).parameters for f in (ours, peer))
    named = [name for name in theirs if name != "kwargs"]
    assert [
        name for name in mine if name not in ("use_sample_covariance", "sigma", "K1", "K2")
    ] == named
    assert all(mine[name].default == theirs[name].default for name in named)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("channel_axis", [None, 0, 1, -1])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"win_size": 3},
        {"use_sample_covariance": False},
        {"gaussian_weights": True},
        STANDARD | {"sigma": 0.8},
        STANDARD | {"K1": 0.02, "K2": 0.05},
        {"gaussian_weights": True, "win_size": 5},
    ],
    ids=lambda arguments: "-".join(arguments) or "defaults",
)
def test_grid(dims, channel_axis, arguments):
    shape = list(SHAPES[dims])
    if channel_axis is not None:
        shape.insert(channel_axis if channel_axis >= 0 else dims, 3)
    check(*arrays("float64", *shape), data_range=1.0, channel_axis=channel_axis, **arguments)


@pytest.mark.parametrize(
    "dtype",
    ["bool", "uint8", "int8", "uint16", "int16", "int32", "int64", "float16", "float32", "float64"],
)
@pytest.mark.parametrize("arguments", [{}, STANDARD], ids=["uniform", "standard"])
def test_types(dtype, arguments):
    ranges = {"data_range": 1.0} if dtype.startswith("float") else {}
    check(*arrays(dtype, 24, 31), **ranges, **arguments)


def test_two_types():
    x, y = arrays("float64", 24, 31)
    check((255 * x).astype("uint8"), 255 * y, data_range=255)
    check(x.astype("float32"), y, data_range=1)


@pytest.mark.parametrize(
    "name", ["photo_noise", "photo_blur", "two_photos", "flat_different", "saturated"]
)
@pytest.mark.parametrize("arguments", [{}, STANDARD], ids=["uniform", "standard"])
def test_pictures(name, arguments):
    x, y = (image[0].permute(1, 2, 0).numpy() for image in pair(name))
    check(x, y, data_range=1.0, channel_axis=-1, **arguments)
    x, y = ((255 * image).round().astype("uint8") for image in (x, y))
    check(x, y, channel_axis=-1, **arguments)


@pytest.mark.parametrize("data_range", [1, 10, 100, 200])
@pytest.mark.parametrize("win_size", [3, 5, 7])
def test_bytes_of_a_small_range(win_size, data_range):
    x = numpy.where(numpy.arange(61) > 30, 255, 0) * numpy.ones((50, 1), int)
    y = numpy.clip(x + numpy.random.default_rng(0).integers(-1, 2, x.shape), 0, 255)
    check(x.astype("uint8"), y.astype("uint8"), win_size=win_size, data_range=data_range)


def test_a_large_offset():
    x, y = arrays("float64", 24, 31)
    x, y = x + 1e6, y + 1e6
    expected = ours(x, y, data_range=1)
    for form in ({"full": True}, {"gradient": True}, {"gradient": True, "full": True}):
        assert abs(ours(x, y, data_range=1, **form)[0] - expected) <= 1e-9


def test_layouts():
    x, y = arrays("float32", 40, 62)
    check(x[::2, ::-2], y.T.copy().T[::2, ::-2], data_range=1)
    swapped = x.astype(x.dtype.newbyteorder())
    assert ours(swapped, y, data_range=1) == ours(x, y, data_range=1)


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_warnings(dtype):
    x, y = arrays(dtype, 20, 21)
    for call in (ours, peer):
        with pytest.warns(UserWarning, match="Setting data_range based on im1.dtype") as record:
            call(x, y)
        assert record[0].filename == __file__ or call is peer
    for call in (ours, peer):
        with pytest.warns(UserWarning, match="mismatched dtypes|Setting data_range") as record:
            call(x, y.astype("uint8"))
        assert len(record) == 2
        assert "mismatched dtypes" in str(record[0].message)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"im2": numpy.zeros((20, 22))}, "dimensions.*scale or crop"),
        ({"data_range": None}, "data_range"),
        ({"win_size": 4}, "odd"),
        ({"win_size": 23}, "win_size exceeds"),
        ({"sigma": -1.0}, "sigma"),
        ({"win_size": 7.0}, r"win_size: expected an int, got 7\.0"),
        ({"channel_axis": 1.0}, "channel_axis: expected an int"),
        ({"K1": "a"}, "K1: expected a number, got 'a'"),
        ({"sigma": None}, "sigma: expected a number, got None"),
        ({"data_range": "1"}, "data_range: expected a number, got '1'"),
        ({"K1": -0.01}, "K1"),
        ({"K2": -0.01}, "K2"),
        ({"win_size": 1}, "use_sample_covariance=False"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_both_refuse(change, says):
    x, y = arrays("float64", 20, 21)
    arguments = {"im1": x, "im2": y, "data_range": 1.0} | change
    with pytest.raises((TypeError, ValueError, ZeroDivisionError)) as theirs:
        peer(arguments.pop("im1"), arguments.pop("im2"), **arguments)
    arguments = {"im1": x, "im2": y, "data_range": 1.0} | change
    with pytest.raises(theirs.type, match=says):
        ours(**arguments)


def test_what_we_refuse():
    x, y = arrays("float64", 20, 21)
    with pytest.raises(ValueError, match="real dtype"):
        ours(x.astype(complex), y, data_range=1)
    with pytest.raises(ValueError, match="one to three axes"):
        ours(numpy.ones((8,) * 4), numpy.ones((8,) * 4), data_range=1)
    with pytest.raises(TypeError, match="win_size: expected an int, got '7'"):
        ours(x, y, data_range=1, win_size="7")
    with pytest.raises(ValueError, match="K1 must be positive"):
        ours(x, y, data_range=1, K1=0)
    for name, images in (("im1", (x.tolist(), y)), ("im2", (x, y.tolist()))):
        with pytest.raises(TypeError, match=f"{name}: expected an array, got list; use numpy"):
            ours(*images, data_range=1)
    with pytest.raises(ValueError, match="square between"):
        ours(x, y, data_range=0.0)
    with pytest.raises(ValueError, match="square between"):
        ours(x, y, data_range=1e200)
    with pytest.raises(ValueError, match="odd and positive"):
        ours(x, y, data_range=1, win_size=-3, use_sample_covariance=False)
    with pytest.raises(TypeError, match="masked"):
        ours(numpy.ma.masked_array(x, x > 0.5), y, data_range=1)
    with pytest.raises(IndexError, match="-1 is the last"):
        ours(x, y, data_range=1, channel_axis=2)


@pytest.mark.parametrize("arguments", [{}, STANDARD], ids=["uniform", "standard"])
def test_means_of_bytes_need_no_copy_to_float(arguments):
    x, y = arrays("uint8", 200, 300, 3)
    tracemalloc.start()  # which NumPy tells of its arrays
    try:
        ours(x, y, channel_axis=-1, **arguments)
        assert tracemalloc.get_traced_memory()[1] < x.size
        ours(x.astype("float32"), y, channel_axis=-1, data_range=255, **arguments)
        assert tracemalloc.get_traced_memory()[1] > 4 * x.size
    finally:
        tracemalloc.stop()


def test_no_torch_is_needed():
    code = """
import sys, numpy
from fused_ssim.compat.skimage import structural_similarity
x = numpy.arange(900, dtype=numpy.uint8).reshape(30, 30)
print(structural_similarity(x, x), "torch" in sys.modules)
"""
    assert run_python(code).split() == ["1.0", "False"]


def test_equal_images_give_one():
    x = noise_pair(1, 3, 40, 41)[0][0].numpy()
    value, values = ours(x, x.copy(), data_range=1, channel_axis=0, full=True)
    assert value == 1
    assert (values == 1).all()
