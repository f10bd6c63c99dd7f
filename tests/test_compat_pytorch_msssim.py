"""The drop-in for pytorch-msssim beside the package itself."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import warnings

import pytest
import pytorch_msssim as peer
import torch

from fused_ssim import _windows
from fused_ssim.compat import pytorch_msssim as ours
from images import BY_NAME, noise_pair, pair
from measure import leaf, max_error, relative_error

VALUE, GRADIENT = 1e-5, 1e-4
# "blown_out" and "flat_different" show the peer's window, whose float32 taps do not sum to one.
NAMES = [
    name
    for name, of in BY_NAME.items()
    if of.kind == "photograph" or name.endswith(("noise", "texture", "ramp", "saturated"))
]


def exact_window(channels, dims=2, size=11, sigma=1.5):
    taps = torch.tensor(_windows.gaussian(size, sigma), dtype=torch.float64)
    return taps.expand(channels, *[1] * dims, size)


def both(name, x, y, **arguments):
    """The value and the gradients, ours of float32 images and theirs in float64."""
    results = []
    for package, dtype in ((ours, torch.float32), (peer, torch.float64)):
        a, b = leaf(x.to(dtype, copy=True)), leaf(y.to(dtype, copy=True))
        value = getattr(package, name)(a, b, **arguments)
        results.append((value.detach(), torch.autograd.grad(value.sum(), (a, b))))
    return results


def check(name, x, y, bound=VALUE, **arguments):
    (value, gradients), (expected, expected_gradients) = both(name, x, y, **arguments)
    assert max_error(value, expected) <= bound
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        assert relative_error(found, wanted) <= GRADIENT


def test_signatures():
    for name in ours.__all__:
        mine, theirs = getattr(ours, name), getattr(peer, name)
        for one, other in [(mine, theirs)] + (
            [(mine.forward, theirs.forward)] if inspect.isclass(mine) else []
        ):
            of_mine, of_theirs = (inspect.signature(f).parameters for f in (one, other))
            assert list(of_mine) == list(of_theirs)
            assert [p.default for p in of_mine.values()] == [p.default for p in of_theirs.values()]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("function", ["ssim", "ms_ssim"])
def test_images(function, name):
    x, y = pair(name)
    theirs = getattr(peer, function)(x.double(), y.double(), data_range=1, size_average=False)
    found = getattr(ours, function)(x, y, data_range=1, size_average=False)
    assert max_error(found, theirs) <= VALUE
    # With taps that sum to one the peer's float64 is exact.
    window = exact_window(x.shape[1])
    theirs = getattr(peer, function)(x.double(), y.double(), data_range=1, win=window)
    assert max_error(getattr(ours, function)(x, y, data_range=1), theirs) <= 1e-6


ARGUMENTS = [
    {},
    {"data_range": 255.0, "size_average": False},
    {"win_size": 7, "win_sigma": 1.0},
    {"win_size": 5, "win_sigma": 3.0, "K": [0.02, 0.05]},
    {"win_size": 3, "win_sigma": 0.6, "K": (0.01, 0.4), "size_average": False},
]


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("function", ["ssim", "ms_ssim"])
@pytest.mark.parametrize("kind", ["photo_blur", "uniform_noise"])
def test_arguments(kind, function, arguments):
    x, y = (255 * image[..., :176, :181] for image in pair(kind))
    check(function, x, y, **arguments)


@pytest.mark.parametrize("nonnegative", [True, False])
def test_nonnegative_ssim(nonnegative):
    x, y = noise_pair(2, 3, 40, 50)
    y = torch.cat([y[:, :1], 1 - x[:, 1:]], 1)  # negative means in two of three channels
    check("ssim", x, y, data_range=1, nonnegative_ssim=nonnegative, size_average=False)


@pytest.mark.parametrize("weights", [[1.0], [0.3, 0.7], [0.2] * 5, [0.1] * 6])
def test_weights(weights):
    x, y = noise_pair(1, 2, 330, 350)
    check("ms_ssim", x, y, data_range=1, weights=weights)


def window_of_a_user(seed, channels, dims=2, size=7):
    rows = torch.rand(channels, size, generator=torch.Generator().manual_seed(seed))
    return (rows / rows.sum(1, keepdim=True)).reshape(channels, *[1] * dims, size)


@pytest.mark.parametrize("function", ["ssim", "ms_ssim"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_windows_of_the_users_own(function, per_channel):
    x, y = noise_pair(2, 3, 100, 107)
    window = window_of_a_user(0, 3 if per_channel else 1).expand(3, -1, -1, -1)
    check(function, x, y, data_range=1, win=window)


def test_a_window_is_read_again_once_it_changed():
    x, y = noise_pair(1, 3, 30, 30)
    window = window_of_a_user(1, 3)
    kept = len(ours._rows_read)
    first = ours.ssim(x, y, 1, win=window)
    assert ours.ssim(x, y, 1, win=window) == first
    window.copy_(exact_window(3, size=7))
    assert max_error(ours.ssim(x, y, 1, win=window), peer.ssim(x, y, 1, win=window)) <= VALUE
    with torch.inference_mode():
        assert ours.ssim(x, y, 1, win=window_of_a_user(1, 3)) == first
    del window
    gc.collect()
    assert len(ours._rows_read) == kept


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((1, 2, 8, 30), {}),
        ((2, 1, 30, 8), {"size_average": False}),
        ((1, 2, 5, 6), {}),
        ((1, 1, 6, 9), {"win_size": 7}),
        ((1, 2, 7, 20, 18), {}),
        ((1, 2, 7, 20, 18), {"win": window_of_a_user(2, 2, 3, 9)}),
    ],
)
def test_axes_that_are_too_short(shape, arguments):
    x, y = noise_pair(*shape)
    with pytest.warns(UserWarning, match="Skipping Gaussian Smoothing") as record:
        check("ssim", x, y, data_range=1, **arguments)
    of_ours = [w for w in record if "axis" in str(w.message)]
    size = len(arguments["win"].flatten()) // 2 if "win" in arguments else 11
    size = arguments.get("win_size", size)
    assert len(of_ours) == sum(side < size for side in shape[2:])
    assert {w.filename for w in of_ours} == {__file__}


@pytest.mark.parametrize("depth", [9, 34])
def test_volumes_of_any_depth(depth):
    x, y = noise_pair(1, 1, depth, 50, 49)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Skipping Gaussian Smoothing")
        check("ms_ssim", x, y, data_range=1, win_size=3, win_sigma=0.8)


def test_more_than_five_scales_skip_as_well():
    x, y = noise_pair(1, 2, 161, 170)
    with pytest.warns(UserWarning, match="Skipping"):
        check("ms_ssim", x, y, data_range=1, weights=[0.1, 0.2, 0.3, 0.1, 0.1, 0.2])


@pytest.mark.parametrize("shape", [(2, 3, 1, 24, 25), (2, 3, 24, 1, 25), (1, 1, 24, 25, 1, 1)])
def test_axes_of_one_pixel_are_dropped(shape):
    x, y = noise_pair(*shape)
    check("ssim", x, y, data_range=1)


@pytest.mark.parametrize("name", ["SSIM", "MS_SSIM"])
@pytest.mark.parametrize("dims", [2, 3])
def test_modules(name, dims):
    options = {"data_range": 1.0, "win_size": 3, "win_sigma": 0.7, "size_average": False}
    options |= {"channel": 2, "spatial_dims": dims, "K": (0.02, 0.03)}
    mine, theirs = (getattr(package, name)(**options) for package in (ours, peer))
    x, y = noise_pair(2, 2, *[34, 40, 37][:dims])
    expected = theirs(x.double(), y.double())
    for module in (mine, copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
        assert max_error(module(x, y), expected) <= VALUE
    assert mine.state_dict() == theirs.state_dict() == {}
    assert max_error(mine.win, theirs.win) <= 1e-7
    public = {key for key in vars(theirs) if not key.startswith("_")} - {"win"}
    assert {key: getattr(mine, key) for key in public} == {
        key: getattr(theirs, key) for key in public
    }
    mine.size_average = theirs.size_average = True
    assert max_error(mine(x, y), theirs(x.double(), y.double())) <= VALUE
    if name == "SSIM":
        mine.nonnegative_ssim = theirs.nonnegative_ssim = True
        assert max_error(mine(x, 1 - x), theirs(x, 1 - x)) <= VALUE


def test_a_module_keeps_its_window_until_it_is_given_another():
    x, y = noise_pair(1, 3, 40, 41)
    mine, theirs = ours.SSIM(data_range=1.0), peer.SSIM(data_range=1.0)
    mine.win_size = theirs.win_size = 5
    assert max_error(mine(x, y), theirs(x.double(), y.double())) <= VALUE
    window = window_of_a_user(7, 3)
    mine.win = theirs.win = window
    assert mine.win is window
    assert max_error(mine(x, y), theirs(x.double(), y.double())) <= VALUE


REFUSED = [
    ("ssim", ((1, 3, 20, 20), (1, 3, 20, 20)), {"K": (0.01, 0.03, 0.05)}),
    ("ms_ssim", ((1, 3, 200, 200), (1, 3, 200, 200)), {"K": (0.01,)}),
    ("ssim", ((1, 3, 20, 20), (1, 3, 20, 21)), {}),
    ("ssim", ((3, 20, 20), (3, 20, 20)), {}),
    ("ssim", ((1, 1, 1, 20), (1, 1, 1, 20)), {}),
    ("ssim", ((1, 3, 20, 20), (1, 3, 20, 20)), {"win_size": 8}),
    ("ssim", ((1, 3, 20, 20), (1, 3, 20, 20)), {"win": torch.full((3, 1, 1, 4), 0.25)}),
    ("ssim", ((1, 1, 20, 20), (1, 1, 20, 20)), {"win": window_of_a_user(0, 3)}),
    ("ssim", ((1, 3, 20, 20), (1, 3, 20, 20)), {"win": torch.full((3, 1, 3, 3), 1 / 9)}),
    ("ms_ssim", ((1, 3, 160, 170), (1, 3, 160, 170)), {}),
    ("ms_ssim", ((1, 3, 160, 170), (1, 3, 160, 170)), {"weights": [1.0]}),
    ("ms_ssim", ((1, 3, 161, 170), (1, 3, 170, 161)), {}),
    ("ms_ssim", ((1, 3, 200, 200), (1, 3, 200, 200)), {"win_size": 4}),
    ("ms_ssim", ((3, 200, 200), (3, 200, 200)), {}),
]


@pytest.mark.parametrize(("function", "shapes", "arguments"), REFUSED)
def test_what_the_peer_refuses_is_refused_alike(function, shapes, arguments):
    images = [torch.zeros(shape) for shape in shapes]
    with pytest.raises((ValueError, AssertionError, RuntimeError)) as theirs:
        getattr(peer, function)(*images, **arguments)
    with pytest.raises(theirs.type, match=r"expected .*, got .*(; |\.)"):
        getattr(ours, function)(*images, **arguments)


def test_modules_refuse_other_channels():
    x = torch.zeros(1, 1, 20, 20)
    for package in (peer, ours):
        with pytest.raises(RuntimeError):
            package.SSIM()(x, x)
    with pytest.raises(ValueError, match=r"SSIM: expected channel=1 for.*got channel=3; make.*=1$"):
        ours.SSIM()(x, x)
    with pytest.raises(ValueError, match="got spatial_dims=3; make the module with spatial_dims=2"):
        ours.MS_SSIM(channel=1, spatial_dims=3)(x, x)
    last = torch.zeros(1, 20, 20, 3)
    with pytest.raises(ValueError, match=r"for \[B, H, W, C\] use \.permute\(0, 3, 1, 2\)"):
        ours.SSIM()(last, last)
    with pytest.raises(ValueError, match=r"win: expected the shape \[1, 1, 1, taps\]"):
        ours.ssim(x, x, win=torch.full((3, 1, 1, 11), 1 / 11))
    with pytest.raises(TypeError, match=r"^X and Y: expected one dtype"):
        ours.ssim(x, x.double())
    with pytest.raises(ValueError, match="win_size: expected an odd number"):
        ours.MS_SSIM(win_size=4)
    with pytest.raises(ValueError, match=r"^K: expected a positive, finite number, got -1"):
        ours.ssim(x, x, K=(-1, 0.03))
    with pytest.raises(ValueError, match=r"^win_sigma: expected a positive, finite number"):
        ours.ssim(x, x, win_sigma=0)
    with pytest.raises(TypeError, match=r"X: expected a torch\.Tensor, got numpy's ndarray"):
        ours.ssim(x.numpy(), x)
    with pytest.raises(TypeError, match=r"win: expected a torch\.Tensor, got list"):
        ours.ssim(x, x, win=[1.0])


def test_better_than_the_peer():
    # A contrast of zero: the power's derivative is infinite, times 0.
    x = leaf(torch.rand(1, 1, 170, 170))
    value = ours.ms_ssim(x, 1 - x, data_range=1)
    value.backward()
    assert value == 0
    assert x.grad.abs().max() == 0
    levels = torch.arange(256, dtype=torch.uint8).repeat(1, 3, 24, 1)
    expected = ours.ssim(levels.float(), levels.flip(-1).float())
    assert max_error(ours.ssim(levels, levels.flip(-1)), expected) <= 1e-6
    half = levels.half()
    assert max_error(ours.ssim(half, half.flip(-1)), expected) <= 1e-6
