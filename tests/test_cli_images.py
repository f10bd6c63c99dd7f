"""How the command line reads pictures, and draws maps."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import fused_ssim
from commandline import (
    CAMERA,
    COFFEE,
    call,
    pixels,
    read_tensor,
    save,
    stored,
    write_coffee,
)
from fused_ssim.cli.errors import CliError
from fused_ssim.cli.heatmap import colour_table, colourise, draw_legend
from fused_ssim.cli.images import read_image, to_pil
from images import noise


@pytest.fixture
def coffee(tmp_path):
    return write_coffee(tmp_path)


# --- how images are read ---


def test_exif_orientation_is_applied(tmp_path):
    upright = to_pil(pixels(COFFEE))
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to show"
    turned = tmp_path / "turned.png"
    upright.transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif)
    torch.testing.assert_close(read_tensor(turned), COFFEE, rtol=0, atol=0)


def test_16_bit_grayscale_is_read_in_full(tmp_path):
    values = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    path = tmp_path / "deep.png"
    Image.fromarray(values).save(path)
    expected = torch.from_numpy(values.astype(np.float32))[None] / 65535
    torch.testing.assert_close(read_tensor(path), expected, rtol=0, atol=1e-7)


def test_float_images_tell_what_white_is(tmp_path):
    values = CAMERA[0].numpy()
    good, bad, poisoned = (tmp_path / f"{name}.tif" for name in ("good", "bad", "poisoned"))
    Image.fromarray(values).save(good)
    Image.fromarray(values * 255).save(bad)
    Image.fromarray(np.where(values > 0.9, np.float32("nan"), values)).save(poisoned)
    torch.testing.assert_close(read_tensor(good), CAMERA, rtol=0, atol=0)
    for path in (bad, poisoned):
        with pytest.raises(
            CliError, match=r"give it as --data-range, or scale the image to 0\.\.1"
        ):
            read_image(path)
    torch.testing.assert_close(read_tensor(bad, data_range=255.0), CAMERA)
    with pytest.raises(CliError, match="from nan to nan are outside --data-range 255"):
        read_tensor(poisoned, data_range=255.0)


@pytest.mark.parametrize("white", [255, 70000])
def test_32_bit_integers_do_not_tell_what_white_is(tmp_path, white):
    path = tmp_path / "wide.tif"
    Image.fromarray(np.full((16, 16), white, dtype=np.int32)).save(path)
    expected = f"32-bit image with values from {white} to {white}, which do not tell what white is"
    with pytest.raises(CliError, match=expected):
        read_image(path)
    assert (read_tensor(path, data_range=2.0 * white) == 0.5).all()


def test_twelve_bits_in_a_file_of_16(capsys, tmp_path):
    path = tmp_path / "raw.png"
    values = np.arange(0, 4096, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(values).save(path)
    dark = read_tensor(path)
    assert dark.max() == pytest.approx(4095 / 65535)
    expected = f"note: {path}: 16-bit image with values up to 4095 is taken for a dark one"
    assert expected in capsys.readouterr().err
    assert read_tensor(path, data_range=4095.0).max() == 1.0
    assert capsys.readouterr().err == ""


def test_transparency_is_blended_onto_the_background(tmp_path):
    rgba = np.zeros((16, 16, 4), dtype=np.uint8)
    rgba[..., 0] = 255  # red, of which the left half is transparent
    rgba[:, 8:, 3] = 255
    path = tmp_path / "half.png"
    Image.fromarray(rgba).save(path)

    on_white, on_blue = read_tensor(path), read_tensor(path, background="#0000ff")
    assert on_white[:, 0, 0].tolist() == [1, 1, 1]
    assert on_blue[:, 0, 0].tolist() == [0, 0, 1]
    for image in (on_white, on_blue):
        assert image[:, 0, 8].tolist() == [1, 0, 0]


def test_opaque_alpha_changes_nothing(tmp_path):
    path = tmp_path / "opaque.png"
    to_pil(pixels(COFFEE)).convert("RGBA").save(path)
    torch.testing.assert_close(read_tensor(path, background="black"), COFFEE, rtol=0, atol=0)


def test_gray_alpha_stays_gray_on_a_gray_background(tmp_path):
    path = tmp_path / "la.png"
    to_pil(pixels(CAMERA)).convert("LA").save(path)
    torch.testing.assert_close(read_tensor(path), CAMERA, rtol=0, atol=0)
    assert read_tensor(path, background="red").shape[0] == 3


@pytest.mark.parametrize(
    ("mode", "channels"), [("1", 1), ("L", 1), ("P", 3), ("RGB", 3), ("CMYK", 3), ("LAB", 3)]
)
def test_every_mode_becomes_gray_or_rgb(tmp_path, mode, channels):
    path = tmp_path / "image.tif"
    picture = to_pil(pixels(COFFEE)).convert(mode)
    picture.save(path)
    image = read_tensor(path)
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
        read_tensor(a).unsqueeze(0), read_tensor(b).unsqueeze(0), reduction="none"
    )[0].mean(dim=0)
    expected = torch.tensor(colourise(ssim_map.numpy())) * 255
    difference = (picture[:, :600].float() - expected).abs()
    assert difference.max() <= 3  # one step of the colour table

    alike, hot = (torch.tensor(colour_table()[i]) * 255 for i in (0, -1))
    assert (picture[300, 50].float() - alike).abs().max() <= 1
    inside = picture[110:150, 210:250].float().mean(dim=(0, 1))
    assert (inside - hot).abs().max() < (inside - alike).abs().max()


def test_colours_run_from_dark_alike_to_bright_different():
    scale = colourise(np.linspace(1, 0, 101)[None])[0]
    lightness = scale @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0).all()
    # Beyond the ends of the scale the colours stay; a NaN takes the hottest.
    ends = colourise(np.array([[1.5, -0.5, np.nan]]))[0]
    np.testing.assert_array_equal(ends, colour_table()[[0, -1, -1]])


def test_map_min_stretches_the_scale():
    np.testing.assert_array_equal(
        colourise(np.array([[0.95]]), lowest=0.9), colourise(np.array([[0.5]]))
    )


def test_legend_has_the_whole_scale_and_text():
    legend = np.array(draw_legend(400, 0.0, "mean 0.5000"))
    colours = {tuple(pixel) for pixel in legend.reshape(-1, 3).tolist()}
    table = np.rint(colour_table() * 255).astype(int).tolist()
    assert sum(tuple(colour) in colours for colour in table) > 0.95 * len(table)
    # Some legend is a different picture for another scale: the numbers change.
    other = np.array(draw_legend(400, 0.5, "mean 0.5000"))
    assert not np.array_equal(legend, other)


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
