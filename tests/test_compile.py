"""torch.compile without graph breaks, forward and backward: the same numbers as without."""

from __future__ import annotations

import pytest
import torch

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
from fused_ssim.compat import pytorch_msssim
from images import noise, noise_pair
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
# Forms that differ before autograd comes in.
FORMS = {
    "reflect": lambda x, y: ssim(x, y, padding="reflect", component="contrast"),
    "volume": lambda x, y: fused_ssim3d(x[:, None], y[:, None]),
    "masked volume": lambda x, y: ssim(
        x[:, None], y[:, None], mask=y.detach()[:, None] > 0.3, spatial_dims=3
    ),
    "signal": lambda x, y: ssim(x.flatten(2), y.flatten(2), spatial_dims=1),
    "one image": lambda x, y: ssim(x[0], y[0], window=[0.25, 0.5, 0.25], unbiased=True),
    "ranges": lambda x, y: ssim(x, y, data_range=torch.tensor([1.0, 2.0], device=x.device)),
    "masked half": lambda x, y: (
        1000 * ssim(x.half(), y.half(), mask=y.detach() > 0.3, padding="valid")
    ),
    "loss masked": lambda x, y: l1_ssim_loss(x, y, mask=y.detach() > 0.3),
    "loss of the pull request": lambda x, y: fused_l1_ssim_loss(x, y, 0.3, True),
    "ms_ssim reflect": lambda x, y: ms_ssim(
        x, y, window_size=3, weights=(0.5, 0.5), padding="reflect", reduction="image"
    ).sum(),
    "MS_SSIM": MS_SSIM(window_size=3, weights=(0.5, 0.5)),
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


@pytest.mark.parametrize("function", FORMS.values(), ids=FORMS.keys())
def test_full_graph_of_other_forms(device, function):
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    x, y = images(device)
    check(compiled, function, x, y.detach())


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


@pytest.mark.parametrize(
    "name",
    [
        "fused_ssim valid",
        "image",
        "loss",
        "map",
        "ms_ssim",
        "reflect",
        "loss masked",
        "masked half",
    ],
)
def test_a_second_size_does_not_recompile(device, name):
    function = (FUNCTIONS | FORMS)[name]
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    check(compiled, function, *images(device, 2, 3, 20, 31))
    with torch._dynamo.config.patch(error_on_recompile=True):
        check(compiled, function, *images(device, 3, 2, 40, 17))


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


def test_a_model_under_a_checkpoint(device):
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 3, 3, padding=1).to(device)
    x, y = images(device)

    def loss(x, y):
        return checkpoint(lambda a: l1_ssim_loss(layer(a).sigmoid(), y), x, use_reentrant=False)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(x, y), (x, y, layer.weight))
    for ours, reference in zip(
        found, torch.autograd.grad(loss(x, y), (x, y, layer.weight)), strict=True
    ):
        assert relative_error(ours, reference) <= 1e-6


def test_squared_errors(device):
    compiled = torch.compile(ssim_and_mse, fullgraph=True, backend="aot_eager")
    x, y = images(device)
    for found, expected in zip(compiled(x, y), ssim_and_mse(x, y), strict=True):
        assert relative_error(found, expected) <= 1e-6
    with pytest.raises(RuntimeError, match="computed without a gradient"):
        compiled(x, y)[0].sum().backward()


def test_a_second_derivative_is_an_error(device):
    # torch has none of what it compiles; a silent zero would be worse.
    compiled = torch.compile(fused_ssim, fullgraph=True, backend="aot_eager")
    x, y = images(device)
    (gradient,) = torch.autograd.grad(compiled(x, y), x, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(gradient.square().sum(), x)


# ---- programs -----------------------------------------------------------------------------------


class Loss(torch.nn.Module):
    def forward(self, x, y):
        return 1 - fused_ssim(x, y, train=False)


def test_export(device):
    x, y = (image.detach() for image in images(device))
    program = torch.export.export(Loss(), (x, y))
    assert torch.equal(program.module()(x, y), Loss()(x, y))


def test_export_of_any_size(device):
    x, y = (image.detach() for image in images(device))
    sizes = {axis: torch.export.Dim(name) for axis, name in ((0, "B"), (2, "H"), (3, "W"))}
    program = torch.export.export(Loss(), (x, y), dynamic_shapes=(sizes, sizes))
    x, y = (image.detach() for image in images(device, 3, 3, 40, 31))
    assert torch.equal(program.module()(x, y), Loss()(x, y))


@pytest.mark.filterwarnings("ignore:.isinstance.treespec")  # torch 2.11's own
def test_ahead_of_time(device, tmp_path):
    if torch.__version__ < "2.6":
        pytest.skip("torch loads packages of AOTInductor from 2.6 on")
    x, y = (image.detach() for image in images(device))
    program = torch.export.export(Loss(), (x, y))
    path = torch._inductor.aoti_compile_and_package(program, package_path=f"{tmp_path}/loss.pt2")
    assert relative_error(torch._inductor.aoti_load_package(path)(x, y), Loss()(x, y)) <= 1e-6


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:Converting a tensor")
def test_jit_trace(device, tmp_path):
    x, y = images(device)
    for function in (Loss(), L1SSIMLoss(), SSIM(reduction="none", padding="valid")):
        traced = torch.jit.trace(function, (x, y))  # of images that require gradients, too
        traced.save(f"{tmp_path}/traced.pt")
        loaded = torch.jit.load(f"{tmp_path}/traced.pt")
        a, b = (image.detach() for image in noise_pair(*x.shape, seed=5))
        a, b = a.to(device), b.to(device)
        assert torch.equal(loaded(a, b), function(a, b))


def test_make_fx(device):
    from torch.fx.experimental.proxy_tensor import make_fx

    def gradient(x, y):
        x = leaf(x)
        return torch.autograd.grad(l1_ssim_loss(x, y) + FUNCTIONS["ms_ssim"](x, y), x)[0]

    x, y = (image.detach() for image in images(device))
    program = make_fx(gradient)(x, y)
    assert "fused_ssim.ssim" in program.code
    a, b = (image.to(device) for image in noise_pair(*x.shape, seed=5))
    assert relative_error(program(a, b), gradient(a, b)) <= 1e-6


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_fake_tensors(kind):
    # Those of a GPU, too, on a machine without one.
    if kind == "cuda" and not torch.cuda.is_available():
        if torch.__version__ < "2.10":
            pytest.skip("torch below 2.10 asks the GPU of fake tensors for its stream")
        if not torch.backends.cuda.is_built():
            pytest.skip("a torch without CUDA does not slice fake tensors of a GPU")
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x, y = (torch.empty(2, 3, 40, 41, device=kind) for _ in range(2))
        x.requires_grad_()
        for function in (*FUNCTIONS.values(), *FORMS.values()):
            assert function(x, y).device.type == kind
        assert ssim(x, y, reduction="none", padding="valid").shape == (2, 3, 30, 31)
        if kind == "cpu":
            l1_ssim_loss(x, y).backward()
            assert x.grad.shape == x.shape


def test_errors_survive(device):
    compiled = torch.compile(fused_ssim, backend="aot_eager")
    x, y = (image.detach() for image in images(device))
    with pytest.raises(Exception, match="33"):
        compiled(x, y[..., :-1])


def test_without_the_private_name_of_the_compiler(monkeypatch, device):
    monkeypatch.delattr("torch._dynamo.trace_rules.manual_torch_name_rule_map")
    torch._dynamo.reset()
    x, y = noise(2, 3, 16, 17).to(device).split(1)
    compiled = torch.compile(lambda a, b, k: ssim(a, b, data_range=k), backend="aot_eager")
    assert torch.equal(compiled(x, y, 1.5), ssim(x, y, data_range=1.5))
    torch._dynamo.reset()  # of what it took for granted here
