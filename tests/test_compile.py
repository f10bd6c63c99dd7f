"""torch.compile without graph breaks, forward and backward: the same numbers as without."""

from __future__ import annotations

import pytest
import torch

from fused_ssim import SSIM, FusedSSIMMap, L1SSIMLoss, fused_ssim, l1_ssim_loss, ms_ssim, ssim
from fused_ssim.compat import pytorch_msssim
from images import noise_pair
from measure import leaf, relative_error

pytestmark = pytest.mark.compiles

FUNCTIONS = {
    "fused_ssim": fused_ssim,
    "fused_ssim valid": lambda x, y: 1 - fused_ssim(x, y, padding="valid"),
    "map": lambda x, y: FusedSSIMMap.apply(1e-4, 9e-4, x, y, "same", True, 2).square().mean(),
    "none": lambda x, y: ssim(x, y, reduction="none", padding="valid").mean(),
    "image": lambda x, y: ssim(x, y, reduction="image").square().sum(),
    "channel": lambda x, y: ssim(x, y, reduction="channel", window_size=7).exp().sum(),
    "sum": lambda x, y: ssim(x, y, reduction="sum", data_range=2.0, sigma=2.0),
    "masked": lambda x, y: ssim(x, y, mask=y.detach() > 0.3, mask_mode="normalized"),
    "masked map": lambda x, y: ssim(x, y, reduction="none", mask=y.detach() > 0.3).mean(),
    "loss": l1_ssim_loss,
    "loss valid": lambda x, y: l1_ssim_loss(x, y, 0.4, "valid"),
    "between others": lambda x, y: fused_ssim((x * 0.7).sigmoid(), y.relu()) + (x - y).abs().mean(),
    "ms_ssim": lambda x, y: ms_ssim(x, y, window_size=3, weights=(0.2, 0.5, 0.3)),
    "ms_ssim of planes": lambda x, y: ms_ssim(
        x, y, padding="same", reduction="channel", negative="smooth", odd_sizes="crop"
    ).sum(),
    "SSIM": SSIM(reduction="image"),
    "L1SSIMLoss": L1SSIMLoss(0.5),
    "pytorch-msssim": pytorch_msssim.SSIM(data_range=1, win_size=7),
}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def images(device, *shape):
    return tuple(leaf(image.to(device).clone()) for image in noise_pair(*(shape or (2, 3, 33, 47))))


def check(compiled, function, x, y):
    found, expected = compiled(x, y), function(x, y)
    assert relative_error(found, expected) <= 1e-6
    wanted = [image for image in (x, y) if image.requires_grad]
    if wanted:
        upstream = torch.rand_like(expected)
        found = torch.autograd.grad(found, wanted, upstream)
        expected = torch.autograd.grad(expected, wanted, upstream)
        for ours, reference in zip(found, expected, strict=True):
            assert ours.dtype == reference.dtype
            assert ours.stride() == reference.stride()
            assert relative_error(ours, reference) <= 1e-6


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_full_graph(device, function):
    # aot_eager traces, fakes and differentiates as inductor does, without waiting for a compiler.
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    x, y = images(device)
    check(compiled, function, x, y)
    check(compiled, function, x.detach(), y.detach())
    check(compiled, function, x, y.detach())
    check(compiled, function, x.detach(), y)


@pytest.mark.parametrize(
    "name", ["fused_ssim", "map", "masked map", "loss", "ms_ssim", "between others"]
)
def test_inductor(device, name):
    compiled = torch.compile(FUNCTIONS[name], fullgraph=True)
    check(compiled, FUNCTIONS[name], *images(device))


def test_inductor_inference(device):
    compiled = torch.compile(lambda x, y: 1 - fused_ssim(x, y, train=False), fullgraph=True)
    x, y = (image.detach() for image in images(device))
    with torch.no_grad():
        assert relative_error(compiled(x, y), 1 - fused_ssim(x, y)) <= 1e-6


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_layouts_and_types(device, dtype, layout):
    x, y = (
        leaf(image.detach().to(dtype).contiguous(memory_format=layout)) for image in images(device)
    )
    for function in (
        lambda a, b: 1000 * fused_ssim(a, b),
        lambda a, b: ssim(a, b, reduction="none").sum(),
        lambda a, b: 1000 * l1_ssim_loss(a, b),
    ):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        check(compiled, function, x, y)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: 1 - fused_ssim(x, y, train=False),
        lambda x, y: FusedSSIMMap.apply(1e-4, 9e-4, x, y, "same", False, 2).mean(),
    ],
    ids=["fused_ssim", "map"],
)
def test_train_false_refuses_the_backward_pass(device, function):
    compiled = torch.compile(function, fullgraph=True)
    x, y = images(device)
    value = compiled(x, y.detach())
    assert relative_error(value, function(x, y).detach()) <= 1e-6
    with pytest.raises(RuntimeError, match="computed without a gradient"):
        value.backward()


@pytest.mark.parametrize("name", ["fused_ssim valid", "image", "loss", "map", "ms_ssim"])
def test_a_second_size_does_not_recompile(device, name):
    compiled = torch.compile(FUNCTIONS[name], fullgraph=True, dynamic=True, backend="aot_eager")
    check(compiled, FUNCTIONS[name], *images(device, 2, 3, 20, 31))
    with torch.compiler.set_stance("fail_on_recompile"):
        check(compiled, FUNCTIONS[name], *images(device, 3, 2, 40, 17))


def test_dynamic_shapes(device):
    graphs = 0

    def count(graph, inputs):
        nonlocal graphs
        graphs += 1
        return graph.forward

    compiled = torch.compile(
        lambda x, y: ssim(x, y, reduction="image"), fullgraph=True, dynamic=True, backend=count
    )
    for shape in [(2, 3, 20, 31), (3, 3, 40, 17), (5, 2, 64, 64)]:
        x, y = (image.detach() for image in images(device, *shape))
        assert relative_error(compiled(x, y), ssim(x, y, reduction="image")) <= 1e-6
    assert graphs == 1


def test_dynamic_shapes_and_gradients(device):
    compiled = torch.compile(fused_ssim, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in [(2, 3, 20, 31), (3, 2, 40, 17)]:
        check(compiled, fused_ssim, *images(device, *shape))


def test_a_whole_training_step(device):
    x, y = images(device)
    start = x.detach().clone()

    def step(image):
        loss = l1_ssim_loss(image, y.detach())
        return torch.autograd.grad(loss, image)[0]

    expected = step(x)
    # The step around a compiled loss, as people write it.
    compiled = torch.compile(l1_ssim_loss, fullgraph=True, backend="aot_eager")
    z = leaf(start.clone())
    optimiser = torch.optim.SGD([z], lr=1.0)
    compiled(z, y.detach()).backward()
    optimiser.step()
    assert relative_error(z, start - expected) <= 1e-6


def test_export(device):
    class Loss(torch.nn.Module):
        def forward(self, x, y):
            return 1 - fused_ssim(x, y, train=False)

    x, y = (image.detach() for image in images(device))
    program = torch.export.export(Loss(), (x, y))
    assert torch.equal(program.module()(x, y), Loss()(x, y))


def test_errors_survive(device):
    compiled = torch.compile(fused_ssim, backend="aot_eager")
    x, y = (image.detach() for image in images(device))
    with pytest.raises(Exception, match="33"):
        compiled(x, y[..., :-1])
