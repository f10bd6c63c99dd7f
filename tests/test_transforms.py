"""torch.func: vmap in one launch, gradients by the kernels, all else by the composite."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from fused_ssim import (
    FusedSSIMMap,
    _route,
    fused_ssim,
    fused_ssim3d,
    l1_ssim_loss,
    ms_ssim,
    ssim,
    ssim_and_mse,
)
from images import noise_pair
from measure import leaf, max_error, relative_error

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script", "ignore:fused_ssim. no fused kernel"
)

RANGES = torch.tensor([1.0, 2.0])
# Of images [B, C, H, W].
FUNCTIONS = {
    "fused_ssim": fused_ssim,
    "sum": lambda x, y: ssim(x, y, reduction="sum", padding="valid"),
    "image": lambda x, y: ssim(x, y, reduction="image", padding="reflect"),
    "channel": lambda x, y: ssim(x, y, reduction="channel", window_size=7),
    "map": lambda x, y: FusedSSIMMap.apply(1e-4, 9e-4, x, y),
    "masked": lambda x, y: ssim(x, y, mask=y.detach() > 0.3, mask_mode="normalized"),
    "masked map": lambda x, y: ssim(x, y, mask=y.detach() > 0.3, reduction="none"),
    "loss": l1_ssim_loss,
    "volume": lambda x, y: fused_ssim3d(x[:, None], y[:, None]),
    "signal": lambda x, y: ssim(x.flatten(2), y.flatten(2), spatial_dims=1),
    "ms_ssim": lambda x, y: ms_ssim(x, y, window_size=3, weights=(0.5, 0.5)),
}
each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())


class Launches(TorchDispatchMode):
    """Counts the calls of each operator of ours."""

    def __init__(self):
        super().__init__()
        self.count = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "fused_ssim":
            name = function._schema.name.partition("::")[2]
            self.count[name] = self.count.get(name, 0) + 1
        return function(*args, **(kwargs or {}))


def images(device, *shape, dtype=torch.float32):
    return tuple(image.to(device, dtype) for image in noise_pair(*(shape or (3, 2, 2, 13, 14))))


def total(function):
    return lambda x, y: function(x, y).square().sum()


@each_function
def test_vmap_is_one_launch(device, function, request):
    x, y = images(device)
    expected = torch.stack([function(a, b) for a, b in zip(x, y, strict=True)])
    with Launches() as launches:
        found = vmap(function)(x, y)
    assert max_error(found, expected) <= 1e-6 * max(1.0, expected.abs().max().item())
    by_loop = torch.stack([grad(total(function))(a, b) for a, b in zip(x, y, strict=True)])
    with Launches() as of_gradient:
        found = vmap(grad(total(function)))(x, y)
    assert relative_error(found, by_loop) <= 1e-5
    name = request.node.callspec.id.partition("-")[2]
    by_kernels = torch.__version__ >= "2.4"  # below that the composite serves transforms
    if by_kernels and not _route.composite_is_forced:
        scales = 2 if name == "ms_ssim" else 1
        assert launches.count == {"ssim_map": scales}
        assert of_gradient.count == {"ssim_map": scales, "ssim_map_backward": scales}


@pytest.mark.parametrize("in_dims", [(1, 0), (3, 3), (0, None), (None, 2)], ids=str)
def test_vmap_of_any_axis(device, in_dims):
    x, y = images(device, 3, 2, 12, 13)
    batches = [
        image if axis is None else torch.stack([image, 1 - image, image / 2], axis)
        for image, axis in zip((x, y), in_dims, strict=True)
    ]
    both = [
        [image] * 3 if axis is None else image.unbind(axis)
        for image, axis in zip(batches, in_dims, strict=True)
    ]
    expected = torch.stack([ssim(a, b, reduction="image") for a, b in zip(*both, strict=True)])
    found = vmap(lambda a, b: ssim(a, b, reduction="image"), in_dims)(*batches)
    assert max_error(found, expected) <= 1e-6
    twice = vmap(vmap(lambda a, b: ssim(a[None], b[None])))(x[None], y[None])
    assert max_error(twice, ssim(x, y, reduction="image")[None]) <= 1e-6


def test_vmap_of_ranges_and_masks(device):
    x, y = images(device)
    masks = (y[:, 0, 0] > 0.3).float()
    found = vmap(lambda a, b, m: ssim(a, b, mask=m))(x, y, masks)
    expected = torch.stack([ssim(a, b, mask=m) for a, b, m in zip(x, y, masks, strict=True)])
    assert max_error(found, expected) <= 1e-6
    ranges = RANGES.to(device)
    found = vmap(lambda a, b: ssim(a, b, data_range=ranges))(x, y)
    expected = [ssim(a, b, data_range=ranges) for a, b in zip(x, y, strict=True)]
    assert max_error(found, torch.stack(expected)) <= 1e-6
    one_each = torch.tensor([1.0, 2.0, 3.0], device=device)
    found = vmap(lambda a, b, r: ssim(a, b, data_range=r))(x, y, one_each)
    expected = [ssim(a, b, data_range=r) for a, b, r in zip(x, y, one_each, strict=True)]
    assert max_error(found, torch.stack(expected)) <= 1e-6


def test_vmap_of_squared_errors(device):
    x, y = images(device)
    for found, expected in zip(
        vmap(ssim_and_mse)(x, y),
        ssim_and_mse(x.flatten(0, 1), y.flatten(0, 1)),
        strict=True,
    ):
        assert max_error(found.flatten(0, 1), expected) <= 1e-6


@each_function
def test_gradients_are_those_of_autograd(device, function):
    x, y = images(device, 2, 2, 13, 14)
    a, b = leaf(x.clone()), leaf(y.clone())
    expected = torch.autograd.grad(total(function)(a, b), (a, b))
    for found, reference in zip(grad(total(function), (0, 1))(x, y), expected, strict=True):
        assert relative_error(found, reference) <= 1e-5
    value, pull = vjp(function, x, y)
    for found, reference in zip(pull(2 * value), expected, strict=True):
        assert relative_error(found, reference) <= 1e-5


def test_jacobians(device):
    x, y = images(device, 2, 2, 5, 6, dtype=torch.float64)

    def planes(a):
        return ssim(a, y, reduction="channel")

    with Launches() as launches:
        found = jacrev(planes)(x)
    if not _route.composite_is_forced and torch.__version__ >= "2.4":
        assert launches.count["ssim_map_backward"] == 1
    expected = torch.autograd.functional.jacobian(planes, x)
    assert relative_error(found, expected) <= 1e-10
    assert relative_error(jacfwd(planes)(x), expected) <= 1e-10
    for create_graph in (False, True):
        found = torch.autograd.functional.jacobian(
            planes, x, vectorize=True, create_graph=create_graph
        )
        assert relative_error(found, expected) <= 1e-10


@each_function
def test_products_with_the_hessian(device, function):
    # Reverse over reverse by kernels and composite, forward over reverse by the composite.
    x, y = images(device, 1, 2, 5, 6, dtype=torch.float64)
    if function in (FUNCTIONS["sum"], FUNCTIONS["image"]):  # which need the window
        x, y = images(device, 1, 2, 11, 12, dtype=torch.float64)
    direction = noise_pair(*x.shape, seed=3)[0].to(x)
    gradient = grad(lambda a: total(function)(a, y))
    by_forward_mode = jvp(gradient, (x,), (direction,))[1]
    assert relative_error(vjp(gradient, x)[1](direction)[0], by_forward_mode) <= 1e-9
    _, by_autograd = torch.autograd.functional.hvp(lambda a: total(function)(a, y), x, direction)
    assert relative_error(by_autograd, by_forward_mode) <= 1e-9


def test_hessian(device):
    x, y = images(device, 1, 1, 4, 3, dtype=torch.float64)
    found = hessian(lambda a: l1_ssim_loss(a, y))(x)
    expected = torch.autograd.functional.hessian(lambda a: l1_ssim_loss(a, y), x)
    assert relative_error(found, expected) <= 1e-9


def test_what_is_refused_says_so(device):
    x, y = images(device, 1, 1, 12, 13)
    for call in (
        lambda: grad(lambda a: fused_ssim(a, y, train=False))(x),
        lambda: jvp(lambda a: fused_ssim(a, y, train=False), (x,), (x,)),
        lambda: grad(lambda a: ssim_and_mse(a, y)[0].sum())(x),
        lambda: jvp(lambda a: ssim_and_mse(a, y)[1], (x,), (x,)),
        lambda: vmap(grad(lambda a: fused_ssim(a[None], y, train=False)))(x),
    ):
        with pytest.raises(RuntimeError, match="computed without a gradient"):
            call()


@pytest.mark.compiles
@pytest.mark.parametrize("transform", [vmap, lambda f: vmap(grad(f))], ids=["vmap", "both"])
def test_compiled(device, transform):
    torch._dynamo.reset()
    x, y = images(device, 2, 1, 1, 12, 13)
    function = transform(lambda a, b: ssim(a.reshape(-1, 1, 12, 13), b.reshape(-1, 1, 12, 13)))
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert relative_error(compiled(x, y), function(x, y)) <= 1e-6
    torch._dynamo.reset()
