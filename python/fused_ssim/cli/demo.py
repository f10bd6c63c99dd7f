"""`fused-ssim demo`: what SSIM sees that PSNR does not, and an image fitted by SSIM."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

import fused_ssim
from fused_ssim.cli.by_torch import batch
from fused_ssim.cli.distortions import DISTORTIONS, at_psnr
from fused_ssim.cli.errors import CliError
from fused_ssim.cli.heatmap import colourise, draw_legend, heat_map
from fused_ssim.cli.images import Pixels, from_pil, make_folder, read_image, save_image, to_pil
from fused_ssim.cli.measure import Scores, as_floats, check_settings, measure
from fused_ssim.cli.parser import DEMO_PHOTOS
from fused_ssim.cli.progress import progress
from fused_ssim.cli.settings import Settings
from fused_ssim.cli.sheet import Tile, contact_sheet
from fused_ssim.cli.tables import counted, psnr_text, ssim_text, text_table

TARGET_PSNR_DB = 22.0
_LEARNING_RATE = 0.05


@dataclass(frozen=True)
class Sample:
    """A spoiled or fitted version of the photograph."""

    name: str
    pixels: Pixels
    scores: Scores

    @property
    def ssim(self) -> float:
        """With the photograph."""
        return self.scores.values["ssim"]

    @property
    def psnr_db(self) -> float:
        """With the photograph."""
        return self.scores.values["psnr"]

    def tile(self) -> Tile:
        """The sample as a captioned picture above its SSIM map."""
        detail = f"SSIM {self.ssim:.3f}  PSNR {self.psnr_db:.1f} dB"
        return Tile(to_pil(self.pixels), to_pil(colourise(self.mean_map())), self.name, detail)

    def mean_map(self) -> Pixels:
        """[H, W]: the SSIM map, its mean over the channels."""
        assert self.scores.ssim_map is not None  # _sample() asks for it
        mean: Pixels = self.scores.ssim_map.mean(axis=0)
        return mean


def run(arguments: argparse.Namespace) -> int:
    """Distort, fit, print and write the pictures."""
    settings = Settings(device=arguments.device)
    check_settings(settings)
    photo = load_photo(arguments.photo, arguments.size)
    out: Path = arguments.out
    make_folder(out)

    print(f"photograph: {arguments.photo}, {arguments.size} x {arguments.size} pixels")
    distorted = [
        _sample(distortion.name, at_psnr(distortion, photo, TARGET_PSNR_DB), photo, settings)
        for distortion in DISTORTIONS
    ]
    distorted.sort(key=lambda sample: sample.ssim, reverse=True)
    print(f"\nDistorted, each time as strongly as makes the PSNR {TARGET_PSNR_DB:g} dB:\n")
    _print_samples(distorted)

    print(f"\nFitting an image of noise to the photograph, {arguments.steps} steps of Adam:\n")
    sys.stdout.flush()  # before the progress bar, which goes to stderr
    noise = np.random.default_rng(arguments.seed).random(photo.shape, np.float32)
    start = time.perf_counter()
    stages = fit(noise, photo, arguments.steps, arguments.device, show=not arguments.no_progress)
    seconds = time.perf_counter() - start
    fitted = [_sample(_stage_name(step), stages[step], photo, settings) for step in sorted(stages)]
    _print_samples(fitted)
    rate = arguments.steps / seconds
    print(f"\n{seconds:.1f} s, {rate:.0f} steps a second on {arguments.device}")

    _write_pictures(out, photo, distorted, fitted)
    print(f"pictures written to {out}; see {out / 'overview.png'} first")
    return 0


def load_photo(name: str, side: int) -> Pixels:
    """A sample of scikit-image or an image file, as a square of `side` pixels."""
    if name in DEMO_PHOTOS:
        samples = importlib.import_module("skimage.data")
        picture = Image.fromarray(getattr(samples, name)())
    elif Path(name).exists():
        picture = to_pil(read_image(Path(name)))
    else:
        raise CliError(f"{name}: neither a file nor one of {', '.join(DEMO_PHOTOS)}")
    return as_floats(from_pil(ImageOps.fit(picture, (side, side), Image.Resampling.LANCZOS)))


def fit(start: Pixels, target: Pixels, steps: int, device: str, *, show: bool) -> dict[int, Pixels]:
    """Maximise the SSIM of an image with `target`, from `start` on.

    Returns the image at some stages, by the number of steps done; the first is 0, the last `steps`.
    """
    goal = batch([target], device)
    image = batch([start], device).requires_grad_()
    optimiser = torch.optim.Adam([image], lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    stages = {0: start}
    keep = {steps // 30, steps // 10, steps // 3, steps}
    bar = progress(range(1, steps + 1), "fitting", "step", show=show)
    for step in bar:
        optimiser.zero_grad()
        ssim = fused_ssim.fused_ssim(image, goal)
        (1.0 - ssim).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            image.clamp_(0.0, 1.0)
        if step in keep:
            stages[step] = image.detach()[0].permute(1, 2, 0).cpu().numpy().copy()
        bar.set_postfix_str(f"SSIM {ssim.item():.4f}", refresh=False)
    return stages


def _stage_name(step: int) -> str:
    return counted(step, "step") if step else "noise"


def _sample(name: str, pixels: Pixels, photo: Pixels, settings: Settings) -> Sample:
    return Sample(name, pixels, measure(pixels, photo, settings, with_map=True))


def _print_samples(samples: Sequence[Sample]) -> None:
    rows = [(sample.name, ssim_text(sample.ssim), psnr_text(sample.psnr_db)) for sample in samples]
    print(text_table(("image", "SSIM", "PSNR (dB)"), rows))


def _write_pictures(
    out: Path, photo: Pixels, distorted: Sequence[Sample], fitted: Sequence[Sample]
) -> None:
    target = to_pil(photo)
    save_image(target, out / "target.png")
    for sample in distorted:
        save_image(to_pil(sample.pixels), out / f"distorted_{sample.name}.png")
    for name, sample in (("before", fitted[0]), ("after", fitted[-1])):
        save_image(to_pil(sample.pixels), out / f"{name}.png")
        save_image(heat_map(sample.mean_map()[None]), out / f"ssim_map_{name}.png")

    photo_tile = Tile(target, draw_legend(target.height), "photograph", "the target")
    sections = [
        (
            f"All at a PSNR of {TARGET_PSNR_DB:g} dB: SSIM tells them apart",
            [sample.tile() for sample in distorted],
        ),
        (
            "Fitted to the photograph, from noise, by maximising SSIM",
            [*(sample.tile() for sample in fitted), photo_tile],
        ),
    ]
    save_image(contact_sheet(sections), out / "overview.png")
