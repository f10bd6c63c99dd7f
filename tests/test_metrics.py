"""The metrics beside torchmetrics' own."""

from __future__ import annotations

import inspect
import pickle
from concurrent.futures import ThreadPoolExecutor

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import pytorch_lightning as lightning
import torch
import torchmetrics
import torchmetrics.image as peer

from fused_ssim import metrics as ours
from images import noise_pair, pair
from measure import leaf, max_error, relative_error, run_python

SSIM = "StructuralSimilarityIndexMeasure"
MS_SSIM = "MultiScaleStructuralSimilarityIndexMeasure"
IMAGES = {
    "noise": noise_pair(2, 2, 177, 181),
    "photograph": tuple(image[..., :180, :190] for image in pair("photo_blur")),
    "volume": noise_pair(1, 1, 12, 16, 19),
}


def check(name, images, **arguments):
    """Values and gradients of `forward`, ours of float32 images and theirs in float64."""
    results = []
    for package, dtype in ((ours, torch.float32), (peer, torch.float64)):
        metric = getattr(package, name)(**arguments)
        x, y = (leaf(image.to(dtype, copy=True)) for image in images)
        values = metric(x, y)
        values = (values,) if torch.is_tensor(values) else values
        gradients = torch.autograd.grad(sum(value.sum() for value in values), (x, y))
        results.append((values, gradients, metric.compute()))
    (values, gradients, total), (expected, expected_gradients, expected_total) = results
    for found, wanted in zip(values, expected, strict=True):
        assert max_error(found, wanted) <= (2e-5 if found.dim() > 1 else 1e-5)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        assert relative_error(found, wanted) <= 1e-4
    if torch.is_tensor(total):
        assert max_error(total, expected_total) <= 1e-5


def test_signatures_and_flags():
    for name in (SSIM, MS_SSIM):
        mine, theirs = getattr(ours, name), getattr(peer, name)
        of_mine, of_theirs = (inspect.signature(kind).parameters for kind in (mine, theirs))
        assert list(of_mine) == list(of_theirs)
        assert [p.default for p in of_mine.values()] == [p.default for p in of_theirs.values()]
        for flag in ("is_differentiable", "higher_is_better", "full_state_update"):
            assert getattr(mine, flag) == getattr(theirs, flag)
        assert mine.plot_lower_bound == theirs.plot_lower_bound
        assert mine.plot_upper_bound == theirs.plot_upper_bound


# The photograph's pixels are multiples of 1 / 255: at a bound that is one of them the derivative of
# a clamp depends on how it was rounded.
SHARED = [
    {},
    {"data_range": 1.0, "reduction": None},
    {"data_range": (0.301, 0.701), "reduction": "none"},
    {"reduction": "sum", "sigma": 1.0, "k1": 0.02, "k2": 0.05, "data_range": 2.0},
    {"gaussian_kernel": False, "kernel_size": 7},
]


@pytest.mark.parametrize("arguments", SHARED)
@pytest.mark.parametrize("images", IMAGES)
def test_ssim(images, arguments):
    check(SSIM, IMAGES[images], **arguments)


@pytest.mark.parametrize("images", ["noise", "photograph"])
@pytest.mark.parametrize(
    "arguments",
    [
        *SHARED,
        {"normalize": "simple"},
        {"normalize": None, "data_range": 1.0},
        {"betas": (0.3, 0.7), "data_range": 1.0},
    ],
)
def test_ms_ssim(images, arguments):
    check(MS_SSIM, IMAGES[images], **arguments)


@pytest.mark.parametrize(
    ("images", "arguments"),
    [
        ("noise", {"sigma": (1.5, 0.8)}),
        ("noise", {"gaussian_kernel": False, "kernel_size": [5, 9]}),
        ("volume", {"sigma": [0.8, 1.0, 1.2]}),
        ("noise", {"return_full_image": True}),
        ("photograph", {"return_full_image": True, "data_range": 1.0}),
        ("volume", {"return_contrast_sensitivity": True, "reduction": None}),
    ],
)
def test_axes_and_what_is_returned(images, arguments):
    check(SSIM, IMAGES[images], **arguments)


BATCHES = [noise_pair(2, 3, 40, 50), noise_pair(1, 3, 30, 41), noise_pair(3, 1, 25, 25, seed=1)]


@pytest.mark.parametrize("reduction", ["elementwise_mean", "sum", None])
def test_batches_of_different_sizes(reduction):
    mine, theirs = (
        getattr(package, SSIM)(data_range=1.0, reduction=reduction) for package in (ours, peer)
    )
    for i, (x, y) in enumerate(BATCHES):
        for metric, dtype in ((mine, torch.float32), (theirs, torch.float64)):
            (metric.update if i % 2 else metric)(x.to(dtype), y.to(dtype))
    assert max_error(mine.compute(), theirs.compute()) <= 1e-5
    assert max_error(pickle.loads(pickle.dumps(mine)).compute(), theirs.compute()) <= 1e-5
    mine.reset()
    mine.update(*BATCHES[0])
    theirs.reset()
    theirs.update(*BATCHES[0])
    assert max_error(mine.compute(), theirs.compute()) <= 1e-5


@pytest.mark.parametrize("reduction", ["elementwise_mean", None])
def test_states_keep_no_graph_and_do_not_grow(reduction):
    metric = ours.StructuralSimilarityIndexMeasure(data_range=1.0, reduction=reduction)
    x, y = (leaf(image.clone()) for image in BATCHES[0])
    for _ in range(3):
        assert metric(x, y).requires_grad
    tensors = [metric._forward_cache]
    for state in metric.metric_state.values():
        tensors += state if isinstance(state, list) else [state]
    assert not any(tensor.requires_grad for tensor in tensors)
    assert sum(tensor.numel() for tensor in tensors) == (3 if reduction else 2 + 6 + 1)


@pytest.mark.parametrize("data_range", [1.0, (0.2, 0.8)])
def test_ssim_and_psnr(data_range):
    both = ours.StructuralSimilarityAndPeakSignalNoiseRatio(data_range)
    apart = [
        peer.StructuralSimilarityIndexMeasure(data_range=data_range),
        peer.PeakSignalNoiseRatio(data_range=data_range),
    ]
    for x, y in BATCHES:
        both.update(leaf(x.clone()), y)
        for metric in apart:
            metric.update(x.double(), y.double())
    ssim, psnr = (metric.compute() for metric in apart)
    found = both.compute()
    assert max_error(found["ssim"], ssim) <= 1e-5
    assert max_error(found["psnr"], psnr) <= 1e-4
    both.reset()
    assert both(x, x) == {"ssim": 1.0, "psnr": torch.inf}


def test_collections():
    metrics = torchmetrics.MetricCollection(
        [
            ours.MultiScaleStructuralSimilarityIndexMeasure(data_range=1.0),
            ours.StructuralSimilarityAndPeakSignalNoiseRatio(1.0),
        ]
    )
    metrics(*IMAGES["noise"])
    assert set(metrics.compute()) == {MS_SSIM, "ssim", "psnr"}


def test_a_collection_with_metrics_of_torchmetrics():
    """Which shares the states of metrics whose states are found equal."""
    alike, other = {"data_range": 1.0}, {"data_range": 1.0, "gaussian_kernel": False}
    metrics = torchmetrics.MetricCollection(
        {
            f"{name} {of}": getattr(package, SSIM)(**arguments)
            for name, package in (("ours", ours), ("theirs", peer))
            for of, arguments in (("alike", alike), ("other", other))
        },
        prefix="val/",
    ).clone()
    apart = {of: getattr(peer, SSIM)(**given) for of, given in (("alike", alike), ("other", other))}
    for x, y in BATCHES:
        metrics.update(x, y)
        for metric in apart.values():
            metric.update(x, y)
    found = metrics.compute()
    for of, metric in apart.items():
        for name in ("ours", "theirs"):
            assert max_error(found[f"val/{name} {of}"], metric.compute()) <= 1e-5
    assert apart["alike"].compute() != apart["other"].compute()


class Brighten(lightning.LightningModule):
    """Learns a factor, and logs metrics as Lightning's documentation shows."""

    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(0.5))
        self.training_ssim = ours.StructuralSimilarityIndexMeasure(data_range=1.0)
        self.ssim = ours.StructuralSimilarityIndexMeasure(data_range=1.0)
        self.collection = torchmetrics.MetricCollection(
            {
                "uniform": ours.StructuralSimilarityIndexMeasure(
                    data_range=1.0, gaussian_kernel=False
                ),
                "peer": peer.StructuralSimilarityIndexMeasure(data_range=1.0),
            }
        )
        self.both = ours.StructuralSimilarityAndPeakSignalNoiseRatio(1.0)
        self.of_epochs = []

    def training_step(self, batch):
        x, y = batch
        self.training_ssim(self.factor * x, y)
        self.log("training", self.training_ssim, on_step=False, on_epoch=True)
        return (self.factor * x - y).square().mean()

    def validation_step(self, batch):
        x, y = batch
        for metric in (self.ssim, self.collection, self.both):
            metric.update(self.factor * x, y)
        self.log("ssim", self.ssim)
        self.log_dict(self.collection)

    def on_validation_epoch_end(self):
        self.log_dict({f"both_{name}": value for name, value in self.both.compute().items()})
        self.both.reset()

    def on_train_epoch_end(self):
        self.of_epochs.append(
            {name: float(value) for name, value in self.trainer.callback_metrics.items()}
            | {"factor": float(self.factor)}
        )

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.2)


@pytest.mark.filterwarnings("ignore")  # what Lightning and torch say of each other
def test_lightning(tmp_path):
    batches = torch.utils.data.DataLoader(BATCHES, batch_size=None)
    model = Brighten()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=2,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(model, batches, batches)
    assert len(model.of_epochs) == 2
    for found in model.of_epochs:
        metric = ours.StructuralSimilarityIndexMeasure(data_range=1.0)
        psnr = peer.PeakSignalNoiseRatio(data_range=1.0)
        for x, y in BATCHES:
            metric.update(found["factor"] * x, y)
            psnr.update(found["factor"] * x, y)
        for name in ("ssim", "both_ssim", "peer"):
            assert abs(found[name] - float(metric.compute())) <= 1e-5
        assert abs(found["both_psnr"] - float(psnr.compute())) <= 1e-4
    first, second = model.of_epochs
    for name in ("training", "ssim", "uniform"):
        assert first[name] < second[name]


def test_plots():
    matplotlib.use("agg")
    for metric in (
        ours.StructuralSimilarityIndexMeasure(data_range=1.0),
        ours.StructuralSimilarityAndPeakSignalNoiseRatio(1.0),
    ):
        value = metric(*BATCHES[0])
        _, axes = metric.plot()
        heights = [line.get_ydata()[0] for line in axes.get_lines()]
        for number in value.values() if isinstance(value, dict) else (value,):
            assert float(number) in heights
        _, axes = metric.plot([metric(*images) for images in BATCHES])
        assert max(len(line.get_ydata()) for line in axes.get_lines()) == len(BATCHES)
        plt.close("all")


def test_pixels_of_other_types():
    levels = [(255 * image).round() for image in BATCHES[0]]
    expected = peer.StructuralSimilarityIndexMeasure(data_range=255.0)(*levels)
    bytes_ = [image.to(torch.uint8) for image in levels]
    for images in (bytes_, [bytes_[0], levels[1]], [image.half() for image in levels]):
        metric = ours.StructuralSimilarityIndexMeasure(data_range=255.0)
        assert max_error(metric(*images), expected) <= 1e-5
    found = ours.StructuralSimilarityIndexMeasure()(*bytes_)
    assert max_error(found, peer.StructuralSimilarityIndexMeasure()(*levels)) <= 1e-5


@pytest.mark.parametrize("name", [SSIM, MS_SSIM])
def test_bytes_and_ranges(name):
    levels = [(255 * image).round().clamp(0, 255) for image in noise_pair(1, 2, 177, 181)]
    bytes_ = [image.to(torch.uint8) for image in levels]
    for data_range, images in (
        ((0, 1), [image / 255 for image in levels]),
        ((0.0, 1.0), [image / 255 for image in levels]),
        ((0.0, 255.0), levels),
        (np.float64(1.0), [image / 255 for image in levels]),
        (np.int64(255), levels),
    ):
        given = data_range if isinstance(data_range, tuple) else float(data_range)
        expected = getattr(peer, name)(data_range=given)(*images)
        assert max_error(getattr(ours, name)(data_range=data_range)(*bytes_), expected) <= 1e-5
    with pytest.raises(ValueError, match=r"expected \(0, 1\) or \(0, 255\) for uint8"):
        getattr(ours, name)(data_range=(10.0, 200.0))(*bytes_)


@pytest.mark.parametrize("name", [SSIM, MS_SSIM])
def test_gradient_of_a_range_that_both_images_have(name):
    images = [image.clamp(0.2, 0.8) for image in noise_pair(1, 2, 177, 181)]
    assert images[0].max() - images[0].min() == images[1].max() - images[1].min()
    check(name, images)


def test_every_rank_computes_the_same(tmp_path):
    code = (
        "import sys, torch, torch.distributed as dist\n"
        "from fused_ssim import metrics\nfrom images import noise_pair\n"
        "rank = int(sys.argv[1])\n"
        "dist.init_process_group('gloo', init_method=sys.argv[2], rank=rank, world_size=2)\n"
        "for metric in (metrics.StructuralSimilarityIndexMeasure(data_range=1.0),\n"
        "               metrics.StructuralSimilarityIndexMeasure(data_range=1.0, reduction=None),\n"
        "               metrics.StructuralSimilarityAndPeakSignalNoiseRatio(1.0)):\n"
        "    for i in range(1 + rank):\n"
        "        metric.update(*noise_pair(2 + i, 1, 20 + rank, 30, seed=rank + i))\n"
        "    print(metric.compute())\n"
        "dist.destroy_process_group()\n"
    )
    address = f"file://{tmp_path}/rendezvous"
    with ThreadPoolExecutor(2) as pool:
        printed = pool.map(lambda rank: run_python(code, rank, address), ("0", "1"))
    # Gloo of torch 2.9 prints, too.
    first, second = (
        [line for line in text.splitlines() if not line.startswith("[Gloo]")] for text in printed
    )
    assert first == second
    metric = ours.StructuralSimilarityIndexMeasure(data_range=1.0)
    for rank in (0, 1):
        for i in range(1 + rank):
            metric.update(*noise_pair(2 + i, 1, 20 + rank, 30, seed=rank + i))
    assert first[0] == str(metric.compute())


REFUSED = [
    (SSIM, {"reduction": "mean"}, None),
    (SSIM, {"return_full_image": True, "return_contrast_sensitivity": True}, (1, 3, 20, 20)),
    (SSIM, {"kernel_size": 8}, (1, 3, 20, 20)),
    (SSIM, {"kernel_size": (11, 11, 11)}, (1, 3, 20, 20)),
    (SSIM, {"sigma": 0.0}, (1, 3, 20, 20)),
    (SSIM, {"sigma": (1.5, 1.5)}, (1, 1, 20, 20, 20)),
    (SSIM, {}, (3, 20, 20)),
    (MS_SSIM, {"kernel_size": (11,)}, None),
    (MS_SSIM, {"kernel_size": 11.0}, None),
    (MS_SSIM, {"betas": [0.5, 0.5]}, None),
    (MS_SSIM, {"betas": (1, 0.5)}, None),
    (MS_SSIM, {"normalize": "clip"}, None),
    (MS_SSIM, {}, (1, 3, 175, 180)),
    (MS_SSIM, {}, (1, 3, 180, 175)),
    (MS_SSIM, {"kernel_size": 3, "betas": (0.1,) * 6}, (1, 3, 63, 80)),
]


@pytest.mark.parametrize(("name", "arguments", "shape"), REFUSED)
def test_what_torchmetrics_refuses_is_refused_alike(name, arguments, shape):
    def use(package):
        metric = getattr(package, name)(data_range=1.0, **arguments)
        if shape is not None:
            metric.update(torch.zeros(shape), torch.zeros(shape))

    with pytest.raises(ValueError, match=r".+"):
        use(peer)
    with pytest.raises(ValueError, match=r"expected .*, got .*; "):
        use(ours)


def test_other_refusals():
    x = torch.zeros(1, 1, 20, 20)
    for package in (peer, ours):
        with pytest.raises(RuntimeError, match="shape"):
            package.StructuralSimilarityIndexMeasure().update(x, x[..., 1:])
        with pytest.raises(RuntimeError):  # the reflected border is wider than the image
            package.StructuralSimilarityIndexMeasure().update(x[..., :4], x[..., :4])
    with pytest.raises(ValueError, match="data_range: expected a number or a tuple, got None"):
        ours.StructuralSimilarityAndPeakSignalNoiseRatio(None)


def test_without_torchmetrics():
    printed = run_python(
        "import sys\nsys.modules['torchmetrics'] = None\n"
        "try:\n    import fused_ssim.metrics\n"
        "except ImportError as error:\n    print(error)"
    )
    assert 'pip install "fused-ssim[metrics]"' in printed
