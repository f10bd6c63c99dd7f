"""Arguments: numbers in every guise, windows given as taps, ranges as tensors, and the names."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import re
from fractions import Fraction

import numpy
import pytest
import torch

import oracle
from fused_ssim import (
    MS_SSIM,
    SSIM,
    FusedSSIMMap,
    L1SSIMLoss,
    _forms,
    _parameters,
    _route,
    _validation,
    _windows,
    functional,
    l1_ssim_loss,
    ms_ssim,
    ssim,
)
from images import noise_pair
from installation import ROOT
from measure import leaf, max_error

TAPS = [0.1, 0.25, 0.4, 0.15, 0.1]


def images(device, *shape):
    return tuple(image.to(device) for image in noise_pair(*(shape or (2, 3, 20, 21))))


def enumerated(prefix):
    """The names of an enumeration of kernels.h, in its order."""
    header = (ROOT / "include" / "fused_ssim" / "kernels.h").read_text()
    found = re.findall(rf"^  FUSED_SSIM_{prefix} = (\d+)", header, re.MULTILINE)
    names = re.findall(rf"^  FUSED_SSIM_({prefix}) = \d+", header, re.MULTILINE)
    assert list(map(int, found)) == list(range(len(found)))
    return tuple(name.lower() for name in names)


def test_names_are_those_of_the_kernels():
    assert enumerated("(?:MEAN|SUM|IMAGE|CHANNEL)") == _parameters.REDUCTIONS
    assert enumerated("(?:SAME|VALID)") == _parameters.PADDINGS
    statistics = tuple(name.removeprefix("statistic_") for name in enumerated(r"STATISTIC_\w+"))
    assert statistics == _parameters.STATISTICS
    modes = tuple(name.removeprefix("mask_") for name in enumerated(r"MASK_\w+"))
    assert modes == _parameters.MASK_MODES
    negatives = tuple(name.removeprefix("negative_") for name in enumerated(r"NEGATIVE_\w+"))
    assert negatives == _parameters.NEGATIVES
    odd_sizes = tuple(name.removeprefix("odd_") for name in enumerated(r"ODD_\w+"))
    assert odd_sizes == _parameters.ODD_SIZES


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("src/cuda/separable.h", "kSeparableEverywhere", _route._MAX_CUDA_TAPS),
        ("src/cuda/ssim_cuda.h", "kMaxScales", _route._MAX_CUDA_SCALES),
        ("include/fused_ssim/torch/checks.h", "kMaxWindowSize", _validation.MAX_WINDOW_SIZE),
    ],
)
def test_limits_are_those_of_the_kernels(file, name, value):
    (found,) = re.findall(rf"constexpr int\w* {name} = (\d+);", (ROOT / file).read_text())
    assert int(found) == value


# ---- numbers ------------------------------------------------------------------------------------

NUMBERS = [2, 2.0, numpy.float32(2), numpy.float64(2), numpy.int64(2), Fraction(2)]


@pytest.mark.parametrize("two", NUMBERS, ids=repr)
def test_numbers_that_behave_as_such(device, two):
    x, y = images(device)
    expected = ssim(x, y, data_range=2.0, sigma=2.0, k1=2.0, k2=2.0)
    assert torch.equal(ssim(x, y, data_range=two, sigma=two, k1=two, k2=two), expected)
    module = SSIM(data_range=two, sigma=two, k1=two, k2=two)
    assert torch.equal(module(x, y), expected)
    values = FusedSSIMMap.apply(two, two, x, y)
    assert torch.equal(values, FusedSSIMMap.apply(2.0, 2.0, x, y))
    expected = ms_ssim(x, y, weights=(2.0, 2.0), window_size=3)
    assert torch.equal(ms_ssim(x, y, weights=[two, two], window_size=3), expected)


@pytest.mark.parametrize("five", [5, numpy.int32(5), numpy.uint8(5)], ids=repr)
def test_integers_that_behave_as_such(device, five):
    x, y = images(device)
    assert torch.equal(ssim(x, y, window_size=five), ssim(x, y, window_size=5))


@pytest.mark.parametrize("half", [0.5, numpy.float16(0.5), Fraction(1, 2), torch.tensor(0.5)])
def test_weights_that_behave_as_such(device, half):
    x, y = images(device)
    expected = l1_ssim_loss(x, y, 0.5)
    assert torch.equal(l1_ssim_loss(x, y, half), expected)
    assert torch.equal(L1SSIMLoss(half)(x, y), expected)
    expected = ms_ssim(x, y, weights=(0.5, 0.5), window_size=3)
    for weights in ([half, half], numpy.array([0.5, 0.5]), torch.tensor([0.5, 0.5])):
        assert torch.equal(ms_ssim(x, y, weights=weights, window_size=3), expected)


# ---- windows ------------------------------------------------------------------------------------


def test_computed_taps():
    for size, sigma in itertools.product((1, 3, 11, 33, 101), (0.3, 1.5, 10.0)):
        taps = _windows.gaussian(size, sigma)
        expected = oracle.gaussian_taps(size, sigma)
        assert taps == taps[::-1]
        assert len(taps) == size
        assert abs(math.fsum(taps) - 1) <= 4e-16
        assert all(abs(a - b) <= 4e-16 * max(b, 1e-3) for a, b in zip(taps, expected, strict=True))
        rounded = _windows.rounded_to_float32(taps)
        assert all(float(numpy.float32(tap)) == tap for tap in rounded if tap > 1e-37)
        assert abs(math.fsum(rounded) - 1) <= 1e-10
        assert all(abs(a - b) <= 2e-7 * b + 3e-8 for a, b in zip(rounded, taps, strict=True))
    assert _windows.uniform(5) == (0.2,) * 5


GIVEN = {
    "list": list(TAPS),
    "tuple": tuple(TAPS),
    "array": numpy.array(TAPS),
    "tensor": torch.tensor(TAPS, dtype=torch.float64),
    "a list for each axis": [TAPS, TAPS],
    "a tensor for each axis": [torch.tensor(TAPS, dtype=torch.float64)] * 2,
    "arrays": (numpy.array(TAPS), TAPS),
    "numbers of all kinds": [Fraction(1, 10), numpy.float64(0.25), 0.4, 0.15, 0.1],
    "a little more than one": [tap * (1 + 5e-7) for tap in TAPS],
}


@pytest.mark.parametrize("window", GIVEN.values(), ids=GIVEN.keys())
def test_given_taps(device, way, window):
    x, y = images(device)
    # What comes with a name is ignored.
    found = ssim(x, y, window=window, window_size="", sigma=-1)
    assert max_error(found, oracle.ssim(x, y, window=TAPS)) <= 1e-6
    module = SSIM(window=window)
    for twin in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x, y), found)
    assert module.state_dict() == {}


def test_taps_are_a_correlation(device, way):
    x, y = images(device, 1, 1, 12, 12)
    form = {"window": [0.7, 0.2, 0.1], "reduction": "none"}
    flipped = ssim(x.flip(2, 3), y.flip(2, 3), window=[0.1, 0.2, 0.7], reduction="none")
    assert max_error(ssim(x, y, **form), flipped.flip(2, 3)) <= 2e-6
    assert max_error(ssim(x, y, **form), flipped) > 1e-2


def test_given_taps_of_a_named_window(device, way):
    x, y = images(device)
    assert torch.equal(ssim(x, y, window=_windows.gaussian(11, 1.5)), ssim(x, y))
    uniform = ssim(x, y, window="uniform", window_size=7)
    assert torch.equal(ssim(x, y, window=[1 / 7] * 7), uniform)
    assert torch.equal(ssim(x, y, window="uniform", window_size=7, sigma=-3), uniform)


def test_windows_of_the_standard_are_one_tuple():
    standard = _forms.form().definition
    assert standard.taps == _windows.gaussian(11, 1.5)
    assert standard.window_sizes == (1, 11, 11)
    for dims, sizes in {1: (1, 1, 11), 2: (1, 11, 11), 3: (11, 11, 11)}.items():
        definition = _forms.form(spatial_dims=dims).definition
        assert definition.window_sizes == sizes
        assert _parameters.axis_taps(definition)[-dims:] == (standard.taps,) * dims
    apart = _forms.form(window=[[1.0], [0.5, 0.25, 0.25], TAPS], spatial_dims=3).definition
    assert apart.window_sizes == (1, 3, 5)
    assert _parameters.axis_taps(apart) == ((1.0,), (0.5, 0.25, 0.25), tuple(TAPS))


# Each window, and what the message names.
BAD_WINDOWS = {
    "name": ("hamming", ValueError, ["gaussian", "uniform", "hamming"]),
    "empty": ([], ValueError, ["at least one tap"]),
    "even": ([0.5, 0.5], ValueError, ["odd", "2"]),
    "negative": ([-0.5, 1.0, 0.5], ValueError, ["negative", "-0.5"]),
    "nan": ([math.nan, 0.5, 0.5], ValueError, ["finite", "nan"]),
    "infinite": ([0.5, math.inf, 0.5], ValueError, ["finite", "inf"]),
    "sum": ([0.3, 0.3, 0.3], ValueError, ["sum", "0.89", "divide"]),
    "slightly off": ([0.25, 0.5, 0.250002], ValueError, ["sum to 1"]),
    "zeros": ([0.0, 0.0, 0.0], ValueError, ["sum", "zeros alone"]),
    "an empty axis": ([[], [1.0]], ValueError, ["at least one tap"]),
    "sparse": (torch.tensor(TAPS).to_sparse(), TypeError, ["dense"]),
    "2D tensor": (torch.full((3, 3), 1 / 9), ValueError, ["1D", "[3, 3]", "separable"]),
    "2D array": (numpy.full((3, 3), 1 / 3), ValueError, ["1D", "separable"]),
    "0D tensor": (torch.tensor(1.0), ValueError, ["1D"]),
    "2D tensors": ([torch.full((3, 3), 1 / 9)] * 2, ValueError, ["1D", "[3, 3]"]),
    "one window too many": ([TAPS, TAPS, TAPS], ValueError, ["2 spatial axes", "3 windows"]),
    "one window too few": ([TAPS], ValueError, ["2 spatial axes", "1 windows"]),
    "mixture": ([0.5, [0.5]], TypeError, ["mixture"]),
    "bools": ([False, True, False], TypeError, ["number", "bool"]),
    "strings": (["0.5", "0.5"], TypeError, ["taps"]),
    "none": (None, TypeError, ["taps", "None"]),
    "number": (11, TypeError, ["taps", "11"]),
    "function": (len, TypeError, ["taps"]),
    "gradient": (torch.tensor(TAPS, requires_grad=True), ValueError, ["gradient", "detach"]),
    "device": (torch.empty(5, device="meta"), ValueError, ["CPU", "meta"]),
}


@pytest.mark.parametrize(("window", "error", "words"), BAD_WINDOWS.values(), ids=BAD_WINDOWS.keys())
def test_bad_windows(device, window, error, words):
    x, y = images(device)
    for call in (
        lambda: ssim(x, y, window=window),
        lambda: ms_ssim(x, y, window=window),
        lambda: SSIM(window=window)(x, y),
        lambda: MS_SSIM(window=window)(x, y),
        lambda: functional.ssim_and_mse(x, y, window=window),
    ):
        with pytest.raises(error) as caught:
            call()
        for word in words:
            assert word in str(caught.value)


def test_one_tap_has_no_sample_variance(device, way):
    x, y = images(device)
    for window in ([1.0], [[1.0], [1.0]]):
        with pytest.raises(ValueError, match="more than one tap"):
            ssim(x, y, window=window, unbiased=True)
        # Without variances the contrast is that of a flat image.
        assert ssim(x, y, window=window, component="contrast") == 1
    assert ssim(x, y, window=[[1.0], TAPS], unbiased=True).isfinite()


# ---- ranges -------------------------------------------------------------------------------------


def test_range_of_each_image(device, way):
    x, y = images(device, 3, 2, 14, 15)
    ranges = torch.tensor([1.0, 0.5, 4.0], device=device)
    found = ssim(x, y, data_range=ranges, reduction="image")
    expected = [ssim(x[i : i + 1], y[i : i + 1], data_range=ranges[i].item()) for i in range(3)]
    assert max_error(found, torch.stack(expected)) <= 1e-6
    for same in (torch.tensor([0.5], device=device), torch.tensor(0.5), torch.tensor([0.5])):
        assert max_error(ssim(x, y, data_range=same), ssim(x, y, data_range=0.5)) <= 1e-6
    integers = torch.tensor([1, 2, 3], dtype=torch.int16, device=device)
    found = ssim(x, y, data_range=integers, reduction="image", unbiased=True)
    expected = oracle.ssim(
        x, y, data_range=torch.tensor([1.0, 2.0, 3.0]), reduction="image", unbiased=True
    )
    assert max_error(found, expected) <= 1e-6


BAD_RANGES = {
    "batch": (torch.tensor([1.0, 2.0, 3.0]), ValueError, ["2 numbers", "[3]"]),
    "rank": (torch.ones(2, 1), ValueError, ["[B]", "[2, 1]"]),
    "negative": (torch.tensor([1.0, -2.0]), ValueError, ["positive", "-2"]),
    "nan": (torch.tensor([1.0, math.nan]), ValueError, ["positive", "nan"]),
    "zero": (torch.tensor(0.0), ValueError, ["positive"]),
    "bools": (torch.tensor([True, True]), TypeError, ["real", "bool"]),
    "complex": (torch.ones(2, dtype=torch.complex64), TypeError, ["real", "complex"]),
    "gradient": (torch.ones(2, requires_grad=True), ValueError, ["gradient", "detach"]),
    "list": ([1.0, 1.0], TypeError, ["number", "list"]),
}


@pytest.mark.parametrize(("bad", "error", "words"), BAD_RANGES.values(), ids=BAD_RANGES.keys())
def test_bad_ranges(device, bad, error, words):
    x, y = images(device)
    for call in (
        lambda: ssim(x, y, data_range=bad),
        lambda: ms_ssim(x, y, data_range=bad, window_size=1),
        lambda: functional.ssim_and_mse(x, y, data_range=bad),
    ):
        with pytest.raises(error) as caught:
            call()
        for word in words:
            assert word in str(caught.value)


def test_modules_keep_numbers_alone():
    with pytest.raises(TypeError, match="a number, which a module can keep"):
        SSIM(data_range=torch.ones(2))
    module = SSIM(data_range=torch.tensor(2.0), window=torch.tensor([0.25, 0.5, 0.25]))
    assert type(module.data_range) is float
    assert module.window == (0.25, 0.5, 0.25)
    assert "window=(0.25, 0.5, 0.25)" in repr(module)


@pytest.mark.parametrize("bad", [0.5, 2, 254.0, 256, torch.tensor([1.0, 255.0])], ids=str)
def test_range_beside_bytes(device, bad):
    x, y = images(device)
    b = (255 * y).byte()
    for first, second in ((b, b), (x, b), (b, x)):
        for function in (ssim, ms_ssim, functional.ssim_and_mse):
            with pytest.raises(ValueError, match=r"data_range: expected the number 1 .* or 255"):
                function(first, second, data_range=bad, window_size=1)


def test_gradient_of_the_arguments_is_no_argument(device, way):
    # Modules of numbers compare, copy and pickle as numbers do.
    module = MS_SSIM(weights=numpy.array([0.5, 0.5]), window_size=3)
    assert module.weights == (0.5, 0.5)
    x, y = (leaf(image.clone()) for image in images(device))
    assert torch.equal(pickle.loads(pickle.dumps(module))(x, y), module(x, y))
    assert repr(module).startswith("MS_SSIM(data_range=1.0, window='gaussian', window_size=3")
