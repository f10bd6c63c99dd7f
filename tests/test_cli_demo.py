"""The demo."""

from __future__ import annotations

import re
import sys

import pytest
from skimage.metrics import peak_signal_noise_ratio

from commandline import (
    COFFEE,
    call,
    pixels,
    write_coffee,
)
from fused_ssim.cli import main
from fused_ssim.cli.distortions import DISTORTIONS, at_psnr
from fused_ssim.cli.images import read_image
from fused_ssim.cli.measure import measure
from fused_ssim.cli.settings import Settings


@pytest.fixture
def coffee(tmp_path):
    return write_coffee(tmp_path)


# --- demo ---


def test_distortions_reach_the_psnr_and_spread_the_ssim():
    image = pixels(COFFEE)[100:260, 200:360]
    scores = {}
    for distortion in DISTORTIONS:
        spoiled = at_psnr(distortion, image, 22.0)
        assert spoiled.shape == image.shape
        assert peak_signal_noise_ratio(image, spoiled, data_range=1) == pytest.approx(
            22.0, abs=1.0
        ), distortion.name
        scores[distortion.name] = measure(spoiled, image, Settings()).values["ssim"]
    assert max(scores.values()) - min(scores.values()) > 0.2
    # What PSNR cannot tell apart and a viewer can.
    assert scores["brighter"] > scores["blur"]
    assert scores["contrast"] > scores["noise"]


def test_demo_fits_the_photograph(capsys, tmp_path, device):
    out = tmp_path / "out"
    options = ("--size", 96, "--steps", 150, "--out", out, "--device", device)
    text = call(capsys, "demo", *options)
    table = dict(re.findall(r"^(\S+(?: steps?)?) +(0\.\d+) ", text, re.MULTILINE))
    assert table.keys() >= {distortion.name for distortion in DISTORTIONS}
    # The last line named "noise" is the start of the fit, not the distortion.
    before, after = float(table["noise"]), float(table["150 steps"])
    assert before < 0.1
    assert after > 0.98

    target, start, end = (read_image(out / f"{n}.png") for n in ("target", "before", "after"))
    assert peak_signal_noise_ratio(target, start) < 10
    assert peak_signal_noise_ratio(target, end) > 25
    for name in ("overview", "ssim_map_before", "ssim_map_after"):
        assert read_image(out / f"{name}.png").shape[2] == 3
    assert len(list(out.glob("distorted_*.png"))) == len(DISTORTIONS)


def test_demo_takes_a_file_and_shows_progress(capsys, tmp_path, coffee, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    options = ["--size", "64", "--steps", "4", "--photo", str(coffee[1])]
    assert main(["demo", *options, "--out", str(tmp_path / "out")]) == 0
    error = capsys.readouterr().err
    assert "fitting: 100%" in error
    assert "4/4" in error
    assert "SSIM 0." in error


def test_demo_is_reproducible(capsys, tmp_path):
    options = ("--size", 64, "--steps", 3, "--photo", "camera")
    for out in ("one", "two"):
        call(capsys, "demo", *options, "--out", tmp_path / out)
    call(capsys, "demo", *options, "--out", tmp_path / "other", "--seed", 5)
    one, two, other = (
        (tmp_path / out / "before.png").read_bytes() for out in ("one", "two", "other")
    )
    assert one == two
    assert one != other
