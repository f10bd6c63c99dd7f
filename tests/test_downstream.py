"""The calls of programs that use the original package today: they must work unchanged."""

from __future__ import annotations

import inspect
from functools import partial

import pytest
import torch

import fused_ssim as package
import oracle
from fused_ssim import FusedSSIMMap, allowed_padding, fused_ssim
from images import noise_pair, pair
from measure import leaf, max_error, relative_error


@pytest.fixture
def render(device):
    """A rendering and its ground truth, [3, H, W], as Gaussian splatting has them."""
    x, y = (image[0].to(device) for image in pair("photo_noise"))
    return leaf(x.clone()), y


def test_signature():
    assert str(inspect.signature(fused_ssim)).replace("'", '"').count("padding") == 1
    parameters = inspect.signature(fused_ssim).parameters
    assert list(parameters) == ["img1", "img2", "padding", "train"]
    assert parameters["padding"].default == "same"
    assert parameters["train"].default is True
    assert "same" in allowed_padding
    assert "valid" in allowed_padding


def test_gaussian_splatting(render):
    image, gt = render
    l1 = (image - gt).abs().mean()
    loss = 0.8 * l1 + 0.2 * (1.0 - fused_ssim(image.unsqueeze(0), gt.unsqueeze(0)))
    loss.backward()
    truth, _ = oracle.gradients(lambda a, b: oracle.l1_ssim_loss(a[None], b[None]), image, gt)
    assert relative_error(image.grad, truth) <= 1e-4


def test_gsplat(render):
    # [B, H, W, C] pictures, permuted.
    image, gt = (picture.detach().permute(1, 2, 0)[None].contiguous() for picture in render)
    image.requires_grad_()
    loss = 1 - fused_ssim(image.permute(0, 3, 1, 2), gt.permute(0, 3, 1, 2), padding="valid")
    loss.backward()
    assert image.grad.shape == image.shape
    truth, _ = oracle.gradients(
        lambda a, b: 1 - oracle.ssim(a.permute(0, 3, 1, 2), b.permute(0, 3, 1, 2), padding="valid"),
        image,
        gt,
    )
    assert (
        max_error(
            loss,
            1
            - oracle.ssim(
                image.detach().permute(0, 3, 1, 2), gt.permute(0, 3, 1, 2), padding="valid"
            ),
        )
        <= 1e-6
    )
    assert relative_error(image.grad, truth) <= 1e-4


def test_partial_on_channels_last(render):
    image, gt = (
        picture.detach()[None].contiguous(memory_format=torch.channels_last) for picture in render
    )
    function = partial(fused_ssim, padding="valid")
    image.requires_grad_()
    value = function(image, gt)
    value.backward()
    assert max_error(value, oracle.ssim(image.detach(), gt, padding="valid")) <= 1e-6
    assert image.grad.is_contiguous(memory_format=torch.channels_last)


def test_through_the_package(render):
    image, gt = (picture.detach()[None] for picture in render)
    assert torch.equal(package.fused_ssim(image, gt), fused_ssim(image, gt))


def test_one_channel(device):
    x, y = (image.to(device) for image in noise_pair(4, 1, 30, 40))
    assert max_error(fused_ssim(x, y), oracle.ssim(x, y)) <= 1e-6


def test_map_with_six_and_seven_arguments(render):
    image, gt = (picture.detach()[None] for picture in render)
    for arguments in (("same", True), ("same", True, 2)):
        values = FusedSSIMMap.apply(0.01**2, 0.03**2, image, gt, *arguments)
        values = values.mean(1, keepdim=True)
        assert values.shape == (1, 1, *image.shape[2:])
        expected = oracle.ssim_map(image, gt).mean(1, keepdim=True)
        assert max_error(values, expected) <= 1e-4


def test_prediction_second(render):
    # nerfstudio: ssim(gt, prediction).
    image, gt = render
    loss = 1 - fused_ssim(gt[None], image[None])
    loss.backward()
    _, truth = oracle.gradients(lambda a, b: 1 - oracle.ssim(a[None], b[None]), gt, image)
    assert relative_error(image.grad, truth) <= 1e-4


def test_evaluation(render):
    image, gt = render
    with torch.no_grad():
        value = fused_ssim(image[None], gt[None], train=False).item()
    assert abs(value - oracle.ssim(image.detach()[None], gt[None]).item()) <= 1e-6
    assert isinstance(fused_ssim(image[None], gt[None], train=False).mean().double().item(), float)


def test_keywords(render):
    image, gt = (picture.detach()[None] for picture in render)
    by_name = fused_ssim(img1=image, img2=gt, padding="same", train=True)
    assert torch.equal(by_name, fused_ssim(image, gt))


def test_assertion_error_of_a_bad_padding(render):
    image, gt = (picture.detach()[None] for picture in render)
    with pytest.raises(AssertionError):
        fused_ssim(image, gt, padding="full")


def test_parameter_subclass(render):
    image, gt = (picture.detach()[None] for picture in render)
    parameter = torch.nn.Parameter(image.clone())
    fused_ssim(parameter, gt).backward()
    assert parameter.grad.abs().max() > 0
    assert type(fused_ssim(parameter, gt)) is torch.Tensor
