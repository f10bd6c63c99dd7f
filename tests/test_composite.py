"""The composite of torch operations: when it serves, what it says, and how exact it is."""

from __future__ import annotations

import types
import warnings

import pytest
import torch

import oracle
from fused_ssim import SSIM, _composite, _forms, _route, l1_ssim_loss, ms_ssim, ssim
from images import BY_NAME, EQUAL_PAIRS, noise, noise_pair, pair
from measure import leaf, max_error, relative_error, run_python

STANDARD = _forms.form().definition


@pytest.fixture
def unforced(monkeypatch):
    """As users have it, whatever the environment says."""
    monkeypatch.setattr(_route, "composite_is_forced", False)
    monkeypatch.setattr(_composite, "_said_so", False)


@pytest.fixture
def composite(monkeypatch):
    monkeypatch.setattr(_route, "composite_is_forced", True)


def image(device="cpu"):
    """What the predicate asks of an image, without a device of that kind."""
    return types.SimpleNamespace(is_cpu=device == "cpu", is_cuda=device == "cuda", is_meta=False)


def served(of_device, **arguments):
    return _route.kernels_serve(of_device, _forms.form(**arguments).definition)


def test_what_kernels_serve_on_the_cpu(unforced):
    x = image()
    assert served(x)
    assert served(x, component="contrast", unbiased=True, padding="reflect")
    assert served(x, window=[[0.2, 0.5, 0.3], [1.0]])
    assert served(x, window_size=201)
    assert served(x, spatial_dims=1)
    assert served(x, spatial_dims=3)
    assert not served(image("xpu"))


def test_what_kernels_serve_on_cuda(unforced, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    x = image("cuda")
    assert served(x)
    for size in (1, 3, 7, 65):
        assert served(x, window="uniform", window_size=size)
    assert served(x, component="luminance", unbiased=True, padding="replicate")
    assert served(x, window=[[0.2, 0.5, 0.3], [1.0]])
    assert not served(x, window_size=67)
    assert served(x, spatial_dims=1)
    assert served(x, spatial_dims=3)
    # torch for ROCm calls its devices the same.
    monkeypatch.setattr(torch.version, "cuda", None)
    assert not served(x)


def test_transforms_have_no_whole_operators(unforced):
    x = image()
    with torch.autograd.forward_ad.dual_level():
        assert not served(x)
    seen = []
    torch.func.vmap(lambda a: (seen.append(served(x)), a)[1])(torch.ones(2))
    torch.func.grad(lambda a: (seen.append(served(x)), a)[1])(torch.tensor(1.0))
    assert seen == [False, False]
    assert served(x)


def test_forced(composite):
    assert not served(image())


def test_forced_by_the_environment():
    code = """
import importlib, os
from fused_ssim import _route
for value in ("1", "0", ""):
    os.environ["FUSED_SSIM_COMPOSITE"] = value
    print(importlib.reload(_route).composite_is_forced)
"""
    assert run_python(code).split() == ["True", "False", "False"]


@pytest.mark.parametrize("call", [ssim, SSIM()], ids=["function", "module"])
def test_says_once_that_it_is_not_fused(unforced, call):
    x, y = noise_pair(1, 1, 12, 13)
    with torch.autograd.forward_ad.dual_level():
        with pytest.warns(UserWarning, match=r"no fused kernel serves forward-mode") as caught:
            call(x, y)
        assert len(caught) == 1
        assert caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call(x, y)
            l1_ssim_loss(x, y)


def test_says_nothing_where_it_is_forced(composite, monkeypatch):
    monkeypatch.setattr(_composite, "_said_so", False)
    x, y = noise_pair(1, 1, 12, 13)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ssim(x, y)


# ---- accuracy: test_accuracy.py runs so as a whole under FUSED_SSIM_COMPOSITE=1 -----------------

PICTURES = ["photo_noise", "photo_blur", "photo_nearly_equal", "bright_low_texture", "two_halves"]
PICTURES += ["saturated", "blown_out", "flat_nearly_equal", "flat_different", "black_and_white"]


@pytest.mark.parametrize("name", [*PICTURES, *sorted(EQUAL_PAIRS)])
def test_accuracy(device, composite, name):
    x, y = (leaf(picture[:, :1, :150, :160].to(device).clone()) for picture in pair(name))
    values = ssim(x, y, reduction="none")
    expected = oracle.ssim_map(x.detach(), y.detach())
    assert max_error(values, expected) <= (1e-4 if BY_NAME[name].kind == "photograph" else 5e-6)
    assert values.max() <= 1
    mean = ssim(x, y)
    assert max_error(mean, expected.mean()) <= 1e-6
    found = torch.autograd.grad(mean, (x, y))
    truth = oracle.gradients(oracle.ssim, x, y)
    for gradient, by in zip(found, truth, strict=True):
        if name in EQUAL_PAIRS:
            assert torch.equal(gradient, torch.zeros_like(gradient))
        else:
            assert relative_error(gradient, by) <= 1e-4


def test_second_derivative(device, composite):
    # A gradient penalty.
    x, y = (leaf(picture.to(device).double()) for picture in noise_pair(1, 2, 14, 15))

    def penalty(value, by):
        (gradient,) = torch.autograd.grad(value, by, create_graph=True)
        return gradient.square().sum()

    found = torch.autograd.grad(penalty(ssim(x, y, reduction="sum"), x), (x, y))
    truth = torch.autograd.grad(penalty(oracle.ssim(x, y, reduction="sum"), x), (x, y))
    for gradient, by in zip(found, truth, strict=True):
        assert relative_error(gradient, by) <= 1e-8


def test_nan_stays_in_its_windows(device, composite):
    x, y = (picture.to(device).clone() for picture in noise_pair(1, 2, 40, 41))
    expected = ssim(x, y, reduction="none")
    x[0, 1, 20, 7] = torch.nan
    y[0, 1, 3, 30] = torch.inf
    found = ssim(x, y, reduction="none")
    reach = torch.zeros(40, 41, dtype=torch.bool, device=device)
    reach[15:26, 2:13] = True
    reach[:9, 25:36] = True
    assert torch.equal(~found[0, 1].isfinite(), reach)
    assert max_error(found[0, 1][~reach], expected[0, 1][~reach]) <= 2e-6
    assert torch.equal(found[0, 0], expected[0, 0])


def test_results_are_the_same_every_time(device, composite):
    x, y = (leaf(picture.to(device)) for picture in noise_pair(2, 3, 60, 61))
    mask = noise(60, 61).to(device)
    first = None
    for _ in range(3):
        value = ssim(x, y, mask=mask, mask_mode="normalized", padding="reflect")
        result = [value, *torch.autograd.grad(value, (x, y))]
        first = first or result
        assert all(torch.equal(a, b) for a, b in zip(first, result, strict=True))


# ---- torch.compile ------------------------------------------------------------------------------

COMPILED = {
    "standard": lambda x, y: ssim(x, y, reduction="image"),
    "mask": lambda x, y: ssim(x, y, mask=x[:, :1] > 0.4, mask_mode="normalized"),
    "scales": lambda x, y: ms_ssim(x, y, window_size=3, weights=(0.5, 0.5), padding="reflect"),
}


@pytest.mark.compiles
@pytest.mark.parametrize("function", COMPILED.values(), ids=COMPILED.keys())
def test_another_size_is_no_new_program(device, composite, function):
    graphs = 0

    def count(graph, inputs):
        nonlocal graphs
        graphs += 1
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=count)
    for shape in [(2, 3, 20, 31), (3, 3, 41, 18), (5, 2, 64, 65)]:
        x, y = (picture.to(device) for picture in noise_pair(*shape))
        assert max_error(compiled(x, y), function(x, y)) <= 1e-6
    torch._dynamo.reset()
    # Before torch 2.6 padding by a pixel or none is a program each.
    pads = function is COMPILED["scales"] and torch.__version__ < "2.6"
    assert graphs == (2 if pads else 1)
