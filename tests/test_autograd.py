"""How results behave in autograd: whichever image asks, as often as asked, never silently wrong."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from fused_ssim import (
    MS_SSIM,
    SSIM,
    FusedSSIMMap,
    L1SSIMLoss,
    _route,
    fused_ssim,
    l1_ssim_loss,
    ssim,
)
from images import noise_pair
from measure import leaf, max_error, relative_error

FUNCTIONS = {
    "fused_ssim": fused_ssim,
    "fused_ssim valid": lambda x, y: fused_ssim(x, y, "valid"),
    "map": lambda x, y: FusedSSIMMap.apply(1e-4, 9e-4, x, y).square().mean(),
    "map itself": lambda x, y: ssim(x, y, reduction="none").sum(),
    "image": lambda x, y: ssim(x, y, reduction="image").square().sum(),
    "channel": lambda x, y: ssim(x, y, reduction="channel").square().sum(),
    "sum": lambda x, y: ssim(x, y, reduction="sum"),
    "other window": lambda x, y: ssim(x, y, window_size=7),
    "loss": l1_ssim_loss,
    "masked": lambda x, y: ssim(x, y, mask=y.detach() > 0.4, mask_mode="normalized"),
    "MS_SSIM": MS_SSIM(window_size=3, weights=(0.3, 0.7)),
    "SSIM": SSIM(),
    "L1SSIMLoss": L1SSIMLoss(),
}
each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())


def or_refused(call, reason):
    """What `call` returns, or None where it raises a RuntimeError that names the reason."""
    try:
        return call()
    except RuntimeError as error:
        if reason not in str(error):
            raise
        return None


def check_second_derivative(function, x, y, by, differentiate):
    """The derivative of the gradient by `by` is the composite's in float64."""

    def second_derivative(x, y, by):
        (first,) = torch.autograd.grad(function(x, y), x, create_graph=True)
        return torch.autograd.grad(differentiate(first, x), by)[0]

    found = second_derivative(x, y, (x, y)[by])
    x, y = leaf(x.double()), leaf(y.double())
    with _route.by_torch_operations():
        expected = second_derivative(x, y, (x, y)[by])
    assert relative_error(found, expected) <= 1e-4


def images(device, *shape):
    return tuple(leaf(image.to(device).clone()) for image in noise_pair(*(shape or (2, 3, 33, 47))))


@each_function
def test_whichever_image_asks(device, function):
    x, y = images(device)
    by_x, by_y = torch.autograd.grad(function(x, y), (x, y))
    # One image alone has cheaper kernels of its own; they must agree.
    (only_x,) = torch.autograd.grad(function(x, y.detach()), x)
    (only_y,) = torch.autograd.grad(function(x.detach(), y), y)
    assert relative_error(only_x, by_x) <= 2e-6
    assert relative_error(only_y, by_y) <= 2e-6
    assert relative_error(by_x, by_y) > 0.1


@each_function
def test_backward_fills_grad_of_those_that_ask(device, function):
    x, y = images(device)
    y = y.detach()
    function(x, y).backward()
    assert x.grad.shape == x.shape
    assert y.grad is None


@each_function
def test_second_image_alone(device, function):
    # nerfstudio hands the prediction over as the second image.
    x, y = images(device)
    function(x.detach(), y).backward()
    assert x.grad is None
    assert y.grad.abs().max() > 0


@each_function
def test_accumulates(device, function):
    x, y = images(device)
    function(x, y).backward()
    first = x.grad.clone(), y.grad.clone()
    function(x, y).backward()
    assert torch.equal(x.grad, 2 * first[0])
    assert torch.equal(y.grad, 2 * first[1])


@each_function
def test_backward_twice_gives_the_same_twice(device, function):
    x, y = images(device)
    result = function(x, y)
    first = torch.autograd.grad(result, (x, y), retain_graph=True)
    kept = [gradient.clone() for gradient in first]
    for gradient in first:
        gradient.fill_(torch.nan)  # the caller's own, to do with as he likes
    second = torch.autograd.grad(result, (x, y))
    for ours, reference in zip(second, kept, strict=True):
        assert torch.equal(ours, reference)


@each_function
def test_backward_twice_with_other_upstream(device, function):
    x, y = images(device)
    result = function(x, y)
    one = torch.autograd.grad(result, (x, y), retain_graph=True)
    three = torch.autograd.grad(3 * result, (x, y))
    for ours, reference in zip(three, one, strict=True):
        assert relative_error(ours, 3 * reference) <= 1e-6


@each_function
def test_freed_graph_is_refused(device, function):
    x, y = images(device)
    result = function(x, y)
    result.backward()
    with pytest.raises(RuntimeError):
        result.backward()


@each_function
def test_gradients_are_no_aliases(device, function):
    x, y = images(device)
    by_x, by_y = torch.autograd.grad(function(x, y), (x, y))
    kept = by_y.clone(), x.detach().clone(), y.detach().clone()
    by_x.fill_(torch.nan)
    assert torch.equal(by_y, kept[0])
    by_y.fill_(torch.nan)
    assert torch.equal(x.detach(), kept[1])
    assert torch.equal(y.detach(), kept[2])


@each_function
def test_grad_of_a_leaf_is_its_own(device, function):
    # A GAN's or a regulariser's gradient clipping writes to .grad between two backward passes.
    x, y = images(device)
    result = function(x, y)
    result.backward(retain_graph=True)
    once = x.grad.clone()
    x.grad.zero_()
    result.backward()
    assert torch.equal(x.grad, once)


@each_function
def test_same_tensor_as_both_images(device, function):
    x, _ = images(device)
    function(x, x).backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() <= 1e-6


def test_same_tensor_gives_the_sum_of_both(device):
    x, y = images(device)
    weights = torch.rand_like(x)
    (by_x,) = torch.autograd.grad(fused_ssim(x, y), x)
    z = leaf(x.detach().clone())
    (found,) = torch.autograd.grad(fused_ssim(z, y.detach() + 0 * z), z)
    assert relative_error(found, by_x) <= 2e-6
    (found,) = torch.autograd.grad(fused_ssim(z, weights * z), z)
    second = leaf((weights * z).detach())
    first_part, second_part = torch.autograd.grad(fused_ssim(z, second), (z, second))
    assert relative_error(found, first_part + weights * second_part) <= 2e-6


@each_function
def test_nothing_asked_nothing_recorded(device, function):
    x, y = images(device)
    with torch.no_grad():
        result = function(x, y)
    assert not result.requires_grad
    assert result.grad_fn is None
    result = function(x.detach(), y.detach())
    assert not result.requires_grad
    with torch.inference_mode():
        result = function(x, y)
    assert not result.requires_grad


@each_function
def test_inference_tensors_serve_as_target(device, function):
    x, y = images(device)
    with torch.inference_mode():
        target = y * 1.0
    (expected,) = torch.autograd.grad(function(x, y.detach()), x)
    # torch itself refuses to save an inference tensor for backward: that, or the right answer.
    found = or_refused(lambda: torch.autograd.grad(function(x, target), x), "nference")
    assert found is None or relative_error(found[0], expected) <= 2e-6


@each_function
def test_second_derivative(device, function):
    x, y = images(device, 1, 2, 14, 15)
    check_second_derivative(function, x, y, 0, lambda first, x: first.square().sum())


@each_function
def test_second_derivative_of_a_penalty(device, function):
    # A gradient penalty, where a silent zero would go unnoticed for weeks.
    x, y = images(device, 1, 2, 14, 15)
    check_second_derivative(function, x, y, 0, lambda first, x: first.norm() + x.square().mean())


@each_function
def test_second_derivative_by_the_other_image(device, function):
    x, y = images(device, 1, 2, 14, 15)
    check_second_derivative(function, x, y, 1, lambda first, x: first.square().sum())


@each_function
def test_create_graph_alone_is_harmless(device, function):
    x, y = images(device)
    expected = torch.autograd.grad(function(x, y), (x, y))
    found = torch.autograd.grad(function(x, y), (x, y), create_graph=True)
    for ours, reference in zip(found, expected, strict=True):
        # A pass of its own made it, so not to the last bit.
        assert relative_error(ours, reference) <= 1e-6


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("sizes", [(14,), (4, 14), (4, 5, 14)], ids=str)
def test_derivatives_with_windows_of_one_tap(device, sizes, reduction, padding):
    x, y = (leaf(image.double()) for image in images(device, 1, 1, *sizes))

    def value(x, y):
        dims = len(sizes)
        return ssim(
            x, y, window_size=1, reduction=reduction, padding=padding, spatial_dims=dims
        ).sum()

    def by(x):
        return torch.autograd.grad(value(x, y), x, create_graph=True)[0]

    (expected,) = torch.autograd.grad(value(x, y), x)
    assert relative_error(by(x), expected) <= 1e-12
    (found,) = torch.autograd.grad(by(x).square().sum(), x)
    with _route.by_torch_operations():
        (expected,) = torch.autograd.grad(by(x).square().sum(), x)
    assert relative_error(found, expected) <= 1e-10


@each_function
def test_second_derivative_of_one_image_twice(device, function):
    # As the target of itself, an image has the derivatives of both.
    x, _ = images(device, 1, 2, 14, 15)
    (first,) = torch.autograd.grad(function(x, 0.5 * x), x, create_graph=True)
    (found,) = torch.autograd.grad(first.square().sum(), x)
    x = leaf(x.double())
    with _route.by_torch_operations():
        (first,) = torch.autograd.grad(function(x, 0.5 * x), x, create_graph=True)
        (expected,) = torch.autograd.grad(first.square().sum(), x)
    assert relative_error(found, expected) <= 1e-4


def test_third_derivative(device):
    x, y = images(device, 1, 1, 12, 13)

    def third(x, y):
        value = ssim(x, y)
        for _ in range(2):
            value = torch.autograd.grad(value, x, create_graph=True)[0].square().sum()
        return torch.autograd.grad(value, x)[0]

    found = third(x, y)
    with _route.by_torch_operations():
        expected = third(leaf(x.double()), leaf(y.double()))
    assert relative_error(found, expected) <= 1e-3


@each_function
def test_an_image_changed_in_place_has_no_second_derivative(device, function):
    x, y = images(device, 1, 2, 14, 15)
    hidden = x * 1.0
    value = function(hidden, y)
    with torch.no_grad():
        hidden.mul_(0.5)
    # The map's gradient needs its images anyway, so torch refuses by itself.
    with pytest.raises(RuntimeError, match=r"changed in place|inplace"):
        torch.autograd.grad(value, y, create_graph=True)


@each_function
def test_images_changed_in_place_after_the_step(device, function):
    # An optimiser's step, between two backward passes.
    x, y = images(device, 1, 2, 14, 15)
    for _ in range(2):
        function(x, y).backward()
        with torch.no_grad():
            x.add_(x.grad)
            y.add_(y.grad)


@each_function
def test_images_live_no_longer_than_the_graph(device, function):
    x, y = images(device, 1, 2, 14, 15)
    hidden = x * 1.0
    alive = weakref.ref(hidden)
    value = function(hidden, y)
    del hidden
    value.backward()
    assert alive() is None
    assert value.isfinite()


def test_images_are_not_kept_from_those_who_save_elsewhere(device):
    # Hooks (checkpoint, save_on_cpu) free what autograd saves, and so must we.
    if torch.__version__ < "2.9":
        pytest.skip("torch 2.7 and older do not tell of hooks")
    x, y = images(device, 1, 2, 14, 15)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        hidden = x * 1.0
        alive = weakref.ref(hidden)
        value = fused_ssim(hidden, y)
    del hidden
    assert alive() is None
    with pytest.raises(RuntimeError, match="saved_tensors_hooks"):
        torch.autograd.grad(value, x, create_graph=True)


@each_function
def test_gradients_carry_no_graph(device, function):
    x, y = images(device)
    result = function(x, y)
    for keep in (True, False):
        gradients = torch.autograd.grad(result, (x, y), retain_graph=keep)
        assert not any(gradient.requires_grad for gradient in gradients)
    function(x, y).backward()
    assert not x.grad.requires_grad


@each_function
def test_hooks_see_and_change_the_gradient(device, function):
    x, y = images(device)
    (expected,) = torch.autograd.grad(function(x, y), x)
    seen = []
    x.register_hook(lambda gradient: seen.append(gradient.clone()))
    x.register_hook(lambda gradient: 2 * gradient)
    function(x, y).backward()
    assert torch.equal(seen[0], expected)
    assert torch.equal(x.grad, 2 * expected)


@each_function
def test_images_from_other_operations(device, function):
    x, y = images(device)
    hidden = (x * 0.5).sigmoid()
    by_hidden, by_x = torch.autograd.grad(function(hidden, y), (hidden, x))
    slope = (0.5 * hidden * (1 - hidden)).detach()
    assert relative_error(by_x, by_hidden * slope) <= 1e-6
    (expected,) = torch.autograd.grad(function(z := leaf(hidden.detach().clone()), y), z)
    assert torch.equal(by_hidden, expected)


@each_function
def test_inputs_changed_before_backward(device, function):
    # The gradient at the images as they were, or an error; never the one at the changed images.
    x, y = images(device)
    (expected,) = torch.autograd.grad(function(x * 1.0, y), y)
    a = x * 1.0
    result = function(a, y)
    with torch.no_grad():
        a.mul_(0.1)
    found = or_refused(lambda: torch.autograd.grad(result, y), "inplace")
    assert found is None or torch.equal(found[0], expected)


@each_function
def test_checkpoint(device, function):
    x, y = images(device)
    (expected,) = torch.autograd.grad(function(x.tanh(), y), x)
    result = checkpoint(lambda a, b: function(a.tanh(), b), x, y, use_reentrant=False)
    (found,) = torch.autograd.grad(result, x)
    assert torch.equal(found, expected)


@each_function
def test_saved_tensor_hooks(device, function):
    # torch.autograd.graph.save_on_cpu and its like.
    x, y = images(device)
    (expected,) = torch.autograd.grad(function(x, y), x)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        result = function(x, y)
    (found,) = torch.autograd.grad(result, x)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_without_train_there_is_no_backward(device, padding):
    x, y = images(device)
    value = fused_ssim(x, y, padding, train=False)
    assert torch.equal(value, fused_ssim(x.detach(), y.detach(), padding))
    with pytest.raises(RuntimeError, match="train=True"):
        value.backward()
    with pytest.raises(RuntimeError, match="train=True"):
        (1 - fused_ssim(x.detach(), y, padding, False)).backward()


def test_without_train_and_without_need(device):
    x, y = (image.detach() for image in images(device))
    assert not fused_ssim(x, y, train=False).requires_grad


@pytest.mark.filterwarnings("ignore:.*batching rule")  # a loop, torch warns
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "channel", "none"])
def test_batched_upstream_is_right_or_refused(device, reduction, keep):
    # How torch.autograd.functional.jacobian(vectorize=True) calls a backward pass.
    x, y = images(device, 2, 2, 14, 15)
    value = ssim(x, y, reduction=reduction)
    upstream = torch.rand(3, *value.shape, device=device)
    expected = [torch.autograd.grad(value, x, seed, retain_graph=True)[0] for seed in upstream]
    found = or_refused(
        lambda: torch.autograd.grad(value, x, upstream, is_grads_batched=True, retain_graph=keep),
        "atching rule",
    )
    assert found is None or torch.equal(found[0], torch.stack(expected))


def test_two_graphs_at_once(device):
    x, y = images(device)
    one, two = fused_ssim(x, y), fused_ssim(y, x)
    (by_two,) = torch.autograd.grad(two, x)
    (by_one,) = torch.autograd.grad(one, x)
    (both,) = torch.autograd.grad(fused_ssim(x, y) + fused_ssim(y, x), x)
    assert relative_error(both, by_one + by_two) <= 1e-6


def test_backward_on_another_thread(device):
    import threading

    x, y = images(device)
    expected = torch.autograd.grad(fused_ssim(x, y), (x, y))
    value = fused_ssim(x, y)
    found = []
    worker = threading.Thread(target=lambda: found.extend(torch.autograd.grad(value, (x, y))))
    worker.start()
    worker.join()
    for ours, reference in zip(found, expected, strict=True):
        assert torch.equal(ours, reference)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # torch's own, on first use
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_forward_mode_is_refused_or_right(device, padding):
    x, y = (image.detach() for image in images(device, 1, 1, 20, 20))
    direction = torch.rand_like(x)
    (by_x,) = torch.autograd.grad(fused_ssim(z := leaf(x.clone()), y, padding), z)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, direction)
        try:
            tangent = torch.autograd.forward_ad.unpack_dual(fused_ssim(dual, y, padding)).tangent
        except (RuntimeError, NotImplementedError):
            return
    assert tangent is not None, "the tangent was dropped without a word"
    assert relative_error(tangent, (by_x * direction).sum()) <= 1e-5


def test_batches_of_incoming_gradients(device):
    x, y = (image.to(device) for image in noise_pair(1, 3, 24, 24))
    x.requires_grad_()
    rows = [
        torch.autograd.grad(ssim(x, y, reduction="channel"), x, seed[None])[0]
        for seed in torch.eye(3, device=device)
    ]
    (batch,) = torch.autograd.grad(
        ssim(x, y, reduction="channel"),
        x,
        torch.eye(3, device=device)[:, None],
        is_grads_batched=True,
    )
    assert max_error(batch, torch.stack(rows)) <= 1e-9


@pytest.mark.parametrize("function", [ssim, l1_ssim_loss], ids=["ssim", "l1_ssim_loss"])
def test_tangents_have_the_type_of_the_value(device, function):
    x, y = (image.to(device) for image in noise_pair(1, 3, 24, 24))
    value, tangent = torch.func.jvp(lambda a: function(a, y), (x,), (torch.ones_like(x),))
    assert value.dtype == tangent.dtype == torch.float32


# ---- what training loops switch on --------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@each_function
def test_anomaly_mode(device, function):
    x, y = images(device)
    expected = torch.autograd.grad(function(x, y), (x, y))
    with torch.autograd.detect_anomaly(check_nan=True):
        found = torch.autograd.grad(function(x, y), (x, y))
    for ours, reference in zip(found, expected, strict=True):
        assert torch.equal(ours, reference)


@each_function
def test_deterministic_algorithms(device, function, way):
    x, y = images(device)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (torch.autograd.grad(function(x, y), (x, y)) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    for ours, reference in zip(first, second, strict=True):
        assert torch.equal(ours, reference)


@each_function
def test_another_default_device(device, function, way):
    x, y = images(device)
    expected = function(x, y)
    with torch.device("meta"):  # what torch.set_default_device does, for a while
        found = function(x, y)
        (gradient,) = torch.autograd.grad(found, x)
    assert torch.equal(found, expected)
    assert gradient.device == x.device


class Picture(torch.Tensor):
    """As torchvision and others have them."""


@each_function
def test_subclasses_of_tensor(device, function):
    x, y = images(device)
    expected, (by_x,) = function(x, y), torch.autograd.grad(function(x, y), x)
    picture = x.detach().as_subclass(Picture).requires_grad_()
    found = function(picture, y.detach().as_subclass(Picture))
    (gradient,) = torch.autograd.grad(found, picture)
    assert max_error(found.as_subclass(torch.Tensor), expected) <= 1e-6
    assert relative_error(gradient.as_subclass(torch.Tensor), by_x) <= 1e-6
