"""The torch-free entry `_C.run`: NumPy's memory in, no torch in the process."""

from __future__ import annotations

import numpy
import pytest
import torch

import oracle
from fused_ssim import _C, _windows
from images import noise_pair
from installation import run_python
from measure import relative_error
from oracle import gaussian_taps

DTYPES = {"uint8": 0, "float16": 1, "float32": 3, "float64": 4}
STANDARD = [None, gaussian_taps(), gaussian_taps()]
STABILIZERS = {"c1": 0.01**2, "c2": 0.03**2}


def described(array):
    """An array [batch, channels, height, width] as `_C` takes images."""
    strides = [stride // array.itemsize for stride in array.strides]
    return array.ctypes.data, [*strides[:2], 0, *strides[2:]], DTYPES[array.dtype.name]


def sizes(array):
    return [*array.shape[:2], 1, *array.shape[2:]]


def run(x, y, **request):
    _C.run(
        sizes(x),
        described(x),
        described(y),
        **{"windows": STANDARD, **STABILIZERS, **request},
    )


def arrays(*shape):
    return tuple(image.numpy().copy() for image in noise_pair(*shape))


def test_value_map_and_gradients():
    x, y = arrays(2, 3, 21, 34)
    value, by_x, by_y = numpy.zeros((2, 3), "float32"), numpy.zeros_like(x), numpy.zeros_like(y)
    run(
        x,
        y,
        reduction=3,
        value=value.ctypes.data,
        grad1=described(by_x),
        grad2=described(by_y),
    )
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    expected = oracle.ssim(a, b, reduction="channel")
    assert relative_error(torch.from_numpy(value), expected) <= 1e-6
    gradients = oracle.gradients(lambda p, q: oracle.ssim(p, q, reduction="channel"), a, b)
    for found, wanted in zip((by_x, by_y), gradients, strict=True):
        assert relative_error(torch.from_numpy(found), wanted) <= 1e-5
    values = numpy.zeros((2, 3, 11, 24), "float32")
    run(x, y, padding=1, map=values.ctypes.data)
    assert relative_error(torch.from_numpy(values), oracle.ssim_map(a, b, padding="valid")) <= 1e-5


@pytest.mark.parametrize("size", [1, 3, 11, 101])
@pytest.mark.parametrize("sigma", [0.3, 1.5, 40.0])
def test_windows_are_those_of_python(size, sigma):
    assert tuple(_C.gaussian_taps(size, sigma)) == _windows.gaussian(size, sigma)


def test_uint8_and_mse_in_one_pass():
    generator = numpy.random.default_rng(0)
    x = generator.integers(0, 256, (1, 3, 40, 51), "uint8")
    y = (x * 0.9).astype("uint8")[..., ::-1]  # strides may be negative
    value, mse = numpy.zeros(1, "float32"), numpy.zeros(1, "float32")
    run(x, y, value=value.ctypes.data, mse=mse.ctypes.data)
    a, b = (torch.from_numpy(image.copy()).double() / 255 for image in (x, y))
    assert abs(value[0] - oracle.ssim(a, b).item()) <= 1e-6
    assert abs(mse[0] - (a - b).square().mean().item()) <= 1e-6


@pytest.mark.parametrize("mode", [0, 1])
def test_mask(mode):
    x, y = arrays(2, 3, 21, 34)
    mask = (x > 0.4).astype("uint8")
    x[mask == 0] = 1e9 if mode else 0.5
    value, sums, by_y = numpy.zeros(2, "float32"), numpy.zeros(2, "float32"), numpy.zeros_like(y)
    form = {"mask": described(mask), "windows": STANDARD, "padding": 1, "reduction": 2}
    _C.mask_sums(sizes(x), described(x), described(y), sums.ctypes.data, **form)
    assert (sums == mask[:, :, 5:-5, 5:-5].sum((1, 2, 3))).all()
    results = {"value": value.ctypes.data, "grad2": described(by_y)}
    run(x, y, **form, mask_mode=mode, mask_sums=sums.ctypes.data, **results)
    seen = torch.from_numpy(mask).bool()
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    form = {"padding": "valid", "reduction": "image", "mask": seen}
    form["mask_mode"] = ["weighted", "normalized"][mode]
    assert relative_error(torch.from_numpy(value), oracle.ssim(a, b, **form)) <= 1e-6
    _, truth = oracle.gradients(lambda p, q: oracle.ssim(p, q, **form), a, b)
    assert relative_error(torch.from_numpy(by_y), truth) <= 1e-5


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_a_bit(threads):
    x, y = arrays(1, 2, 300, 400)
    values = numpy.zeros((2, 1), "float32")
    for count, value in zip((1, threads), values, strict=True):
        run(x, y, threads=count, value=value.ctypes.data)
    assert values[0] == values[1]


def test_scale():
    gradient = numpy.random.default_rng(1).random((2, 3, 4, 5))
    expected = gradient * numpy.array([2.0, -3.0]).reshape(2, 1, 1, 1) / 7
    upstream = numpy.array([2.0, -3.0])
    image = described(gradient)
    _C.scale(sizes(gradient), image, image, upstream.ctypes.data, reduction=2, factor=1 / 7)
    numpy.testing.assert_allclose(gradient, expected, rtol=1e-15)


def test_axes_may_be_left_out():
    x, y = arrays(2, 3, 21, 34)
    values = numpy.zeros((2, 6), "float32")

    def strided(array):
        address, strides, dtype = described(array)
        return address, [*strides[:2], *strides[3:]], dtype

    run(x, y, reduction=3, value=values[0].ctypes.data)
    form = {"windows": STANDARD, **STABILIZERS, "reduction": 3}
    _C.run(x.shape, strided(x), strided(y), **form, value=values[1].ctypes.data)
    assert (values[0] == values[1]).all()
    for sizes_of in ([2, 3], [1, 1, 2, 3, 21, 34], "abcd", [2, 3, 21, "34"]):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            _C.run(sizes_of, described(x), described(y), **form)


@pytest.mark.parametrize("threads", [1, 3])
def test_scales(threads):
    x, y = arrays(1, 2, 1024, 1030)
    halves = numpy.zeros((2, 1, 2, 512, 515), "float32")
    addresses = [half.ctypes.data for half in halves]
    form = {"spatial_dims": 2, "odd_sizes": 0, "threads": threads}
    images = described(x), described(y)
    _C.halve(sizes(x), images, addresses, **form, uint8_divisor=255, dtype=3)
    for image, half in zip((x, y), halves, strict=True):
        means = image.reshape(1, 2, 512, 2, 515, 2).mean((3, 5))
        numpy.testing.assert_allclose(half, means, rtol=1e-6)
    upstream = numpy.array([2.0, -3.0], "float32")
    derivatives = numpy.array([0.5, 0.25])
    result = numpy.zeros_like(x)
    places = (array.ctypes.data for array in (upstream, derivatives, halves[1]))
    _C.accumulate(sizes(x), described(x), described(result), *places, **form)
    shares = halves[1].repeat(2, -1).repeat(2, -2) / 4
    expected = x * (upstream * derivatives).reshape(1, 2, 1, 1) + shares
    numpy.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    _C.scale(sizes(x), described(x), described(result), upstream[:1].ctypes.data, threads=threads)
    assert (result == 2 * x).all()


def test_factors():
    means = numpy.array([[0.25, 0.5, -0.5], [0.5, 1.0, 0.5]])
    products, derivatives = numpy.zeros(3), numpy.zeros((2, 3))
    places = (array.ctypes.data for array in (means, products, derivatives))
    _C.factors([0.5, 2.0], [1.0, 10.0], 3, *places, dtype=4, negative=0)
    numpy.testing.assert_allclose(products, [0.125, 0.5**0.5, 0.0])
    by_mean = [[0.25, 0.5**0.5, 0.0], [0.05, 0.2 * 0.5**0.5, 0.0]]
    numpy.testing.assert_allclose(derivatives, by_mean)


def test_bad_arguments_are_errors_of_python():
    x, y = arrays(1, 1, 8, 8)
    value = numpy.zeros(1, "float32")
    with pytest.raises(ValueError, match='at least the window\'s 11 with padding "valid"'):
        run(x, y, padding=1, value=value.ctypes.data)
    with pytest.raises(ValueError, match="expected two images, got a null pointer for img2"):
        _C.run(sizes(x), described(x), None, windows=STANDARD, **STABILIZERS)
    with pytest.raises(ValueError, match="sum to 1 along the height, got a sum of 2"):
        run(x, y, windows=[None, [1.0, 0.5, 0.5], None], value=value.ctypes.data)
    with pytest.raises(ValueError, match="odd number of taps along the width, got 2"):
        run(x, y, windows=[None, None, [0.5, 0.5]], value=value.ctypes.data)
    with pytest.raises(ValueError, match="expected a dtype from 0 to 4"):
        _C.run(sizes(x), described(x), (y.ctypes.data, [0] * 5, 9), windows=STANDARD, **STABILIZERS)
    with pytest.raises(ValueError, match="odd number of taps along the window, got 4"):
        _C.gaussian_taps(4, 1.5)
    with pytest.raises(ValueError, match="positive, finite sigma, got 0"):
        _C.gaussian_taps(11, 0.0)
    with pytest.raises(ValueError, match="odd_sizes"):
        _C.halve(sizes(x), [described(x), None], [0, 0], 2, 7, 255, 3)
    with pytest.raises(ValueError, match="a divisor for each exponent"):
        _C.factors([0.5], [], 1, 0, 0, 0, dtype=3, negative=0)
    with pytest.raises(ValueError, match=r"expected mask_sums .* fused_ssim_cpu_mask_sums\(\)"):
        run(x, y, value=value.ctypes.data, mask=described(x))
    with pytest.raises(ValueError, match="got a null pointer for the mask"):
        _C.mask_sums(
            sizes(x), described(x), described(y), value.ctypes.data, mask=None, windows=STANDARD
        )


def test_a_library_that_is_none_of_ours(tmp_path):
    file = tmp_path / "lib.so"
    file.write_text("not a library")
    with pytest.raises(OSError, match="does not load"):
        _C.load_cuda_kernels(str(file))


def test_streams_need_the_cuda_kernels():
    """In a process of its own: others have them, and their kernels would take these addresses."""
    run_python(
        "import numpy\nfrom fused_ssim import _C\n"
        "x = numpy.ones((1, 1, 16, 16), 'float32')\n"
        "image, sizes = (x.ctypes.data, [256, 256, 0, 16, 1], 3), [1, 1, 1, 16, 16]\n"
        "taps = [1 / 7] * 7\n"
        "form = {'windows': [None, taps, taps], 'c1': 1e-4, 'c2': 9e-4, 'value': x.ctypes.data}\n"
        "for call in (lambda: _C.run(sizes, image, image, **form, stream=0),\n"
        "             lambda: _C.scale(sizes, image, image, x.ctypes.data, stream=0)):\n"
        "    try:\n"
        "        call()\n"
        "    except ValueError as error:\n"
        "        assert 'load_cuda_kernels' in str(error), error\n"
        "    else:\n"
        "        raise AssertionError('no error')\n"
    )


def test_no_torch_is_needed():
    done = run_python(
        "import sys, numpy\nfrom fused_ssim import _C\n"
        "x = numpy.ones((1, 1, 16, 16), 'float32'); value = numpy.zeros(1, 'float32')\n"
        "image = (x.ctypes.data, [256, 256, 0, 16, 1], 3)\n"
        "taps = [1 / 7] * 7\n"
        "_C.run([1, 1, 1, 16, 16], image, image, windows=[None, taps, taps], c1=1e-4, c2=9e-4,\n"
        "       value=value.ctypes.data)\n"
        "print(value[0], 'torch' in sys.modules)"
    )
    assert done.stdout == "1.0 False\n"
