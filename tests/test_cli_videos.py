"""`fused-ssim compare` on videos, against frames that were written as pictures, and in its own words."""

from __future__ import annotations

import csv
import json
import statistics
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

import fused_ssim
from commandline import COFFEE, Page, call, fails, pixels, run, save
from fused_ssim.cli import main
from fused_ssim.cli.images import to_pil
from fused_ssim.cli.plot import timeline

WIDTH, HEIGHT, FRAMES, RATE = 130, 98, 12, 5  # rows that no decoder leaves without padding


def pictures(spoiled: bool = False) -> list[np.ndarray]:
    """[H, W, 3], uint8: a photograph that moves; spoiled, the more so the later."""
    photo = np.asarray(to_pil(pixels(COFFEE)))
    noise = np.random.default_rng(0)
    found = []
    for i in range(FRAMES):
        frame = photo[2 * i : 2 * i + HEIGHT, 5 * i : 5 * i + WIDTH].astype(int)
        if spoiled:
            frame = frame + noise.integers(-3 * i, 3 * i + 1, frame.shape)
        found.append(np.clip(frame, 0, 255).astype(np.uint8))
    return found


def write_video(
    path,
    frames,
    *,
    codec="ffv1",
    kind="yuv420p",
    via="rgb24",
    rate=RATE,
    times=None,
    full_swing=False,
    damage=None,
):
    """Without loss by default; `times` are in frames, colours become `kind` by way of `via`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], kind
        stream.codec_context.time_base = Fraction(1, 10 * rate)
        if full_swing:
            stream.codec_context.color_range = 2
        for i, values in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(values, format="rgb24").reformat(format=via)
            frame = frame.reformat(format=kind)
            if full_swing:
                frame.color_range = 2
            frame.pts = 10 * (i if times is None else times[i])
            frame.time_base = Fraction(1, 10 * rate)
            _mux(container, stream.encode(frame), damage)
        _mux(container, stream.encode(), damage)
    return path


def _mux(container, packets, damage):
    """Writes packets, half of the one at the time `damage` overwritten."""
    for packet in packets:
        if packet.pts == damage:
            data = bytearray(bytes(packet))
            middle = len(data) // 2
            data[middle:] = bytes(value ^ 0xA5 for value in data[middle:])
            hurt = av.Packet(bytes(data))
            hurt.pts, hurt.dts, hurt.time_base = packet.pts, packet.dts, packet.time_base
            hurt.is_keyframe, hurt.stream = packet.is_keyframe, packet.stream
            packet = hurt
        container.mux(packet)


def decoded(path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def plane(frame, kind=np.uint8) -> np.ndarray:
    first = frame.planes[0]
    values = np.frombuffer(bytes(first), kind).reshape(first.height, -1)
    return values[:, : frame.width]


@pytest.fixture
def videos(tmp_path):
    return (
        write_video(tmp_path / "a.mkv", pictures()),
        write_video(tmp_path / "b.mkv", pictures(spoiled=True)),
    )


def report(capsys, *arguments):
    return json.loads(call(capsys, "compare", *arguments, "--json"))


# --- the numbers ---


@pytest.mark.parametrize("channels", ["y", "rgb"])
def test_numbers_are_those_of_the_frames_as_pictures(capsys, videos, tmp_path, channels):
    folders = []
    for path in videos:
        folder = tmp_path / path.stem
        folder.mkdir()
        folders.append(folder)
        for i, frame in enumerate(decoded(path)):
            picture = frame.to_image() if channels == "rgb" else Image.fromarray(plane(frame))
            picture.save(folder / f"{i:02}.png")
    options = ("--channels", "rgb", "--metric", "ssim,psnr,l1-ssim")
    pairs = report(capsys, *folders, *options)["pairs"]
    options = ("--channels", channels, *options[2:])
    found = report(capsys, *videos, *options)
    assert len(found["frames"]) == FRAMES
    for frame, pair in zip(found["frames"], pairs, strict=True):
        assert all(frame[key] == pair[key] for key in ("ssim", "psnr_db", "l1_ssim"))
    assert [frame["time_s"] for frame in found["frames"]] == pytest.approx(
        [i / RATE for i in range(FRAMES)]
    )
    assert found["frames"][0]["ssim"] == 1.0
    assert found["frames"][0]["psnr_db"] is None


def test_luma_is_what_is_measured_by_default(capsys, videos):
    default, luma = report(capsys, *videos), report(capsys, *videos, "--channels", "y")
    assert default == luma
    assert default["settings"]["channels"] == "y"


@pytest.mark.parametrize(
    ("kinds", "bits", "full_swing"),
    [
        (("yuv420p10le", "yuv420p10le"), (10, 10), False),
        (("yuv420p", "yuv422p10le"), (8, 10), False),
        (("gray12le", "gray12le"), (12, 12), True),
    ],
)
def test_more_than_8_bits(capsys, tmp_path, device, kinds, bits, full_swing):
    paths = [
        write_video(tmp_path / f"{i}.mkv", pictures(bool(i)), kind=kinds[i], full_swing=full_swing)
        for i in (0, 1)
    ]
    found = report(capsys, *paths, "--device", device)
    assert [found[name]["bits"] for name in "ab"] == list(bits)
    expected = []
    for frames in zip(*map(decoded, paths), strict=True):
        # Studio swing of 8 bits is that of 10 without the last two.
        x, y = (
            plane(frame, np.uint16 if depth > 8 else np.uint8).astype(np.float64)
            * 2.0 ** (max(bits) - depth)
            / (2 ** max(bits) - 1)
            for frame, depth in zip(frames, bits, strict=True)
        )
        expected.append(fused_ssim.fused_ssim(*(torch.tensor(v)[None, None] for v in (x, y))))
    assert [frame["ssim"] for frame in found["frames"]] == pytest.approx(
        [value.item() for value in expected], abs=1e-6
    )


def test_formats_whose_luma_does_not_lie_alone(capsys, tmp_path, videos):
    options = {"codec": "rawvideo", "kind": "yuyv422", "via": "yuv420p"}
    packed = write_video(tmp_path / "a.mov", pictures(), **options)
    found = report(capsys, packed, videos[1])
    assert found["frames"] == report(capsys, *videos)["frames"]
    colours = [write_video(tmp_path / f"{i}.mkv", pictures(bool(i)), kind="bgr0") for i in (0, 1)]
    folders = []
    for name, spoiled in (("x", False), ("y", True)):
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        for i, picture in enumerate(pictures(spoiled)):
            Image.fromarray(picture).save(folders[-1] / f"{i:02}.png")
    pairs = report(capsys, *folders, "--channels", "y")["pairs"]
    frames = report(capsys, *colours)["frames"]
    assert [frame["ssim"] for frame in frames] == [pair["ssim"] for pair in pairs]


def test_statistics(capsys, videos, tmp_path):
    path = tmp_path / "frames.csv"
    found = report(capsys, *videos, "--csv", path, "--metric", "psnr,ssim")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["frame", "time_s", "psnr_db", "ssim", "error"]
    assert [int(row["frame"]) for row in rows] == list(range(FRAMES))
    ssim = [float(row["ssim"]) for row in rows]
    assert ssim == [frame["ssim"] for frame in found["frames"]]
    numbers = found["statistics"]["ssim"]
    assert numbers["mean"] == pytest.approx(statistics.fmean(ssim))
    assert numbers["harmonic_mean"] == pytest.approx(statistics.harmonic_mean(ssim))
    assert (numbers["min"], numbers["max"]) == (min(ssim), max(ssim))
    assert numbers["p50"] in sorted(ssim)[5:7]
    assert found["statistics"]["count"] == FRAMES
    # The first frames are identical: they are not in the mean PSNR.
    psnr = [float(row["psnr_db"]) for row in rows]
    assert psnr[0] == float("inf")
    assert found["statistics"]["psnr_db"]["mean"] == pytest.approx(statistics.fmean(psnr[1:]))
    text = call(capsys, "compare", *videos)
    assert f"{numbers['harmonic_mean']:.6f}" in text
    assert "worst   frame 11 at 2.20 s" in text


def test_minimum_is_of_the_mean(capsys, videos):
    found = report(capsys, *videos)["statistics"]["ssim"]
    between = (found["min"] + found["mean"]) / 2
    call(capsys, "compare", *videos, "--min", f"ssim={between}")
    code, _, err = run(capsys, "compare", *videos, "--min", f"ssim={found['mean'] + 0.001}")
    assert code == 1
    assert "b.mkv: mean ssim 0." in err


def test_mask_window_and_crop_reach_the_kernels(capsys, videos, tmp_path):
    mask = torch.zeros(1, HEIGHT, WIDTH)
    mask[:, 20:60, 30:90] = 1.0
    path = save(mask, tmp_path / "mask.png")
    options = ("--mask", path, "--window-size", 7, "--crop-border", 4)
    found = report(capsys, *videos, *options)["frames"][-1]["ssim"]
    x, y = (
        torch.tensor(plane(decoded(video)[-1]) / 255.0)[None, None, 4:-4, 4:-4] for video in videos
    )
    expected = fused_ssim.ssim(x, y, window_size=7, mask=mask[:, 4:-4, 4:-4][None].double())
    assert found == pytest.approx(expected.item(), abs=1e-6)


# --- what does not go together ---


def test_a_video_that_ends_early(capsys, videos, tmp_path):
    short = write_video(tmp_path / "short.mkv", pictures(spoiled=True)[:-3])
    path = tmp_path / "frames.csv"
    code, out, err = run(capsys, "compare", videos[0], short, "--csv", path)
    assert code == 2
    assert f"frames  {FRAMES - 3}" in out
    assert err.startswith(f"fused-ssim: error: {short} ends after 9 frames, {videos[0]} has more")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == FRAMES - 2
    assert "no partner" in rows[-1]["error"]


def test_rates_that_differ(capsys, videos, tmp_path):
    fast = write_video(tmp_path / "fast.mkv", pictures(spoiled=True), rate=2 * RATE)
    line = fails(capsys, "compare", videos[0], fast)
    assert "5 and 10 frames a second" in line
    found = report(capsys, videos[0], fast, "--match", "order")
    assert [frame["ssim"] for frame in found["frames"]] == [
        frame["ssim"] for frame in report(capsys, *videos)["frames"]
    ]


def test_variable_frame_rate(capsys, tmp_path):
    times = [0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    paths = [
        write_video(tmp_path / f"{i}.mkv", pictures(bool(i)), times=times if i < 2 else None)
        for i in range(3)
    ]
    found = report(capsys, *paths[:2])
    assert [frame["time_s"] for frame in found["frames"]] == pytest.approx(
        [time / RATE for time in times]
    )
    code, _, err = run(capsys, "compare", paths[0], paths[2])
    assert code == 0
    assert "frame 3 is shown after 1.000 s and after 0.600 s" in err


def test_what_cannot_be_compared(capsys, videos, tmp_path):
    a = videos[0]
    small = write_video(tmp_path / "small.mkv", [one[:64, :64] for one in pictures()])
    assert "different sizes: 130x98 and 64x64 pixels" in fails(capsys, "compare", a, small)
    full = write_video(tmp_path / "full.mkv", pictures(), full_swing=True)
    assert "luma in full swing (0 to 255)" in fails(capsys, "compare", a, full)
    call(capsys, "compare", a, full, "--channels", "rgb")
    photo = save(COFFEE, tmp_path / "coffee.png")
    assert "two images, two folders or two videos" in fails(capsys, "compare", a, photo)
    text = tmp_path / "text.mp4"
    text.write_text("hello")
    assert f"{text}: not a video that FFmpeg can read" in fails(capsys, "compare", a, text)
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    assert f"{sound}: has no video stream" in fails(capsys, "compare", a, sound)
    empty = tmp_path / "empty.y4m"
    empty.write_text("YUV4MPEG2 W130 H98 F5:1 C420jpeg\n")
    assert "no frame to compare" in fails(capsys, "compare", empty, empty)
    assert f"{empty} has no frame, {a} has more" in fails(capsys, "compare", a, empty)
    assert "videos tell what white is" in fails(capsys, "compare", *videos, "--data-range", 255)
    assert "frames have no names" in fails(capsys, "compare", *videos, "--match", "{}_x4")
    assert "smaller than the window of 99" in fails(
        capsys, "compare", *videos, "--padding", "valid", "--window-size", 99
    )


def test_frames_before_a_fault_are_listed(capsys, videos, tmp_path):
    cut = tmp_path / "cut.mkv"
    whole = videos[1].read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    code, out, err = run(capsys, "compare", videos[0], cut)
    assert code == 2
    assert "SSIM" in out
    assert len(err.splitlines()) == 1


def test_damaged_frames_are_a_failure(capsys, tmp_path):
    videos = [
        write_video(tmp_path / f"{i}.mkv", pictures(), codec="mpeg4", damage=[None, 30][i])
        for i in (0, 1)
    ]
    call(capsys, "compare", videos[0], videos[0])
    code, out, err = run(capsys, "compare", *videos)
    assert code == 2
    assert f"frames  {FRAMES}" in out
    assert f"{videos[1]}: 1 damaged frame, the first is frame 3; what the decoder made" in err


# --- pictures, pages, progress ---


def test_page_of_videos(capsys, videos, tmp_path):
    path, maps = tmp_path / "report.html", tmp_path / "maps"
    text = call(capsys, "compare", *videos, "--html", path, "--map", maps, "--pictures", 2)
    page = Page(path.read_text())
    # Each second has one: the worst of the third second is the last of all.
    assert page.anchors == ["frame_000011", "frame_000009"]
    assert sorted(one.name for one in maps.iterdir()) == ["frame_000009.png", "frame_000011.png"]
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in page.links)
    assert page.tags.count("img") == 6
    assert page.tags.count("polyline") == 1
    assert page.tags.count("circle") == 2
    mean = next(line for line in text.splitlines() if line.startswith("SSIM")).split()[1]
    assert mean in page.text


def test_page_of_a_video_beside_itself(capsys, videos, tmp_path):
    path = tmp_path / "report.html"
    call(capsys, "compare", videos[0], videos[0], "--html", path)
    assert Page(path.read_text()).tags.count("polyline") == 1


def test_a_long_curve_has_a_band_and_few_points():
    values = [0.9 + 0.05 * (i % 2) for i in range(5000)]
    values[777] = 0.1
    values[3] = float("inf")
    svg = timeline(values, [i / 25 for i in range(5000)], {777: "worst"}, "SSIM")
    points = {
        name: svg.split(f'class="{name}" points="')[1].split('"')[0].split()
        for name in ("line", "band")
    }
    assert len(points["line"]) <= 800
    assert len(points["band"]) == 2 * len(points["line"])
    heights = [float(point.split(",")[1]) for point in points["band"]]
    assert max(heights) == pytest.approx(float(svg.split('cy="')[1].split('"')[0]), abs=0.1)
    assert "nan" not in svg
    assert "frame" in timeline([0.5, 0.6], [None, 0.1], {}, "SSIM")


def test_progress_counts_frames(capsys, videos, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["compare", *map(str, videos)]) == 0
    err = capsys.readouterr().err
    assert f"{FRAMES}" in err
    assert "frame/s" in err
