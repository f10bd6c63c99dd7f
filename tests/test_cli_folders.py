"""The command line on two folders: which files belong together, tables, CSV, JSON."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import PngImagePlugin

import fused_ssim
from commandline import (
    COFFEE,
    Page,
    call,
    fails,
    read_tensor,
    run,
    save,
    write_folders,
)
from fused_ssim.cli import by_torch, main, pipeline
from fused_ssim.cli.matching import match


@pytest.fixture
def folders(tmp_path):
    return write_folders(tmp_path)


# --- compare: two folders ---


def test_folders_table(capsys, folders):
    text = call(capsys, "compare", *folders)
    lines = text.splitlines()
    rows = {line.rsplit(maxsplit=2)[0]: line.rsplit(maxsplit=2)[1:] for line in lines[3:6]}
    assert set(rows) == {"astronaut.png", "camera.png | camera.bmp", "coffee.png"}
    a, b = folders
    expected = fused_ssim.fused_ssim(
        read_tensor(a / "coffee.png").unsqueeze(0), read_tensor(b / "coffee.png").unsqueeze(0)
    ).item()
    assert float(rows["coffee.png"][0]) == pytest.approx(expected, abs=2e-6)
    mean = next(line for line in lines if line.startswith("mean of 3"))
    assert float(mean.split()[3]) == pytest.approx(
        sum(float(ssim) for ssim, _ in rows.values()) / 3, abs=2e-6
    )
    assert "notes.txt" not in text


def test_folders_csv(capsys, folders, tmp_path):
    path = tmp_path / "scores.csv"
    call(capsys, "compare", *folders, "--csv", path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("name_a", "name_b", "width", "height", "ssim"),
        *("ssim_r", "ssim_g", "ssim_b", "ssim_gray"),
        *("psnr_db", "psnr_db_r", "psnr_db_g", "psnr_db_b", "psnr_db_gray", "error"),
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
    assert report["failed"] == []


def test_folders_maps(capsys, folders, tmp_path):
    out = tmp_path / "maps.of_today"
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


def test_what_decoders_run_into_is_one_pair_s_failure(capsys, folders, monkeypatch):
    # Damaged files of some formats end in these, not in OSError.
    raised = iter((RuntimeError("Failed to decode"), struct.error("not an integer")))

    def load(self):
        raise next(raised)

    (folders[0] / "astronaut.png").unlink()
    (folders[1] / "astronaut.png").unlink()
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    code, _, err = run(capsys, "compare", *folders)
    assert code == 2
    assert len(err.splitlines()) == 2
    assert all("unreadable image (" in line for line in err.splitlines())


def test_a_broken_link_is_a_failure(capsys, folders):
    for folder in folders:
        (folder / "link.png").symlink_to(folder / "nowhere.png")
    code, out, err = run(capsys, "compare", *folders)
    assert (code, "mean of 3" in out) == (2, True)
    assert err.rstrip().endswith("link.png: no such file")


def test_a_map_replaces_no_picture_that_is_compared(capsys, folders):
    a = folders[0]
    shutil.copy(a / "coffee.png", a / "coffee.png.png")
    before = (a / "coffee.png.png").read_bytes()
    assert "would replace the picture" in fails(capsys, "compare", *folders, "--map", a)
    assert (a / "coffee.png.png").read_bytes() == before
    pictures = [folder / "coffee.png" for folder in folders]
    line = fails(capsys, "compare", *pictures, "--csv", pictures[0])
    assert "one of the two that are compared" in line


@pytest.mark.parametrize("closed", ["reader", "stdout"])
def test_who_does_not_listen_gets_files_and_the_exit_code(folders, tmp_path, closed):
    path = tmp_path / "scores.csv"
    command = [*map(str, folders), "--csv", str(path), "--min", "ssim=1", "--no-progress"]
    line = shlex.join([sys.executable, "-m", "fused_ssim", "compare", *command])
    line += " >&-" if closed == "stdout" else " | true; exit ${PIPESTATUS[0]}"
    done = subprocess.run(["bash", "-c", line], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 3
    assert len(path.read_text().splitlines()) == 4


def test_progress_bar_counts_the_pairs_on_a_terminal(capsys, folders, monkeypatch):
    assert main(["compare", *map(str, folders)]) == 0
    assert capsys.readouterr().err == ""  # a log
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
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
    matches = match(Path("a"), Path("b"), a, b, "name")
    assert matches.pairs == [
        (Path("a/1.png"), Path("b/1.png")),
        (Path("a/2.png"), Path("b/2.jpg")),
    ]
    assert matches.only_a == paths("a", "3.png", "4.jpg", "4.png")
    assert matches.only_b == paths("b", "1.jpg", "3.bmp", "3.jpg", "4.webp")


def test_pairs_that_torch_measures_go_in_batches(capsys, tmp_path, device, monkeypatch):
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.mkdir()
    for i in range(5):
        crop = COFFEE[:, : 380 if i == 3 else 400, 40 * i : 40 * i + 300]
        save(crop, a / f"{i}.png")
        save(crop, b / f"{i}.jpg", quality=10 + 10 * i)
    (b / "1.jpg").write_text("no image")
    sizes = []
    measure = by_torch.measure

    def recording(pairs, *arguments, **options):
        sizes.append(len(pairs))
        return measure(pairs, *arguments, **options)

    monkeypatch.setattr(by_torch, "measure", recording)
    monkeypatch.setattr(pipeline, "_BATCH_PAIRS", 2)
    options = ("--metric", "ssim,psnr,ms-ssim,l1-ssim", "--device", device, "--json")
    code, out, err = run(capsys, "compare", a, b, *options)
    assert code == 2
    assert "1.jpg: not an image" in err
    assert sizes == [1, 1, 1, 1]  # the neighbours are of other sizes, or no image
    assert len(json.loads(out)["pairs"]) == 4
    (b / "1.jpg").unlink()
    (a / "1.png").unlink()
    save(COFFEE[:, :, 120:420], a / "3.png")
    save(COFFEE[:, :, 120:420], b / "3.jpg", quality=40)
    sizes.clear()
    batched = json.loads(call(capsys, "compare", a, b, *options))["pairs"]
    assert sizes == [2, 2]
    for pair in batched:
        alone = json.loads(call(capsys, "compare", pair["a"], pair["b"], *options))
        for key in ("ssim", "psnr_db", "ms_ssim", "l1_ssim"):
            assert pair[key] == pytest.approx(alone[key], abs=1e-6)


def test_numbers_are_shown_even_where_the_csv_cannot_be_written(capsys, folders, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", full)
    code, out, err = run(capsys, "compare", *folders, "--csv", "x.csv")
    assert code == 2
    assert "mean of 3" in out
    assert "cannot write" in err


@pytest.mark.parametrize("option", ["--csv", "--html", "--map"])
def test_a_folder_that_is_missing_is_named_before_anything_is_compared(
    capsys, folders, tmp_path, option
):
    code, out, err = run(capsys, "compare", *folders, option, tmp_path / "missing" / "x")
    assert code == 2
    assert not out
    assert f"there is no folder {tmp_path / 'missing'}; make it" in err
    assert not (tmp_path / "missing").exists()


def test_maps_of_folders_need_a_folder(capsys, folders, tmp_path):
    out = tmp_path / "maps.png"
    line = fails(capsys, "compare", *folders, "--map", out)
    assert "expected the name of a folder for the maps, got a picture's name" in line
    assert not out.exists()
    out.mkdir()
    call(capsys, "compare", *folders, "--map", out)
    assert len(list(out.iterdir())) == 3


# --- files without a partner, sub-folders, hidden files ---


def test_a_file_that_one_folder_lacks_is_a_failure(capsys, folders, tmp_path):
    a, b = folders
    save(COFFEE, a / "left.png")
    save(COFFEE, b / "right.png")
    path = tmp_path / "scores.csv"
    code, out, err = run(capsys, "compare", *folders, "--csv", path, "--json")
    assert code == 2
    assert err.splitlines() == [
        f"fused-ssim: error: {a / 'left.png'}: has no partner in {b}",
        f"fused-ssim: error: {b / 'right.png'}: has no partner in {a}",
    ]
    report = json.loads(out)
    assert len(report["pairs"]) == 3
    assert [(one["a"], one["b"]) for one in report["failed"]] == [
        (str(a / "left.png"), None),
        (None, str(b / "right.png")),
    ]
    with path.open(newline="") as file:
        left, right = list(csv.DictReader(file))[3:]
    assert (left["name_a"], left["name_b"], left["ssim"]) == ("left.png", "", "")
    assert "no partner" in left["error"]
    assert (right["name_a"], right["name_b"]) == ("", "right.png")


def test_hidden_files_are_skipped_and_sub_folders_mentioned(capsys, folders):
    a, _ = folders
    (a / "._coffee.png").write_bytes(b"what macOS leaves behind")
    (a / ".thumbnails").mkdir()
    (a / "more").mkdir()
    code, _, err = run(capsys, "compare", *folders)
    assert code == 0
    assert err == f"fused-ssim: note: {a}: 1 sub-folder not searched; --recursive does\n"


def test_recursive_pairs_by_path(capsys, folders, tmp_path):
    a, b = folders
    for folder in (a, b):
        (folder / "x" / "y").mkdir(parents=True)
        save(COFFEE, folder / "x" / "y" / "coffee.png")
    maps = tmp_path / "maps"
    text = call(capsys, "compare", *folders, "--recursive", "--map", maps)
    assert re.search(r"^x/y/coffee.png +1.000000 ", text, re.MULTILINE)
    assert (maps / "x" / "y" / "coffee.png.png").exists()


def test_a_name_that_is_no_text(folders, tmp_path):
    a, b = folders
    names = os.fsdecode(b"caf\xe9.png"), "two\nlines.png"
    for folder in folders:
        for name in names:
            shutil.copy(a / "coffee.png", folder / name)
    outputs = [tmp_path / "scores.csv", tmp_path / "report.html"]
    command = ["compare", a, b, "--csv", outputs[0], "--html", outputs[1], "--no-progress"]
    environment = {**os.environ, "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "fused_ssim", *map(str, command)],
        check=False,
        capture_output=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert b"caf\\udce9.png" in done.stdout
    assert b"two\\nlines.png" in done.stdout
    for path in outputs:
        assert b"caf\xe9.png" in path.read_bytes()


# --- matching ---


@pytest.mark.parametrize(
    ("rule", "names_b"),
    [
        ("{}_x4_SR", ["coffee_x4_SR.png", "x_x4_SR.png"]),
        ("{}", ["coffee.bmp", "x.png"]),
        ("order", ["frame_1.png", "frame_2.png"]),
    ],
)
def test_matching_rules(capsys, tmp_path, rule, names_b):
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.mkdir()
    for name in ("coffee.png", "x.png"):
        save(COFFEE if name == "coffee.png" else COFFEE.flip(-1), a / name)
    for name in names_b:
        save(COFFEE if name == names_b[0] else COFFEE.flip(-1), b / name)
    report = json.loads(call(capsys, "compare", a, b, "--match", rule, "--json"))
    assert [Path(pair["b"]).name for pair in report["pairs"]] == names_b
    assert [pair["ssim"] for pair in report["pairs"]] == [1.0, 1.0]


def test_bad_matching_rules(capsys, folders):
    assert "a pattern with" in fails(capsys, "compare", *folders, "--match", "x4")
    assert "got a path" in fails(capsys, "compare", *folders, "--match", "sr/{}")
    save(COFFEE, folders[0] / "left.png")
    line = fails(capsys, "compare", *folders, "--match", "order")
    assert "4 images in A and 3 in B" in line


# --- means and minima ---


def test_identical_pairs_are_not_in_the_mean_psnr(capsys, folders):
    a, b = folders
    shutil.copy(a / "coffee.png", b / "coffee.png")
    report = json.loads(call(capsys, "compare", *folders, "--json"))
    others = [pair["psnr_db"] for pair in report["pairs"] if pair["psnr_db"] is not None]
    assert len(others) == 2
    assert report["mean"]["psnr_db"] == pytest.approx(sum(others) / 2)
    assert report["mean"]["identical"] == 1
    text = call(capsys, "compare", *folders)
    assert "the mean PSNR is without 1 identical pair\n" in text
    assert call(capsys, "compare", a, a).splitlines()[-1].split()[-1] == "inf"


def test_a_number_below_its_minimum_is_exit_code_1(capsys, folders):
    options = ("--min", "ssim=0.5", "--min", "psnr=10")
    call(capsys, "compare", *folders, *options)
    a, b = folders
    save(COFFEE.flip(-1), b / "coffee.png")
    code, _, err = run(capsys, "compare", *folders, *options)
    assert code == 1
    assert "fused-ssim: error: coffee.png: ssim 0." in err
    assert "is below the minimum of 0.5" in err
    # A pair that failed outweighs one that is too low.
    (b / "camera.bmp").write_text("no image")
    assert run(capsys, "compare", a, b, *options)[0] == 2


def test_bad_minima(capsys, folders):
    assert "expected METRIC=NUMBER" in fails(capsys, "compare", *folders, "--min", "0.9")
    assert "expected a number" in fails(capsys, "compare", *folders, "--min", "ssim=high")
    assert "lower is better" in fails(capsys, "compare", *folders, "--min", "l1-ssim=0.1")
    line = fails(capsys, "compare", *folders, "--min", "ms-ssim=0.9")
    assert "expected one of --metric ssim,psnr" in line


# --- the page ---


def test_page_of_folders(capsys, folders, tmp_path):
    a, b = folders
    save(COFFEE, a / "a <b> & c.png")
    save(COFFEE.flip(-1), b / "a <b> & c.png")
    save(COFFEE, a / "left.png")
    path = tmp_path / "report.html"
    code, out, _ = run(capsys, "compare", *folders, "--html", path, "--pictures", 2)
    assert code == 2
    text = path.read_text()
    page = Page(text)
    assert "<b>" not in text
    assert page.text.count("a <b> & c.png") == 2  # in the table and above its pictures
    assert page.anchors == ["pair_0", "pair_1"]  # the worst two of four
    assert text.index('id="pair_0"') < text.index("<h3>a &lt;b&gt;") < text.index('id="pair_1"')
    assert page.tags.count("img") == 6
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in page.links)
    assert f"{a / 'left.png'}: has no partner in {b}" in page.text
    ssim = sorted(float(line.split()[-2]) for line in out.splitlines()[3:7])
    in_page = [float(v) for v in re.findall(r'<td data-value="([^"]+)">0', text)]
    assert sorted(in_page) == pytest.approx(ssim, abs=1e-6)


def test_page_of_two_files_and_one_that_cannot_be_written(capsys, folders, tmp_path):
    pair = [folder / "coffee.png" for folder in folders]
    call(capsys, "compare", *pair, "--html", tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())
    assert page.tags.count("img") == 3
    assert "1 pair of images" in page.text
    nowhere = tmp_path / "missing" / "report.html"
    assert "cannot write" in fails(capsys, "compare", *pair, "--html", nowhere)
