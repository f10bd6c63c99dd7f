"""Metrics, windows, borders, channels and masks of the command line, against other ways to them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import fused_ssim
from commandline import (
    CAMERA,
    COFFEE,
    call,
    fails,
    pixels,
    read_tensor,
    save,
    write_coffee,
)
from fused_ssim.cli.measure import measure
from fused_ssim.cli.settings import METRICS, Settings
from measure import run_python


@pytest.fixture
def coffee(tmp_path):
    return write_coffee(tmp_path)


@pytest.fixture
def tensors(coffee):
    return tuple(read_tensor(path)[None].double() for path in coffee)


def report(capsys, *arguments):
    return json.loads(call(capsys, "compare", *arguments, "--json"))


@pytest.mark.parametrize("padding", ["same", "valid", "reflect", "replicate"])
@pytest.mark.parametrize(
    ("options", "window"),
    [
        ((), {}),
        (("--window", "uniform", "--window-size", 7), {"window": "uniform", "window_size": 7}),
        (("--window", "0.25,0.5,0.25"), {"window": [0.25, 0.5, 0.25]}),
        (("--window-size", 5, "--sigma", 0.8), {"window_size": 5, "sigma": 0.8}),
    ],
)
def test_metrics_are_those_of_the_functions(capsys, coffee, tensors, padding, options, window):
    found = report(capsys, *coffee, "--metric", "ssim,psnr,l1-ssim", "--padding", padding, *options)
    a, b = tensors
    ssim = fused_ssim.ssim(a, b, padding=padding, reduction="channel", **window)[0]
    assert found["ssim"] == pytest.approx(ssim.mean().item(), abs=1e-6)
    assert list(found["ssim_per_channel"].values()) == pytest.approx(ssim.tolist(), abs=1e-6)
    # PSNR is of all pixels, with every padding.
    assert found["psnr_db"] == pytest.approx(-10 * (a - b).square().mean().log10().item(), abs=1e-4)
    if not window and padding in ("same", "valid"):
        loss = fused_ssim.l1_ssim_loss(a, b, padding=padding).item()
        assert found["l1_ssim"] == pytest.approx(loss, abs=1e-6)


def test_ms_ssim_is_valid_unless_told_otherwise(capsys, coffee, tensors, tmp_path):
    options = (*coffee, "--metric", "ms-ssim,ssim")
    page = tmp_path / "report.html"
    for more, paddings, words in (
        ((), ("same", "valid"), "padding same (valid for MS-SSIM)"),
        (("--padding", "reflect"), ("reflect", "reflect"), "padding reflect"),
    ):
        found = report(capsys, *options, *more)
        settings = found["settings"]
        assert (settings["padding"], settings["ms_ssim_padding"]) == paddings
        a, b = tensors
        expected = fused_ssim.ssim(a, b, padding=paddings[0]).item()
        assert found["ssim"] == pytest.approx(expected, abs=1e-6)
        expected = fused_ssim.ms_ssim(a, b, padding=paddings[1]).item()
        assert found["ms_ssim"] == pytest.approx(expected, abs=1e-5)
        text = call(capsys, "compare", *options, *more, "--html", page)
        assert f"sigma 1.5, {words}\n" in text
        assert f"sigma 1.5, {words}<" in page.read_text()
    text = call(capsys, "compare", *coffee, "--metric", "ms-ssim,psnr")
    assert "sigma 1.5, padding valid\n" in text
    text = call(capsys, "compare", *options)
    assert f"MS-SSIM {report(capsys, *options)['ms_ssim']:.6f}" in text


@pytest.mark.parametrize(
    ("channels", "weights", "black"),
    [("y", (65.481, 128.553, 24.966), 16.0), ("y-full", (76.245, 149.685, 29.07), 0.0)],
)
def test_luma_with_a_cropped_border(capsys, coffee, tensors, channels, weights, black):
    found = report(
        capsys, *coffee, "--channels", channels, "--crop-border", 4, "--padding", "valid"
    )
    a, b = (
        (torch.tensordot(torch.tensor(weights).double(), image[0], 1) + black)[4:-4, 4:-4] / 255
        for image in tensors
    )
    expected = fused_ssim.ssim(a[None, None], b[None, None], padding="valid").item()
    assert found["ssim"] == pytest.approx(expected, abs=1e-6)
    assert found["psnr_db"] == pytest.approx(-10 * (a - b).square().mean().log10().item(), abs=1e-4)
    assert "ssim_per_channel" not in found


def test_luma_of_gray_is_that_of_three_equal_channels():
    gray = pixels(CAMERA)
    spoiled = np.clip(gray + 0.1, 0, 1)
    for channels in ("y", "y-full"):
        settings = Settings(channels=channels)
        one = measure(gray, spoiled, settings)
        three = measure(np.repeat(gray, 3, axis=2), np.repeat(spoiled, 3, axis=2), settings)
        assert one.values == three.values


def test_rgb_reports_the_mean_alone(capsys, coffee):
    found = report(capsys, *coffee, "--channels", "rgb")
    assert found["ssim"] == report(capsys, *coffee)["ssim"]
    assert "ssim_per_channel" not in found


def test_mask_weighs_pixels(capsys, coffee, tensors, tmp_path):
    mask = torch.zeros(1, 400, 600)
    mask[:, 50:150, 100:300] = 1.0
    mask[:, 200:250, 100:300] = 0.2
    path = save(mask, tmp_path / "mask.png")
    found = report(capsys, *coffee, "--mask", path, "--metric", "ssim,psnr,l1-ssim")
    a, b = tensors
    weights = mask[None].double()
    assert found["ssim"] == pytest.approx(fused_ssim.ssim(a, b, mask=weights).item(), abs=1e-6)
    mse = ((a - b).square().mean(dim=1, keepdim=True) * weights).sum() / weights.sum()
    assert found["psnr_db"] == pytest.approx(-10 * mse.log10().item(), abs=1e-4)
    loss = fused_ssim.l1_ssim_loss(a, b, mask=weights).item()
    assert found["l1_ssim"] == pytest.approx(loss, abs=1e-6)
    assert found["settings"]["mask"] == str(path)


def test_bad_masks(capsys, coffee, tmp_path):
    small = save(CAMERA, tmp_path / "small.png")
    assert "the mask must have the images' size" in fails(
        capsys, "compare", *coffee, "--mask", small
    )
    assert "this one has colours" in fails(capsys, "compare", *coffee, "--mask", coffee[0])
    black = save(torch.zeros(1, 400, 600), tmp_path / "black.png")
    assert "the mask is black" in fails(capsys, "compare", *coffee, "--mask", black)
    border = torch.ones(1, 400, 600)
    border[:, 5:-5, 5:-5] = 0
    options = ("--mask", save(border, tmp_path / "border.png"), "--metric", "ssim")
    call(capsys, "compare", *coffee, *options)
    line = fails(capsys, "compare", *coffee, *options, "--padding", "valid")
    assert "the mask is black where windows are" in line
    tiny = [save(torch.full((1, 6, 9), value), tmp_path / f"{value}.png") for value in (0.2, 0.4)]
    line = fails(capsys, "compare", *tiny, "--mask", tiny[0], "--padding", "valid")
    assert "the mask" not in line
    line = fails(capsys, "compare", *coffee, "--mask", black, "--metric", "ms-ssim")
    assert "--mask does not go with --metric ms-ssim" in line


@pytest.mark.parametrize("padding", ["same", "valid", "reflect"])
def test_uint8_and_float_images_give_the_same_numbers(padding):
    a, b = (np.rint(pixels(image) * 255).astype(np.uint8) for image in (COFFEE, COFFEE.flip(-1)))
    settings = Settings(metrics=("ssim", "psnr", "l1-ssim"), padding=padding)
    bytes_found = measure(a, b, settings)
    floats_found = measure(a / np.float32(255), b / np.float32(255), settings)
    for metric in settings.metrics:
        expected = floats_found.values[metric]
        assert bytes_found.values[metric] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--metric", "ssim,vmaf"), "expected ssim, ms-ssim, psnr, l1-ssim, got 'vmaf'"),
        (("--window", "box"), "expected gaussian, uniform or taps by commas, got 'box'"),
        (("--window", "0.5,x"), "expected a number, got 'x'"),
        (
            ("--window", "0.5,0.5"),
            "--window: expected an odd number of taps, got 2; add a tap of 0",
        ),
        (
            ("--window", "1,2,1"),
            "--window: expected taps that sum to 1, got a sum of 4; divide them",
        ),
        (("--window", "0.25,0.5,0.250002"), "got a sum of 1.000002; divide them by it"),
        (("--window=-0.5,1,0.5",), "--window: expected finite taps that are not negative"),
        (("--window", "0,nan,1"), "--window: expected finite taps that are not negative"),
        (("--crop-border", "-1"), "expected at least 0"),
        (("--crop-border", "200"), "nothing left within --crop-border 200"),
        (("--channels", "u"), "invalid choice"),
        (("--data-range", "0"), "expected a positive number"),
        (
            ("--metric", "ms-ssim", "--crop-border", "150"),
            "smaller than the 161 that the five scales of ms-ssim need; use --padding same, a smaller",
        ),
        (("--padding", "reflect", "--window-size", "801"), "smaller than the window of 801"),
    ],
)
def test_bad_options(capsys, coffee, options, message):
    assert message in fails(capsys, "compare", *coffee, *options)


def test_no_torch_on_the_cpu(coffee, tmp_path):
    """`--version`, `--help` and `compare`, with all that the kernels serve."""
    options = ["--metric", "ssim,psnr,l1-ssim", "--channels", "y", "--padding", "reflect", "--json"]
    commands = [
        ["--version"],
        ["compare", "--help"],
        ["compare", *map(str, coffee)],
        ["compare", *map(str, coffee), "--map", str(tmp_path / "map.png"), *options],
    ]
    done = run_python(
        "import sys\nfrom fused_ssim.cli import main\n"
        f"for command in {commands!r}:\n"
        "    try:\n        main(command)\n    except SystemExit:\n        pass\n"
        "print('torch' in sys.modules)",
    )
    assert done.splitlines()[-1] == "False"
    assert '"l1_ssim"' in done


def test_every_metric_has_a_minimum_or_says_why_not(capsys, coffee):
    for metric in METRICS:
        options = ("--metric", metric, "--min", f"{metric}=0.01")
        if metric == "l1-ssim":
            assert "lower is better" in fails(capsys, "compare", *coffee, *options)
        else:
            call(capsys, "compare", *coffee, *options)


def test_freed_memory_is_used_again():
    program = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from fused_ssim.cli.memory import keep_freed_memory

def faults():
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: len(bytes(bytearray(b"x" * 6_000_000))), range(20)))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        list(pool.map(lambda _: len(bytes(bytearray(b"x" * 6_000_000))), range(100)))
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
keep_freed_memory()
print(faults())
"""
    without, kept = map(int, run_python(program).split())
    assert without > 100 * 6_000_000 / 4096  # at least one of the three buffers, each time
    assert kept < without / 20
