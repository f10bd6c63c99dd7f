"""The same bits from run to run, for any number of threads, and from several threads at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from fused_ssim import l1_ssim_loss, ssim
from images import noise_pair
from measure import leaf

SHAPES = [(1, 1, 7, 9), (1, 3, 211, 283), (5, 2, 64, 61), (1, 1, 700, 33), (70, 1, 12, 13)]


def everything(x, y, padding, **window):
    """Every result there is, in one list."""
    results = [ssim(x.detach(), y.detach(), padding=padding, **window)]
    for reduction in ("mean", "sum", "image", "channel", "none"):
        value = ssim(x, y, padding=padding, reduction=reduction, **window)
        results += [value.detach(), *torch.autograd.grad(value.sum(), (x, y))]
    loss = l1_ssim_loss(x, y, padding=padding)
    return [*results, loss.detach(), *torch.autograd.grad(loss, (x, y))]


def images(device, shape, dtype=torch.float32):
    return tuple(leaf(image.to(device).to(dtype)) for image in noise_pair(*shape))


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@pytest.mark.reduced
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_run_to_run(device, shape):
    x, y = images(device, shape)
    first = everything(x, y, "same")
    for _ in range(5):
        assert_same(first, everything(x, y, "same"))
    x, y = (leaf(image.detach().clone()) for image in (x, y))
    assert_same(first, everything(x, y, "same"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_number_of_threads(restore_threads, shape, dtype):
    x, y = images("cpu", shape, dtype)
    for padding in ("same", "valid") if min(shape[2:]) >= 11 else ("same",):
        torch.set_num_threads(1)
        reference = everything(x, y, padding)
        for threads in (2, 3, 4, 8):
            torch.set_num_threads(threads)
            assert torch.get_num_threads() == threads
            assert_same(reference, everything(x, y, padding))


def test_any_number_of_threads_other_window(restore_threads):
    x, y = images("cpu", (1, 2, 211, 97))
    torch.set_num_threads(1)
    reference = everything(x, y, "same", window_size=17, sigma=3.0)
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        assert_same(reference, everything(x, y, "same", window_size=17, sigma=3.0))


def test_a_plane_does_not_see_its_neighbours(device):
    # The same plane alone and in a batch: the same bits, so results don't hang on the batch size.
    x, y = (image.detach() for image in images(device, (3, 2, 75, 61)))
    together = ssim(x, y, reduction="channel")
    values = ssim(x, y, reduction="none")
    for image in range(3):
        for channel in range(2):
            a = x[image : image + 1, channel : channel + 1]
            b = y[image : image + 1, channel : channel + 1]
            assert torch.equal(ssim(a, b, reduction="channel")[0, 0], together[image, channel])
            assert torch.equal(ssim(a, b, reduction="none")[0, 0], values[image, channel])


def test_several_callers_at_once(device):
    pairs = [images(device, shape) for shape in SHAPES]
    expected = [everything(x, y, "same") for x, y in pairs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            found = list(pool.map(lambda pair: everything(*pair, "same"), pairs))
            for ours, reference in zip(found, expected, strict=True):
                assert_same(ours, reference)


class _Scores(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        x, y = noise_pair(1, 3, 90, 80, seed=index)
        return ssim(x, y)


def test_in_data_loader_workers():
    # Forked after this process has used its threads, which do not survive a fork.
    expected = torch.stack([_Scores()[index] for index in range(4)])
    loader = DataLoader(
        _Scores(), batch_size=4, num_workers=1, multiprocessing_context="fork", timeout=60
    )
    (found,) = loader
    assert torch.equal(found, expected)
