"""The programs in examples/python: their formulas by plain torch operations, and that they work."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from skimage.metrics import structural_similarity
from torch.nn import functional

from fused_ssim import ssim
from images import noise_pair, photograph
from measure import leaf, max_error, relative_error

EXAMPLES = Path(__file__).parents[1] / "examples" / "python"


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain_photometric_error(prediction, target):
    """With average pooling of reflected images, as Monodepth2 computes it."""
    x, y = (functional.pad(image, (1, 1, 1, 1), mode="reflect") for image in (prediction, target))

    def mean(image):
        return functional.avg_pool2d(image, 3, 1)

    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    dissimilarity = ((1 - similarity) / 2).clamp(0, 1).mean(1, keepdim=True)
    return 0.85 * dissimilarity + 0.15 * (prediction - target).abs().mean(1, keepdim=True)


def neighbours():
    target = photograph("chelsea")[..., 50:147, 60:191]
    return target, [target.roll(shift, -1) * 0.9 + 0.05 for shift in (-2, 1, 5)]


def test_photometric_error(device):
    target, images = neighbours()
    module = load("photometric")
    for image in images:
        expected = plain_photometric_error(image.double(), target.double())
        error = module.photometric_error(image.to(device), target.to(device))
        assert error.shape == (1, 1, 97, 131)
        assert max_error(error, expected) <= 1e-5


def test_gradients_of_the_smallest_of_several_errors(device):
    target, images = neighbours()
    ours = [leaf(image.to(device)) for image in images]
    exact = [leaf(image.double()) for image in images]
    loss = load("photometric").reprojection_loss(ours, target.to(device))
    errors = [plain_photometric_error(image, target.double()) for image in exact]
    expected = torch.cat(errors, 1).amin(1).mean()
    assert max_error(loss, expected) <= 1e-6
    loss.backward()
    expected.backward()
    for image, truth in zip(ours, exact, strict=True):
        assert relative_error(image.grad, truth.grad) <= 1e-3  # which is smallest may be a tie


def test_photometric_error_finds_a_wall():
    true, found, _ = load("photometric").fit_wall()
    assert found.tolist() == pytest.approx(true.tolist(), abs=0.1)


def test_tiles_add_up_to_the_whole(device):
    tiles = load("tiles")
    x, y = (leaf(image.to(device)) for image in noise_pair(2, 3, 41, 52))
    whole = ssim(x, y, padding="valid")
    expected = torch.autograd.grad(whole, (x, y))
    total = 0.0
    for rows in tiles.spans(41, 3):
        for columns in tiles.spans(52, 2):
            part = tiles.share(x[..., rows, columns], y[..., rows, columns], x.shape)
            part.backward()
            total += part.item()
    assert abs(total - whole.item()) <= 1e-6
    for image, reference in zip((x, y), expected, strict=True):
        assert relative_error(image.grad, reference) <= 1e-5


def test_gaussians_fit_a_photograph():
    module = load("gaussians")
    scores, frames = module.fit(module.photograph(48), 150, 40)
    (_, psnr_before, ssim_before), (_, psnr_after, ssim_after) = scores[0], scores[-1]
    assert psnr_after > psnr_before + 10
    assert ssim_before < 0.1
    assert ssim_after > 0.7
    assert frames[-1].shape == (48, 48, 3)


def test_a_splat_is_a_gaussian():
    module = load("gaussians")
    splats = module.Splats(1, 24, 32)
    with torch.no_grad():
        splats.place.copy_(torch.tensor([[11.3, 14.8]]))
        splats.angle.fill_(0.4)
        splats.scale.copy_(torch.tensor([[-2.0, -1.0]]))
        image = splats()
    sigma = 0.4 + module.RADIUS / 3 * torch.sigmoid(splats.scale.detach())[0]
    y, x = torch.meshgrid(torch.arange(24.0) - 11.3, torch.arange(32.0) - 14.8, indexing="ij")
    cos, sin = math.cos(0.4), math.sin(0.4)
    powers = ((cos * y + sin * x) / sigma[0]) ** 2 + ((cos * x - sin * y) / sigma[1]) ** 2
    expected = 0.1 * torch.exp(-0.5 * powers)
    inside = (y.abs() < module.RADIUS - 1) & (x.abs() < module.RADIUS - 1)
    assert max_error(image[0, 0][inside], expected[inside]) <= 1e-6


def test_super_resolution_beats_bicubic():
    module = load("super_resolution")
    network = module.train(module.photograph("astronaut"), 60)
    truth = module.photograph("chelsea")[..., :160, :160]
    small = module.shrunk(truth)
    with torch.no_grad():
        ours, plain = (module.score(f(small), truth) for f in (network, module.bicubic))
    assert ours[0] > plain[0]
    assert ours[1] > plain[1]


def test_super_resolution_scores_as_papers_do():
    module = load("super_resolution")
    truth = module.photograph("coffee")[..., :120, :150]
    image = module.bicubic(module.shrunk(truth))
    x, y = (
        (65.481 * each[0, 0] + 128.553 * each[0, 1] + 24.966 * each[0, 2] + 16).round()[2:-2, 2:-2]
        for each in (image.clamp(0, 1).double(), truth.double())
    )
    psnr = 10 * math.log10(255**2 / (x - y).square().mean())
    similarity = structural_similarity(
        x.numpy(),
        y.numpy(),
        data_range=255,
        gaussian_weights=True,
        use_sample_covariance=False,
    )
    # A pixel that float32 rounds to another whole number is all that may differ.
    assert module.score(image, truth) == pytest.approx((psnr, similarity), abs=2e-4)


def test_magnetic_resonance_is_reconstructed():
    module = load("mri")
    network = module.train(40, side=48)
    truth = module.phantoms(4, 48, torch.Generator().manual_seed(7))
    scan = module.fast_scan(truth)
    with torch.no_grad():
        before, after = (module.similarity(image, truth) for image in (scan, network(scan)))
    assert after.mean() > before.mean() + 0.02


def test_volumes_are_registered():
    module = load("volumes")
    volume, reference, motion = module.noisy_pair(24)
    found, history = module.register(volume, reference, 60)
    assert max_error(found, motion) <= 0.02
    assert history[-1] > history[0] + 0.1


def test_an_autoencoder_learns_by_ms_ssim():
    module = load("autoencoder")
    _, history = module.train(module.mixture, 40, batch=4)
    assert sum(history[-5:]) < 0.8 * sum(history[:5])
