"""The command line: what it prints, and how it fails. In-process, except at the end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import fused_ssim
from commandline import (
    COFFEE,
    call,
    fails,
    read_tensor,
    save,
    stored,
    write_coffee,
    write_folders,
)
from fused_ssim import _arrays
from fused_ssim.cli import main


@pytest.fixture
def coffee(tmp_path):
    return write_coffee(tmp_path)


@pytest.fixture
def folders(tmp_path):
    return write_folders(tmp_path)


# --- compare: two files ---


def test_photograph_against_its_jpeg(capsys, coffee):
    report = json.loads(call(capsys, "compare", *coffee, "--json"))
    a, b = (read_tensor(path).unsqueeze(0) for path in coffee)

    assert report["ssim"] == pytest.approx(fused_ssim.fused_ssim(a, b).item(), abs=1e-6)
    channels = fused_ssim.ssim(a, b, reduction="channel")[0].tolist()
    assert report["ssim_per_channel"] == pytest.approx(
        dict(zip("RGB", channels, strict=True)), abs=1e-6
    )
    x, y = map(stored, coffee)
    assert report["psnr_db"] == pytest.approx(peak_signal_noise_ratio(x, y), abs=1e-3)
    assert (report["width"], report["height"]) == (600, 400)
    assert report["settings"] == {
        "metrics": ["ssim", "psnr"],
        "window": "gaussian",
        "window_size": 11,
        "sigma": 1.5,
        "padding": "same",
        "ms_ssim_padding": None,
        "channels": "each",
        "crop_border": 0,
        "device": "cpu",
        "mask": None,
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
    a, b = (read_tensor(path).unsqueeze(0) for path in coffee)
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
    a, b = (read_tensor(path).unsqueeze(0) for path in coffee)
    assert report["ssim"] == pytest.approx(fused_ssim.fused_ssim(a, b).item(), abs=1e-6)
    assert report["settings"]["device"] == device


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
    line = fails(capsys, "compare", *coffee)
    assert "decompression bomb" in line
    assert "--any-size" in line
    call(capsys, "compare", *coffee, "--any-size")
    assert Image.MAX_IMAGE_PIXELS == 1000


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
    assert "give two images, two folders or two videos" in fails(
        capsys, "compare", folders[0], coffee[0]
    )
    assert "give two images, two folders or two videos" in fails(
        capsys, "compare", coffee[0], folders[0]
    )


def test_folders_without_a_match(capsys, folders, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    line = fails(capsys, "compare", folders[0], empty)
    assert f"no image in {empty}: expected visible files with a suffix that Pillow reads" in line
    assert "--recursive searches sub-folders" in line
    line = fails(capsys, "compare", empty, empty, "--recursive")
    assert f"no image in {empty} or {empty}: expected" in line
    assert "--recursive" not in line
    save(COFFEE, empty / "other.png")
    line = fails(capsys, "compare", folders[0], empty)
    assert f"no image in {folders[0]} has a partner in {empty} by --match name" in line


def test_unwritable_outputs(capsys, coffee, folders, tmp_path):
    nowhere = tmp_path / "missing" / "out"
    for option in ("--map", "--csv", "--html"):
        line = fails(capsys, "compare", *coffee, option, nowhere)
        assert f"cannot write {nowhere}: there is no folder {nowhere.parent}; make it" in line
        line = fails(capsys, "compare", *coffee, option, tmp_path)
        assert f"cannot write {tmp_path}: it is a folder; give the name of a file" in line
    assert "cannot write" in fails(capsys, "compare", *folders, "--csv", nowhere)
    text = folders[0] / "notes.txt"
    line = fails(capsys, "compare", *folders, "--map", text)
    assert f"cannot create the folder {text}" in line
    assert "cannot create the folder" in fails(capsys, "demo", "--out", coffee[0])


def test_a_name_that_is_too_long(capsys, coffee):
    name = "x" * 300
    for arguments in ((name, coffee[0]), (*coffee, "--csv", name)):
        line = fails(capsys, "compare", *arguments)
        assert name in line


def test_unknown_map_format(capsys, monkeypatch, coffee, tmp_path):
    monkeypatch.setattr("fused_ssim.cli.compare.measure", None)  # refused before that
    line = fails(capsys, "compare", *coffee, "--map", tmp_path / "map.xyz")
    assert "unknown image format '.xyz'" in line


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (
            "--window-size",
            "10",
            "--window-size: expected an odd number of taps, got 10; give 9 or 11",
        ),
        ("--window-size", "-3", "expected at least"),
        ("--window-size", "wide", "expected an integer"),
        ("--sigma", "0", "expected a positive number"),
        ("--sigma", "nan", "expected a positive number"),
        ("--sigma", "soft", "expected a number"),
        ("--padding", "mirror", "invalid choice"),
        ("--map-min", "1", "below 1"),
        ("--background", "nocolour", "unknown colour"),
        ("--device", "abacus", "unknown device"),
        ("--device", "cuda:99", "not available"),
        ("--device", "vulkan", "this torch has none"),
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
        ("av", "av", ["compare", "VIDEO", "VIDEO"]),
    ],
)
def test_missing_optional_package(tmp_path, folders, module, package, arguments):
    # In a process of its own: this one has the packages loaded already.
    video = tmp_path / "video.mp4"
    video.touch()
    names = {"A": folders[0], "B": folders[1], "OUT": tmp_path / "out", "VIDEO": video}
    command = [str(names.get(word, word)) for word in arguments]
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
    extra = {"skimage": "demo", "av": "video"}.get(module, "cli")
    # Without the name of the package itself: before the first release no index has it.
    expected = f"needs {package}: pip install {package} (all that it needs: the extra [{extra}] of"
    assert expected in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_bug_keeps_its_traceback(coffee, monkeypatch):
    def broken(*_arguments, **_options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(_arrays, "ssim_and_mse", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["compare", *map(str, coffee)])


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
    assert done.returncode == 0
    assert done.stderr == ""
