"""Operators by address, as a torch older than 2.10 has them: the bits of libfused_ssim's.

Under such a torch, and with FUSED_SSIM_BY_ADDRESS=1, the whole suite goes this way.
"""

from __future__ import annotations

import pytest
import torch

import fused_ssim as package
from fused_ssim import _operators, fused_ssim3d, l1_ssim_loss, ms_ssim, ssim, ssim_and_mse
from images import noise, noise_pair
from measure import relative_error, run_python

SMALL = {"window_size": 3, "weights": (0.3, 0.5, 0.2)}


def images(*shape, dtype=torch.float32):
    return tuple(image.to(dtype).requires_grad_() for image in noise_pair(*shape))


def step(function, x, y, upstream=1000.0):
    """The value and what is asked of its gradients."""
    value = function(x, y)
    wanted = [image for image in (x, y) if image.requires_grad]
    return [value, *torch.autograd.grad(upstream * value.sum(), wanted)] if wanted else [value]


def results():
    """Of every operator and every kind of argument."""
    found = {}
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        x, y = images(2, 3, 41, 38, dtype=dtype)
        found[f"ssim {dtype}"] = step(ssim, x, y)
        found[f"map {dtype}"] = step(lambda a, b: ssim(a, b, reduction="none"), x, y)
        found[f"ms_ssim {dtype}"] = step(lambda a, b: ms_ssim(a, b, **SMALL), x, y)
    x, y = images(2, 3, 41, 38)
    for reduction in ("sum", "image", "channel"):
        form = {"reduction": reduction, "padding": "valid", "window_size": 7}
        found[reduction] = step(lambda a, b, form=form: ssim(a, b, **form), x, y)
    mask = noise(41, 38, seed=4) > 0.4
    for mode in ("weighted", "normalized"):
        form = {"mask": mask, "mask_mode": mode}
        found[mode] = step(lambda a, b, form=form: l1_ssim_loss(a, b, **form), x, y)
        found[f"{mode}, half"] = step(
            lambda a, b, form=form: ssim(a, b, reduction="image", **form), x.half(), y.half()
        )
    found["two types"] = step(ssim, x, y.detach().half().requires_grad_())
    found["bytes"] = step(ssim, x, (255 * y.detach()).to(torch.uint8))
    found["layout"] = step(ssim, x.to(memory_format=torch.channels_last), y[:1].expand_as(x))
    negated = torch.complex(y.detach(), -x.detach()).conj().imag
    assert negated.is_neg()
    found["negative bit"] = step(ssim, negated.requires_grad_(), y)
    found["ranges"] = step(lambda a, b: ssim(a, b, data_range=torch.tensor([1.0, 2.0])), x, y)
    found["means"] = list(ssim_and_mse(x.detach(), y.detach()))
    found["volume"] = step(fused_ssim3d, *images(1, 2, 13, 14, 15))
    found["signal"] = step(lambda a, b: ssim(a, b, spatial_dims=1), *images(2, 2, 100))
    value = ssim(x, y, reduction="channel")
    twice = [torch.autograd.grad(value.sum(), x, retain_graph=True)[0] for _ in range(2)]
    batched = torch.autograd.grad(
        value, x, torch.eye(6).view(6, 2, 3), is_grads_batched=True, retain_graph=True
    )
    found["again"] = [*twice, *batched]
    found["loss"] = step(l1_ssim_loss, x, y)
    gradients = torch.autograd.grad(ssim(x, y), (x, y), create_graph=True)
    found["second derivatives"] = torch.autograd.grad(sum(g.square().sum() for g in gradients), x)
    if _operators.by_address and torch.__version__ >= "2.4":
        compiled = torch.compile(l1_ssim_loss, fullgraph=True, backend="aot_eager")
        found["compiled"] = step(compiled, x, y)
    return {name: [tensor.detach() for tensor in tensors] for name, tensors in found.items()}


def refusal(function):
    with pytest.raises(Exception) as refused:  # noqa: PT011
        function()
    return type(refused.value).__name__, str(refused.value)


def refusals():
    x, y = images(1, 1, 12, 13)
    constant = ssim(x.detach(), y, reduction="none", padding="valid").sum()
    return [
        refusal(lambda: ssim(x, y[..., 1:])),
        refusal(lambda: ssim(x[..., :3], y[..., :3], padding="valid")),
        refusal(lambda: ssim(x, y, window=[0.5, 0.5, 0.5])),
        refusal(lambda: torch.autograd.grad(constant, x)),
        refusal(lambda: l1_ssim_loss(x, y, train=False).backward()),
    ]


def save(path):
    torch.save((_operators.by_address, results(), refusals()), path)


def test_the_same_bits_and_errors(tmp_path):
    threads = torch.get_num_threads()
    saved = []
    for forced in ("0", "1"):
        path = tmp_path / forced
        run_python(
            f"import torch, test_by_address\ntorch.set_num_threads({threads})\n"
            f"test_by_address.save({str(path)!r})",
            env={"FUSED_SSIM_BY_ADDRESS": forced},
        )
        saved.append(torch.load(path, weights_only=True))
    (_, expected, words), (by_address, found, same_words) = saved
    assert by_address
    if torch.__version__ >= "2.4":
        assert all(map(torch.equal, found.pop("compiled"), expected["loss"]))
        expected.pop("compiled", None)  # where libfused_ssim can't be loaded
    assert found.keys() == expected.keys()
    for name, tensors in expected.items():
        assert len(found[name]) == len(tensors), name
        for ours, reference in zip(found[name], tensors, strict=True):
            assert ours.dtype == reference.dtype, name
            assert ours.stride() == reference.stride(), name
            assert torch.equal(ours, reference), name
    assert same_words == words


def test_compiled_together_with_others():
    # Older compilers leave our functions to eager mode.
    def function(x, y):
        return l1_ssim_loss((x * 0.7).sigmoid(), y).sqrt() + ms_ssim(x, y, **SMALL)

    torch._dynamo.reset()
    x, y = images(2, 3, 41, 38)
    compiled = torch.compile(function, backend="aot_eager")
    for ours, reference in zip(step(compiled, x, y), step(function, x, y), strict=True):
        assert relative_error(ours, reference) <= 1e-6
    torch._dynamo.reset()


def test_info_says_which_way():
    info = package.build_info()
    if torch.__version__ < "2.10":
        assert info.operators == "Python, by addresses"
        assert info.torch_built is None
    text = run_python(
        "import fused_ssim; print(fused_ssim.build_info())", env={"FUSED_SSIM_BY_ADDRESS": "1"}
    )
    assert "\noperators      Python, by addresses\n" in text
    assert "built against" not in text
