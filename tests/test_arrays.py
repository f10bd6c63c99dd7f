"""The kernels on NumPy arrays as they lie in memory."""

from __future__ import annotations

import numpy
import pytest
import torch

import oracle
from fused_ssim import _arrays
from fused_ssim._parameters import definition_of
from images import noise_pair
from measure import max_error, run_python

TAPS = (tuple(oracle.gaussian_taps()),) * 2
SAME = definition_of(TAPS, 0.01**2, 0.03**2, valid=False)
VALID = SAME._replace(valid=True)


def pictures(dtype, *shape):
    """Two arrays of that shape, and their planes [B, C, H, W] as float64 tensors."""
    x, y = (image.numpy() for image in noise_pair(*shape))
    if dtype == "uint8":
        return (x * 255).round().astype(dtype), (y * 255).round().astype(dtype)
    return x.astype(dtype), y.astype(dtype)


def planes(image, axes):
    """[B, C, H, W] in float64, numbers in [0, 1]."""
    image = image / 255 if image.dtype == numpy.uint8 else image.astype("float64")
    for axis in "BC":
        if axis not in axes:
            image, axes = image[None], axis + axes
    return torch.from_numpy(numpy.einsum(f"{axes}->BCHW", image).copy())


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("axes", ["HW", "HWC", "CHW", "BHWC", "WCBH"])
def test_layouts_and_dtypes(axes, dtype):
    shape = [{"B": 2, "C": 3, "H": 23, "W": 31}[axis] for axis in axes]
    x, y = pictures(dtype, *shape)
    a, b = planes(x, axes), planes(y, axes)
    value, mse = _arrays.ssim_and_mse(x, y, axes, definition=SAME)
    assert max_error(torch.from_numpy(value), oracle.ssim(a, b, reduction="channel")) <= 1e-6
    assert max_error(torch.from_numpy(mse), oracle.mse(a, b)) <= 1e-6
    values = _arrays.ssim_map(x, y, axes, definition=VALID)
    assert values.dtype == ("float64" if dtype == "float64" else "float32")
    expected = oracle.ssim_map(a, b, padding="valid").numpy()
    missing = tuple(i for i, axis in enumerate("BC") if axis not in axes)
    numpy.testing.assert_allclose(values, expected.squeeze(missing), atol=1e-5, rtol=0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "image"])
def test_reductions(reduction):
    x, y = pictures("float32", 2, 3, 20, 24)
    value, mse = _arrays.ssim_and_mse(x, y, "BCHW", definition=SAME, reduction=reduction)
    a, b = planes(x, "BCHW"), planes(y, "BCHW")
    squares = oracle.reduce_map((a - b).square(), reduction)
    for found, expected in ((value, oracle.ssim(a, b, reduction=reduction)), (mse, squares)):
        numpy.testing.assert_allclose(found, expected.reshape(-1), rtol=1e-6)


def test_views_are_read_where_they_lie():
    x, y = pictures("float32", 30, 40, 4)
    a, b = x[::-2, 3::2, :3], y[::-2, 3::2, :3]
    value, _ = _arrays.ssim_and_mse(a, b, "HWC", definition=SAME)
    expected = oracle.ssim(planes(a, "HWC"), planes(b, "HWC"), reduction="channel")
    assert max_error(torch.from_numpy(value), expected) <= 1e-6
    assert _arrays.image_of(a, "HWC") == (a.ctypes.data, (0, 1, 0, -320, 8), 3)


def test_pixels_that_are_not_aligned():
    records = numpy.zeros((20, 24), [("flag", "u1"), ("pixel", "f4")])
    records["pixel"], y = pictures("float32", 20, 24)
    x = records["pixel"]
    assert not x.flags.aligned
    value, _ = _arrays.ssim_and_mse(x, y, "HW", definition=SAME)
    plain, _ = _arrays.ssim_and_mse(x.copy(), y, "HW", definition=SAME)
    assert value == plain
    with pytest.raises(ValueError, match="expected aligned pixels"):
        _arrays.image_of(x, "HW")


def test_bad_arguments():
    x, y = pictures("float32", 20, 24)
    with pytest.raises(ValueError, match="one letter of BCDHW for each of 2 axes, got 'HWC'"):
        _arrays.ssim_map(x, y, "HWC", definition=SAME)
    with pytest.raises(ValueError, match="got 'HH'"):
        _arrays.image_of(x, "HH")
    with pytest.raises(TypeError, match=r"expected dtype uint8, .*, got int16"):
        _arrays.ssim_map(x.astype("int16"), y, "HW", definition=SAME)
    with pytest.raises(ValueError, match=r"one shape, got \(20, 24\) and \(20, 23\)"):
        _arrays.ssim_and_mse(x, y[:, 1:], "HW", definition=SAME)
    with pytest.raises(ValueError, match="at least the window's 11"):
        _arrays.ssim_map(x[:10], y[:10], "HW", definition=VALID)


def test_no_torch_is_imported():
    printed = run_python(
        "import sys, numpy\n"
        "from fused_ssim import _C, _arrays, _parameters\n"
        "taps = tuple(_C.gaussian_taps(11, 1.5))\n"
        "definition = _parameters.definition_of((taps, taps), 1e-4, 9e-4, valid=False)\n"
        "x = numpy.full((20, 30, 3), 9, 'uint8')\n"
        "value, mse = _arrays.ssim_and_mse(x, x, 'HWC', definition=definition)\n"
        "print(value.tolist(), mse.tolist(), 'torch' in sys.modules)"
    )
    assert printed == "[[1.0, 1.0, 1.0]] [[0.0, 0.0, 0.0]] False\n"
