"""The command line: what it prints and writes, and how it fails. In-process, except at the end."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import fused_ssim
from fused_ssim.cli import main
from fused_ssim.cli.compare import match_by_name
from fused_ssim.cli.distortions import DISTORTIONS, at_psnr
from fused_ssim.cli.heatmap import colour_table, colourise, draw_legend
from fused_ssim.cli.images import read_image, to_pil
from fused_ssim.cli.measure import psnr_db
from images import noise, photograph

COFFEE = photograph("coffee")[0]  # 600 x 400, RGB
CAMERA = photograph("camera")[0]  # 512 x 512, gray


def call(capsys, *arguments: object) -> str:
    """Run a command that must succeed without a word on stderr; its stdout."""
    code = main([*map(str, arguments), *(["--no-progress"] if arguments[0] != "info" else [])])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert captured.err == ""
    return captured.out


def fails(capsys, *arguments: object) -> str:
    """Run a command that must end with code 2 and one line on stderr; that line."""
    try:
        code = main([*map(str, arguments), *(["--no-progress"] if arguments[0] != "info" else [])])
    except SystemExit as stop:  # argparse
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2
    lines = error.strip().splitlines()
    assert "error: " in lines[-1]
    assert "Traceback" not in error
    # argparse puts its usage above the line, the commands nothing.
    assert len(lines) == 1 or lines[0].startswith("usage: ")
    return lines[-1]


def save(pixels: torch.Tensor, path: Path, **options: object) -> Path:
    to_pil(pixels).save(path, **options)
    return path


def stored(path: Path) -> np.ndarray:
    """The 8-bit values of a picture, [height, width] or [height, width, 3]."""
    with Image.open(path) as picture:
        return np.array(picture)


@pytest.fixture
def coffee(tmp_path):
    """A photograph and its JPEG of quality 20."""
    return (
        save(COFFEE, tmp_path / "coffee.png"),
        save(COFFEE, tmp_path / "coffee_q20.jpg", quality=20),
    )


@pytest.fixture
def folders(tmp_path):
    """Two folders: two pairs by name, one by stem, one image without a partner on each side."""
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.mkdir()
    for name in ("astronaut", "coffee", "camera"):
        image = photograph(name)[0]
        save(image, a / f"{name}.png")
        blurred = to_pil(image).filter(ImageFilter.GaussianBlur(2))
        blurred.save(b / (f"{name}.bmp" if name == "camera" else f"{name}.png"))
    save(COFFEE, a / "left.png")
    save(COFFEE, b / "right.png")
    (a / "notes.txt").write_text("not an image")
    return a, b


# --- compare: two files ---


def test_photograph_against_its_jpeg(capsys, coffee):
    report = json.loads(call(capsys, "compare", *coffee, "--json"))
    a, b = (read_image(path).unsqueeze(0) for path in coffee)

    assert report["ssim"] == pytest.approx(fused_ssim.fused_ssim(a, b).item(), abs=1e-6)
    channels = fused_ssim.ssim(a, b, reduction="channel")[0].tolist()
    assert report["ssim_per_channel"] == pytest.approx(
        dict(zip("RGB", channels, strict=True)), abs=1e-6
    )
    x, y = map(stored, coffee)
    assert report["psnr_db"] == pytest.approx(peak_signal_noise_ratio(x, y), abs=1e-3)
    assert (report["width"], report["height"]) == (600, 400)
    assert report["settings"] == {
        "padding": "same",
        "window_size": 11,
        "sigma": 1.5,
        "device": "cpu",
    }


def test_valid_padding_is_the_ssim_of_scikit_image(capsys, coffee):
    report = json.loads(call(capsys, "compare", *coffee, "--padding", "valid", "--json"))
    x, y = (stored(path) / 255.0 for path in coffee)
    expected = structural_similarity(
        x,
        y,
        channel_axis=-1,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert report["ssim"] == pytest.approx(expected, abs=2e-6)


def test_text_shows_what_json_holds(capsys, coffee):
    text = call(capsys, "compare", *coffee)
    report = json.loads(call(capsys, "compare", *coffee, "--json"))
    shown = dict(re.findall(r"^\s*(\S+) +(.+)$", text, re.MULTILINE))
    assert shown["SSIM"] == f"{report['ssim']:.6f}"
    for channel, value in report["ssim_per_channel"].items():
        assert shown[channel] == f"{value:.6f}"
    assert shown["PSNR"] == f"{report['psnr_db']:.2f} dB"
    assert shown["A"] == str(coffee[0])
    assert shown["size"] == "600 x 400, 3 channels"


def test_window_and_sigma_reach_the_kernel(capsys, coffee):
    options = ("--window-size", 7, "--sigma", 0.8, "--padding", "valid")
    report = json.loads(call(capsys, "compare", *coffee, *options, "--json"))
    a, b = (read_image(path).unsqueeze(0) for path in coffee)
    expected = fused_ssim.ssim(a, b, window_size=7, sigma=0.8, padding="valid").item()
    assert report["ssim"] == pytest.approx(expected, abs=1e-6)


def test_identical_images(capsys, coffee):
    report = json.loads(call(capsys, "compare", coffee[0], coffee[0], "--json"))
    assert report["ssim"] == 1.0
    assert report["psnr_db"] is None  # JSON has no infinity
    text = call(capsys, "compare", coffee[0], coffee[0])
    assert "SSIM    1.000000" in text
    assert "PSNR    inf (identical)" in text


def test_device_option_computes_on_that_device(capsys, coffee, device):
    report = json.loads(call(capsys, "compare", *coffee, "--device", device, "--json"))
    a, b = (read_image(path).unsqueeze(0) for path in coffee)
    assert report["ssim"] == pytest.approx(fused_ssim.fused_ssim(a, b).item(), abs=1e-6)
    assert report["settings"]["device"] == device


# --- how images are read ---


def test_exif_orientation_is_applied(tmp_path):
    upright = to_pil(COFFEE)
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to show"
    turned = tmp_path / "turned.png"
    upright.transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif)
    torch.testing.assert_close(read_image(turned), COFFEE, rtol=0, atol=0)


def test_16_bit_grayscale_is_read_in_full(tmp_path):
    values = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    path = tmp_path / "deep.png"
    Image.fromarray(values).save(path)
    expected = torch.from_numpy(values.astype(np.float32))[None] / 65535
    torch.testing.assert_close(read_image(path), expected, rtol=0, atol=1e-7)


def test_float_images_must_lie_in_0_to_1(tmp_path):
    values = CAMERA[0].numpy()
    good, bad, poisoned = (tmp_path / f"{name}.tif" for name in ("good", "bad", "poisoned"))
    Image.fromarray(values).save(good)
    Image.fromarray(values * 255).save(bad)
    Image.fromarray(np.where(values > 0.9, np.float32("nan"), values)).save(poisoned)
    torch.testing.assert_close(read_image(good), CAMERA, rtol=0, atol=0)
    for path in (bad, poisoned):
        with pytest.raises(Exception, match=r"scale it to 0\.\.1"):
            read_image(path)


def test_32_bit_images_beyond_16_bits_are_refused(tmp_path):
    path = tmp_path / "wide.tif"
    Image.fromarray(np.full((16, 16), 70000, dtype=np.int32)).save(path)
    with pytest.raises(Exception, match="values from 70000 to 70000; convert"):
        read_image(path)


def test_transparency_is_blended_onto_the_background(tmp_path):
    rgba = np.zeros((16, 16, 4), dtype=np.uint8)
    rgba[..., 0] = 255  # red, of which the left half is transparent
    rgba[:, 8:, 3] = 255
    path = tmp_path / "half.png"
    Image.fromarray(rgba).save(path)

    on_white, on_blue = read_image(path), read_image(path, "#0000ff")
    assert on_white[:, 0, 0].tolist() == [1, 1, 1]
    assert on_blue[:, 0, 0].tolist() == [0, 0, 1]
    for image in (on_white, on_blue):
        assert image[:, 0, 8].tolist() == [1, 0, 0]


def test_opaque_alpha_changes_nothing(tmp_path):
    path = tmp_path / "opaque.png"
    to_pil(COFFEE).convert("RGBA").save(path)
    torch.testing.assert_close(read_image(path, "black"), COFFEE, rtol=0, atol=0)


def test_gray_alpha_stays_gray_on_a_gray_background(tmp_path):
    path = tmp_path / "la.png"
    to_pil(CAMERA).convert("LA").save(path)
    torch.testing.assert_close(read_image(path), CAMERA, rtol=0, atol=0)
    assert read_image(path, "red").shape[0] == 3


@pytest.mark.parametrize(
    ("mode", "channels"), [("1", 1), ("L", 1), ("P", 3), ("RGB", 3), ("CMYK", 3), ("YCbCr", 3)]
)
def test_every_mode_becomes_gray_or_rgb(tmp_path, mode, channels):
    path = tmp_path / "image.tif"
    picture = to_pil(COFFEE).convert(mode)
    picture.save(path)
    image = read_image(path)
    assert image.shape == (channels, 400, 600)
    assert image.dtype == torch.float32
    if channels == 3:
        expected = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) / 255
        torch.testing.assert_close(image, expected)


def test_gray_counts_as_three_equal_channels(capsys, tmp_path):
    gray = save(CAMERA, tmp_path / "gray.png")
    colour = save(CAMERA.expand(3, -1, -1), tmp_path / "colour.png")
    report = json.loads(call(capsys, "compare", gray, colour, "--json"))
    assert report["ssim_per_channel"] == {"R": 1.0, "G": 1.0, "B": 1.0}
    report = json.loads(call(capsys, "compare", gray, gray, "--json"))
    assert report["ssim_per_channel"] == {"gray": 1.0}


# --- the heat map ---


def test_heat_map_shows_where_the_images_differ(capsys, tmp_path):
    spoiled = COFFEE.clone()
    spoiled[:, 100:160, 200:260] = noise(3, 60, 60)
    a, b = save(COFFEE, tmp_path / "a.png"), save(spoiled, tmp_path / "b.png")
    path = tmp_path / "map.png"
    text = call(capsys, "compare", a, b, "--map", path)
    assert f"map     {path}" in text

    picture = torch.from_numpy(stored(path))
    assert picture.shape[0] == 400
    assert picture.shape[1] > 600  # the legend stands on the right
    assert picture.shape[2] == 3

    # Every pixel of the map's part is the colour of that pixel's SSIM.
    ssim_map = fused_ssim.ssim(
        read_image(a).unsqueeze(0), read_image(b).unsqueeze(0), reduction="none"
    )[0].mean(dim=0)
    expected = colourise(ssim_map).permute(1, 2, 0) * 255
    difference = (picture[:, :600].float() - expected).abs()
    assert difference.max() <= 3  # one step of the colour table

    alike, hot = (colour_table()[i] * 255 for i in (0, -1))
    assert (picture[300, 50].float() - alike).abs().max() <= 1
    inside = picture[110:150, 210:250].float().mean(dim=(0, 1))
    assert (inside - hot).abs().max() < (inside - alike).abs().max()


def test_colours_run_from_dark_alike_to_bright_different():
    scale = colourise(torch.linspace(1, 0, 101).unsqueeze(0))[:, 0]
    lightness = torch.tensor([0.2126, 0.7152, 0.0722]) @ scale
    assert (lightness.diff() > 0).all()
    # Beyond the ends of the scale the colours stay; a NaN takes the hottest.
    ends = colourise(torch.tensor([[1.5, -0.5, float("nan")]]))[:, 0]
    torch.testing.assert_close(ends[:, 0], colour_table()[0])
    torch.testing.assert_close(ends[:, 1], colour_table()[-1])
    torch.testing.assert_close(ends[:, 2], colour_table()[-1])


def test_map_min_stretches_the_scale():
    torch.testing.assert_close(
        colourise(torch.tensor([[0.95]]), lowest=0.9), colourise(torch.tensor([[0.5]]))
    )


def test_legend_has_the_whole_scale_and_text():
    legend = torch.from_numpy(np.array(draw_legend(400, 0.0, "mean 0.5000")))
    colours = {tuple(pixel) for pixel in legend.reshape(-1, 3).tolist()}
    table = (colour_table() * 255).round().int().tolist()
    assert sum(tuple(colour) in colours for colour in table) > 0.95 * len(table)
    # Some legend is a different picture for another scale: the numbers change.
    other = torch.from_numpy(np.array(draw_legend(400, 0.5, "mean 0.5000")))
    assert legend.shape != other.shape or not torch.equal(legend, other)


def test_map_of_a_tiny_image_still_has_a_legend(capsys, tmp_path):
    a, b = (
        save(COFFEE[:, :3, :5], tmp_path / "a.png"),
        save(COFFEE[:, 9:12, :5], tmp_path / "b.png"),
    )
    call(capsys, "compare", a, b, "--map", tmp_path / "map.png")
    assert stored(tmp_path / "map.png").shape[0] >= 100


def test_valid_map_is_smaller_by_the_window(capsys, coffee, tmp_path):
    path = tmp_path / "map.png"
    call(capsys, "compare", *coffee, "--map", path, "--padding", "valid")
    assert stored(path).shape[0] == 390


# --- compare: two folders ---


def test_folders_table(capsys, folders):
    text = call(capsys, "compare", *folders)
    lines = text.splitlines()
    rows = {line.rsplit(maxsplit=2)[0]: line.rsplit(maxsplit=2)[1:] for line in lines[3:6]}
    assert set(rows) == {"astronaut.png", "camera.png | camera.bmp", "coffee.png"}
    a, b = folders
    expected = fused_ssim.fused_ssim(
        read_image(a / "coffee.png").unsqueeze(0), read_image(b / "coffee.png").unsqueeze(0)
    ).item()
    assert float(rows["coffee.png"][0]) == pytest.approx(expected, abs=2e-6)
    mean = next(line for line in lines if line.startswith("mean of 3"))
    assert float(mean.split()[3]) == pytest.approx(
        sum(float(ssim) for ssim, _ in rows.values()) / 3, abs=2e-6
    )
    assert "only in A: left.png" in lines
    assert "only in B: right.png" in lines
    assert "notes.txt" not in text


def test_folders_csv(capsys, folders, tmp_path):
    path = tmp_path / "scores.csv"
    call(capsys, "compare", *folders, "--csv", path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("name_a", "name_b", "width", "height", "ssim"),
        *("ssim_r", "ssim_g", "ssim_b", "ssim_gray", "psnr_db", "error"),
    ]
    assert [row["name_a"] for row in rows] == ["astronaut.png", "camera.png", "coffee.png"]
    astronaut, camera, _ = rows
    assert (astronaut["width"], astronaut["height"]) == ("512", "512")
    channels = [float(astronaut[f"ssim_{c}"]) for c in "rgb"]
    assert float(astronaut["ssim"]) == pytest.approx(sum(channels) / 3, abs=1e-9)
    assert camera["name_b"] == "camera.bmp"
    assert camera["ssim_gray"] == camera["ssim"]
    assert camera["ssim_r"] == ""
    assert all(row["error"] == "" for row in rows)


def test_folders_json(capsys, folders):
    report = json.loads(call(capsys, "compare", *folders, "--json"))
    assert len(report["pairs"]) == 3
    assert report["mean"]["count"] == 3
    for key in ("ssim", "psnr_db"):
        values = [pair[key] for pair in report["pairs"]]
        assert report["mean"][key] == pytest.approx(sum(values) / 3)
    assert report["only_in_a"] == ["left.png"]
    assert report["only_in_b"] == ["right.png"]
    assert report["failed"] == []


def test_folders_maps(capsys, folders, tmp_path):
    out = tmp_path / "maps" / "of_today"
    call(capsys, "compare", *folders, "--map", out)
    names = ["astronaut.png.png", "camera.png.png", "coffee.png.png"]
    assert sorted(path.name for path in out.iterdir()) == names


def test_folders_go_on_after_a_bad_pair(capsys, folders, tmp_path):
    a, b = folders
    (b / "coffee.png").write_bytes((b / "coffee.png").read_bytes()[:5000])
    save(COFFEE[:, :50], b / "astronaut.png")
    path = tmp_path / "scores.csv"
    code = main(["compare", str(a), str(b), "--csv", str(path), "--no-progress"])
    captured = capsys.readouterr()
    assert code == 2
    assert "mean of 1" in captured.out
    errors = captured.err.splitlines()
    assert len(errors) == 2
    assert "different sizes: 512x512 and 600x50 pixels" in errors[0]
    assert "coffee.png: unreadable image" in errors[1]
    with path.open(newline="") as file:
        rows = {row["name_a"]: row for row in csv.DictReader(file)}
    assert "different sizes" in rows["astronaut.png"]["error"]
    assert float(rows["camera.png"]["ssim"]) > 0


def test_progress_bar_counts_the_pairs(capsys, folders):
    assert main(["compare", *map(str, folders)]) == 0
    captured = capsys.readouterr()
    assert "comparing: 100%" in captured.err
    assert "3/3" in captured.err
    assert "100%" not in captured.out


def test_matching_prefers_whole_names_and_never_guesses():
    def paths(folder, *names):
        return [Path(folder, name) for name in names]

    a = paths("a", "1.png", "2.png", "3.png", "4.jpg", "4.png")
    b = paths("b", "1.jpg", "1.png", "2.jpg", "3.bmp", "3.jpg", "4.webp")
    matches = match_by_name(a, b)
    assert matches.pairs == [
        (Path("a/1.png"), Path("b/1.png")),
        (Path("a/2.png"), Path("b/2.jpg")),
    ]
    assert matches.only_a == paths("a", "3.png", "4.jpg", "4.png")
    assert matches.only_b == paths("b", "1.jpg", "3.bmp", "3.jpg", "4.webp")


# --- errors ---


def test_missing_file(capsys, coffee, tmp_path):
    line = fails(capsys, "compare", coffee[0], tmp_path / "nowhere.png")
    assert f"{tmp_path / 'nowhere.png'}: no such file or folder" in line


def test_file_that_is_no_image(capsys, coffee, tmp_path):
    path = tmp_path / "text.png"
    path.write_text("hello")
    assert "not an image that Pillow can read" in fails(capsys, "compare", coffee[0], path)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_truncated_image(capsys, coffee, tmp_path, suffix):
    whole = next(path for path in coffee if path.suffix == suffix)
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole.read_bytes()[:3000])
    assert f"{path}: unreadable image" in fails(capsys, "compare", whole, path)


def test_decompression_bomb(capsys, coffee, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert "decompression bomb" in fails(capsys, "compare", *coffee)


def test_large_images_raise_no_warning(capsys, coffee, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200_000)  # warned about from 1 to 2 times this
    call(capsys, "compare", *coffee)


def test_unreadable_file(capsys, coffee, monkeypatch):
    # Taking the permission away would not stop root, as whom containers run tests.
    def refuse(*_arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    assert "permission denied" in fails(capsys, "compare", *coffee)


def test_different_sizes(capsys, coffee, tmp_path):
    other = save(COFFEE[:, :300], tmp_path / "short.png")
    line = fails(capsys, "compare", coffee[0], other)
    assert "coffee.png and" in line
    assert "different sizes: 600x400 and 600x300 pixels" in line


def test_image_below_the_window(capsys, tmp_path):
    path = save(COFFEE[:, :10, :10], tmp_path / "small.png")
    line = fails(capsys, "compare", path, path, "--padding", "valid")
    assert "10x10 pixels is smaller than the window of 11; use --padding same" in line
    assert "SSIM    1.000000" in call(capsys, "compare", path, path)


def test_folder_beside_file(capsys, folders, coffee):
    assert "give two files or two folders" in fails(capsys, "compare", folders[0], coffee[0])
    assert "give two files or two folders" in fails(capsys, "compare", coffee[0], folders[0])


def test_folders_without_a_match(capsys, folders, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no image in" in fails(capsys, "compare", folders[0], empty)


def test_csv_needs_folders(capsys, coffee, tmp_path):
    assert "--csv is for two folders" in fails(
        capsys, "compare", *coffee, "--csv", tmp_path / "x.csv"
    )


def test_unwritable_outputs(capsys, coffee, folders, tmp_path):
    nowhere = tmp_path / "missing" / "out"
    assert "cannot write" in fails(capsys, "compare", *coffee, "--map", f"{nowhere}.png")
    assert "cannot write" in fails(capsys, "compare", *folders, "--csv", f"{nowhere}.csv")
    assert "cannot create the folder" in fails(capsys, "demo", "--out", coffee[0])


def test_unknown_map_format(capsys, coffee, tmp_path):
    line = fails(capsys, "compare", *coffee, "--map", tmp_path / "map.xyz")
    assert "unknown image format '.xyz'" in line


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--window-size", "10", "odd"),
        ("--window-size", "-3", "expected at least"),
        ("--window-size", "wide", "expected an integer"),
        ("--sigma", "0", "expected a positive number"),
        ("--sigma", "nan", "expected a positive number"),
        ("--sigma", "soft", "expected a number"),
        ("--padding", "reflect", "invalid choice"),
        ("--map-min", "1", "below 1"),
        ("--background", "nocolour", "unknown colour"),
        ("--device", "abacus", "unknown device"),
        ("--device", "cuda:99", "not available"),
        ("--frobnicate", "1", "unrecognized arguments"),
    ],
)
def test_bad_options(capsys, coffee, option, value, message):
    assert message in fails(capsys, "compare", *coffee, f"{option}={value}")


def test_bad_demo_options(capsys, tmp_path):
    assert "neither a file nor one of" in fails(capsys, "demo", "--photo", "nobody")
    assert "expected at least" in fails(capsys, "demo", "--steps", "0")
    assert "expected at least" in fails(capsys, "demo", "--size", "3")


def test_no_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "package", "arguments"),
    [
        ("PIL", "pillow", ["compare", "A", "B"]),
        ("numpy", "numpy", ["compare", "A", "B"]),
        ("tqdm", "tqdm", ["compare", "A", "B"]),
        ("skimage", "scikit-image", ["demo", "--out", "OUT"]),
    ],
)
def test_missing_optional_package(tmp_path, folders, module, package, arguments):
    # In a process of its own: this one has the packages loaded already.
    names = {"A": str(folders[0]), "B": str(folders[1]), "OUT": str(tmp_path / "out")}
    command = [names.get(word, word) for word in arguments]
    block = "skimage.data" if module == "skimage" else module
    program = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name == {block!r} or name.startswith({module + "."!r}):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

import fused_ssim
sys.modules.pop({module!r}, None)
sys.meta_path.insert(0, Blocked())
from fused_ssim.cli import main
sys.exit(main({command!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    extra = "demo" if module == "skimage" else "cli"
    expected = f"needs {package}: pip install 'fused-ssim[{extra}]'"
    assert done.stderr.strip().splitlines()[-1].endswith(expected)
    assert "Traceback" not in done.stderr


def test_bug_keeps_its_traceback(coffee, monkeypatch):
    def broken(*_arguments, **_options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(fused_ssim, "ssim", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["compare", *map(str, coffee)])


# --- demo ---


def test_distortions_reach_the_psnr_and_spread_the_ssim():
    image = COFFEE[:, 100:260, 200:360]
    scores = {}
    for distortion in DISTORTIONS:
        spoiled = at_psnr(distortion, image, 22.0)
        assert spoiled.shape == image.shape
        assert psnr_db(spoiled, image) == pytest.approx(22.0, abs=1.0), distortion.name
        scores[distortion.name] = fused_ssim.fused_ssim(
            spoiled.unsqueeze(0), image.unsqueeze(0)
        ).item()
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
    assert psnr_db(start, target) < 10
    assert psnr_db(end, target) > 25
    for name in ("overview", "ssim_map_before", "ssim_map_after"):
        assert read_image(out / f"{name}.png").shape[0] == 3
    assert len(list(out.glob("distorted_*.png"))) == len(DISTORTIONS)


def test_demo_takes_a_file_and_shows_progress(capsys, tmp_path, coffee):
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


# --- info, help, and the program itself ---


def test_info(capsys):
    text = call(capsys, "info")
    assert text.strip() == str(fused_ssim.build_info())
    report = json.loads(call(capsys, "info", "--json"))
    assert report["version"] == fused_ssim.__version__
    assert "cpu" in report["backends"]


@pytest.mark.parametrize("command", [[], ["info"], ["compare"], ["demo"]])
def test_help(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: fused-ssim")
    assert max(map(len, text.splitlines())) <= 100


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"fused-ssim {fused_ssim.__version__}\n"


def run_module(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fused_ssim", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, **options)


def test_python_m_compares_photographs(coffee):
    done = run_module("compare", *coffee, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert 0.5 < json.loads(done.stdout)["ssim"] < 1.0


def test_python_m_fails_with_one_line(tmp_path):
    done = run_module("compare", tmp_path / "a.png", tmp_path / "b.png")
    assert done.returncode == 2
    assert done.stdout == ""
    expected = f"fused-ssim: error: {tmp_path / 'a.png'}: no such file or folder\n"
    assert done.stderr == expected


def test_closed_pipe_is_no_traceback(folders):
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "fused_ssim", "compare", *map(str, folders), "--no-progress"]
    done = subprocess.run(command, check=False, stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    assert done.returncode == 1
    assert done.stderr == ""


def test_psnr_of_identical_images_is_infinite():
    assert psnr_db(COFFEE, COFFEE) == math.inf
