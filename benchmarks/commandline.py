"""What `fused-ssim compare` takes, from its start to its end, beside ffmpeg and scikit-image.

    python benchmarks/commandline.py

Needs ffmpeg on the path (Debian's package), Pillow, scikit-image and PyAV. Makes two folders of 1920x1080
photographs, as BMP and as PNG, and two videos out of them, in a temporary folder; prints a table of
times; with --name NAME, writes NAME.json to benchmarks/results/commandline/, too. The programs take turns,
so that a disturbance of the machine meets all of them. ffmpeg's SSIM is another one (windows of 8x8 pixels, every fourth of
them, on Y, Cb and Cr), so only times can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import commit, describe, recorded_command
from PIL import Image, ImageFilter
from report import format_table
from skimage import data

_WIDTH, _HEIGHT = 1920, 1080
_PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
_SKIMAGE_PAIRS = 2  # a pair takes seconds
_RATE, _REPEATS = 25, 4  # of the videos: frames a second, and how often the pictures are shown

_DECODE = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from PIL import Image
def read(path):
    with Image.open(path) as image:
        return np.asarray(image)
files = sorted(path for folder in sys.argv[1:] for path in Path(folder).iterdir())
with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
    for done in [pool.submit(read, path) for path in files]:
        done.result()
"""

_SKIMAGE = """
import sys
from pathlib import Path
from skimage.io import imread
from skimage.metrics import structural_similarity
count, a, b = int(sys.argv[1]), *map(Path, sys.argv[2:])
for path in sorted(a.iterdir())[:count]:
    structural_similarity(imread(path), imread(b / path.name), channel_axis=-1, data_range=255,
                          gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
"""


def main() -> int:
    """Make the files, measure, print, write."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--budget", type=float, default=90.0, metavar="SECONDS", help="a group")
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "results/commandline")
    options.add_argument("--name", help="of the file, without .json (default: none is written)")
    options.add_argument("--pairs", type=int, default=40, metavar="N")
    options.add_argument("--width", type=int, default=_WIDTH)
    options.add_argument("--height", type=int, default=_HEIGHT)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        groups = _commands(Path(folder), arguments.pairs, (arguments.width, arguments.height))
        results = {
            group: _by_turns(commands, arguments.budget) for group, commands in groups.items()
        }
    rows = [
        [
            group,
            name,
            *(f"{statistics.median(run[clock] for run in runs):.2f} s" for clock in (0, 1)),
        ]
        for group, times in results.items()
        for name, runs in times.items()
    ]
    print(format_table(["what", "program", "wall clock", "all cores' work"], rows))
    facts = describe(torch.device("cpu"))
    results_file = {
        "command": recorded_command("benchmarks/commandline.py"),
        "commit": commit(),
        "machine": facts,
        "load_average": os.getloadavg()[0],
        "ffmpeg": _first_line(["ffmpeg", "-version"]),
        "pairs": arguments.pairs,
        "scikit_image_pairs": _SKIMAGE_PAIRS,
        "size": [arguments.width, arguments.height],
        "times": {
            group: {
                name: {
                    "median_s": statistics.median(wall for wall, _ in runs),
                    "best_s": min(wall for wall, _ in runs),
                    "cpu_s": statistics.median(cpu for _, cpu in runs),
                    "samples": len(runs),
                }
                for name, runs in times.items()
            }
            for group, times in results.items()
        },
    }
    if arguments.name is not None:
        path = arguments.out / f"{arguments.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results_file, indent=1) + "\n")
    return 0


def _commands(folder: Path, pairs: int, size: tuple[int, int]) -> dict[str, dict[str, list[str]]]:
    """By group and program; makes the files."""
    for kind in ("bmp", "png"):
        for name in ("a", "b"):
            (folder / kind / name).mkdir(parents=True)
    for index in range(pairs):
        photo = _photo(index, size)
        for name, picture in (("a", photo), ("b", photo.filter(ImageFilter.GaussianBlur(1)))):
            for kind in ("bmp", "png"):
                picture.save(folder / kind / name / f"{index:04}.{kind}")
    for name, quality in (("a", 20), ("b", 32)):
        command = ["ffmpeg", "-v", "error", "-stream_loop", str(_REPEATS - 1), "-r", str(_RATE)]
        command += ["-i", str(folder / "bmp/a/%04d.bmp"), "-pix_fmt", "yuv420p", "-c:v", "libx264"]
        command += ["-preset", "veryfast", "-crf", str(quality), str(folder / f"{name}.mp4")]
        subprocess.run(command, check=True)

    ours = [sys.executable, "-m", "fused_ssim", "compare", "--no-progress"]
    python = [sys.executable, "-c"]
    ffmpeg = ["ffmpeg", "-v", "error"]
    ssim = ["-lavfi", "ssim", "-f", "null", "-"]
    bmp, png = ([str(folder / kind / name) for name in ("a", "b")] for kind in ("bmp", "png"))
    videos = [str(folder / f"{name}.mp4") for name in ("a", "b")]
    return {
        "BMP": {
            "fused-ssim": [*ours, *bmp],
            "ffmpeg": [*ffmpeg, "-i", f"{bmp[0]}/%04d.bmp", "-i", f"{bmp[1]}/%04d.bmp", *ssim],
            "scikit-image": [*python, _SKIMAGE, str(_SKIMAGE_PAIRS), *bmp],
        },
        "PNG": {"fused-ssim": [*ours, *png], "decoding alone": [*python, _DECODE, *png]},
        "video": {
            "fused-ssim": [*ours, *videos],
            "ffmpeg": [*ffmpeg, "-i", videos[0], "-i", videos[1], *ssim],
            "ffmpeg, decoding alone": [
                *(*ffmpeg, "-i", videos[0], "-i", videos[1]),
                *("-map", "0:v", "-map", "1:v", "-f", "null", "-"),
            ],
        },
    }


def _photo(index: int, size: tuple[int, int]) -> Image.Image:
    """A sample photograph, another part of it for each index."""
    photo = Image.fromarray(getattr(data, _PHOTOS[index % len(_PHOTOS)])())
    scaled = photo.resize((size[0] + 64, size[1] + 64), Image.Resampling.BICUBIC)
    left, top = (index * 7) % 64, (index * 11) % 64
    cropped = np.asarray(scaled)[top : top + size[1], left : left + size[0]]
    noise = np.random.default_rng(index).integers(-3, 4, cropped.shape)
    return Image.fromarray(np.clip(cropped + noise, 0, 255).astype(np.uint8))


def _by_turns(
    commands: dict[str, list[str]], budget_s: float
) -> dict[str, list[tuple[float, float]]]:
    """Seconds by the wall clock and of all cores, of runs after one that warms the file cache."""
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for command in commands.values():
        _seconds(command)
    start = time.perf_counter()
    while not all(runs.values()) or time.perf_counter() - start < budget_s:
        for name, command in commands.items():
            runs[name].append(_seconds(command))
    return runs


def _seconds(command: list[str]) -> tuple[float, float]:
    def work() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before, start = work(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start, work() - before


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()[0]


if __name__ == "__main__":
    if shutil.which("ffmpeg") is None:
        sys.exit("expected ffmpeg on the path; Debian's package has it")
    sys.exit(main())
