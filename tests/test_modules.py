"""SSIM, MS_SSIM and L1SSIMLoss as nn.Modules: what people do with modules besides calling them."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

from fused_ssim import MS_SSIM, SSIM, L1SSIMLoss, l1_ssim_loss, ms_ssim, ssim
from images import noise_pair
from measure import leaf

MODULES = {
    "SSIM": (
        SSIM(
            data_range=2.0,
            window_size=7,
            sigma=1.1,
            k1=0.02,
            k2=0.04,
            padding="valid",
            reduction="channel",
        ),
        lambda x, y: ssim(
            x,
            y,
            data_range=2.0,
            window_size=7,
            sigma=1.1,
            k1=0.02,
            k2=0.04,
            padding="valid",
            reduction="channel",
        ),
    ),
    "SSIM as it is": (SSIM(), ssim),
    "SSIM of another form": (
        SSIM(
            window=[[0.2, 0.5, 0.3], [0.1, 0.8, 0.1]],
            padding="replicate",
            unbiased=True,
            component="contrast",
        ),
        lambda x, y: ssim(
            x,
            y,
            window=[[0.2, 0.5, 0.3], [0.1, 0.8, 0.1]],
            padding="replicate",
            unbiased=True,
            component="contrast",
        ),
    ),
    "MS_SSIM": (
        MS_SSIM(
            data_range=2.0,
            window="uniform",
            window_size=3,
            k1=0.02,
            k2=0.04,
            weights=[0.5, 0.5],
            padding="reflect",
            reduction="image",
            negative="smooth",
            odd_sizes="crop",
        ),
        lambda x, y: ms_ssim(
            x,
            y,
            data_range=2.0,
            window="uniform",
            window_size=3,
            k1=0.02,
            k2=0.04,
            weights=[0.5, 0.5],
            padding="reflect",
            reduction="image",
            negative="smooth",
            odd_sizes="crop",
        ),
    ),
    "L1SSIMLoss": (
        L1SSIMLoss(ssim_weight=0.6, padding="valid"),
        lambda x, y: l1_ssim_loss(x, y, 0.6, "valid"),
    ),
    "L1SSIMLoss as it is": (L1SSIMLoss(), l1_ssim_loss),
}
each_module = pytest.mark.parametrize(("module", "function"), MODULES.values(), ids=MODULES.keys())


def images(device):
    return tuple(image.to(device) for image in noise_pair(2, 3, 33, 47))


@each_module
def test_same_as_the_function(device, module, function):
    x, y = (leaf(image.clone()) for image in images(device))
    found, expected = module(x, y), function(x, y)
    assert torch.equal(found, expected)
    found = torch.autograd.grad(found.sum(), (x, y))
    expected = torch.autograd.grad(expected.sum(), (x, y))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@each_module
def test_copies(device, module, function):
    x, y = images(device)
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    for twin in (
        copy.copy(module),
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(stream, weights_only=False),
    ):
        assert type(twin) is type(module)
        assert torch.equal(twin(x, y), function(x, y))


@each_module
def test_without_state(module, function):
    assert isinstance(module, torch.nn.Module)
    assert list(module.parameters()) == []
    assert module.state_dict() == {}
    module.load_state_dict({})


@each_module
def test_moves_and_modes(device, module, function):
    x, y = images(device)
    twin = copy.deepcopy(module).to(device).double().eval().half().train()
    assert torch.equal(twin(x, y), function(x, y))


def test_repr_names_the_settings():
    text = repr(MODULES["SSIM"][0])
    for part in ("SSIM(", "window_size=7", "sigma=1.1", "padding='valid'", "reduction='channel'"):
        assert part in text
    text = repr(MODULES["MS_SSIM"][0])
    for part in ("MS_SSIM(", "weights=(0.5, 0.5)", "negative='smooth'", "window='uniform'"):
        assert part in text
    text = repr(MODULES["L1SSIMLoss"][0])
    for part in ("L1SSIMLoss(", "ssim_weight=0.6", "padding='valid'"):
        assert part in text


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (SSIM, {"window_size": 10}),
        (SSIM, {"sigma": -1}),
        (SSIM, {"padding": "full"}),
        (SSIM, {"reduction": "average"}),
        (SSIM, {"data_range": 0}),
        (SSIM, {"k1": 0}),
        (SSIM, {"window": [0.5, 0.5]}),
        (SSIM, {"component": "structure"}),
        (SSIM, {"mask_mode": "inside"}),
        (SSIM, {"spatial_dims": 4}),
        (MS_SSIM, {"window_size": 10}),
        (MS_SSIM, {"weights": ()}),
        (MS_SSIM, {"negative": "abs"}),
        (MS_SSIM, {"odd_sizes": "keep"}),
        (MS_SSIM, {"reduction": "none"}),
        (L1SSIMLoss, {"ssim_weight": 1.5}),
        (L1SSIMLoss, {"mask_mode": "inside"}),
        (L1SSIMLoss, {"padding": "full"}),
    ],
    ids=str,
)
def test_bad_settings_are_refused_at_once(module, arguments):
    # When the module is made, not hours later when it is first called.
    with pytest.raises(ValueError, match=next(iter(arguments))):
        module(**arguments)


def test_inside_a_sequential_model(device):
    x, y = images(device)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 3, 3, padding=1)
            self.loss = L1SSIMLoss()

        def forward(self, image, target):
            return self.loss(self.layer(image), target)

    model = Model().to(device)
    model(x, y).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    twin = copy.deepcopy(model)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(x, y), model(x, y))
    assert sorted(model.state_dict()) == ["layer.bias", "layer.weight"]


class Whole(torch.nn.Sequential):
    """A model that pickle finds by its name."""


def test_saved_with_a_model(device, tmp_path):
    x, y = images(device)
    whole = Whole(torch.nn.Conv2d(3, 3, 3, padding=1)).to(device)
    whole.loss = SSIM(data_range=2.0)
    torch.save(whole, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(loaded.loss(loaded[0](x), y), whole.loss(whole[0](x), y))
