"""The arguments of `compare`. Needs no optional package."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from fused_ssim._parameters import BORDERS, MAX_WINDOW_SIZE, PADDINGS, WINDOWS
from fused_ssim.cli.argument_types import (
    Commands,
    Group,
    add_device,
    add_no_progress,
    below_one,
    integer_from,
    number,
    positive_number,
)
from fused_ssim.cli.matching import PLACEHOLDER
from fused_ssim.cli.settings import CHANNELS, METRICS, Metric

_DESCRIPTION = """\
Compare two images, two folders of images, or two videos.

Two images: prints SSIM, the SSIM of each channel, and PSNR.
Two folders: pairs the images by name, prints a table and the mean. Names match exactly
("a.png" with "a.png"), or without the suffix where that is unambiguous ("a.png" with
"a.jpg"); --match has other ways. A file without a partner is a failure. Hidden files are
skipped, and sub-folders unless --recursive is given.
Two videos (needs the extra [video]): compares frame by frame, and prints means and percentiles.
"""

_EPILOG = """\
How images are read:
  values         8-bit and 16-bit images are scaled to 0..1, the data range of SSIM and PSNR.
                 Pillow reads 16-bit grayscale in full but 16-bit colour as 8 bits.
                 Floating-point images must lie in 0..1 and 32-bit integers are refused,
                 unless --data-range tells what white is.
  orientation    the EXIF orientation is applied.
  transparency   is blended onto --background; an opaque image is unaffected.
  grayscale      has one channel; beside a colour image it counts as three equal channels.
  others         palette, CMYK, Lab and YCbCr images become RGB; colour profiles are not
                 applied; of an animation the first frame counts.

How videos are read:
  luma           as it is stored, 8 bits into the kernels as they are and more of them as numbers
                 of 0..1: what ffmpeg compares, though by another SSIM. --channels rgb, each and
                 y-full take the colours as FFmpeg converts them.
  frames         are paired by their order; a frame without a partner is a failure. Rates must
                 agree (unless --match order), times that differ are told.
  --min          is of the mean over the frames.

Metrics:
  ssim           the mean over all pixels and channels.
  ms-ssim        on five scales (Wang et al. 2003), with --padding valid unless it is given;
                 needs sides of at least 161 pixels.
  psnr           10 log10(1 / MSE) over all pixels and channels: "inf" for identical images, null
                 in JSON. The mean over a folder leaves identical pairs out.
  l1-ssim        0.8 L1 + 0.2 (1 - SSIM), the loss of 3D Gaussian splatting; 0 is best.
  Only --padding valid gives the SSIM that papers, scikit-image and pytorch-msssim report.

Exit code: 0; 1 when a number is below its --min; 2 when an image is missing, unreadable, without
partner or of a different size than its partner. With folders the other pairs are compared all the
same.

examples:
  fused-ssim compare render.png photo.png --map map.png
  fused-ssim compare renders/ photos/ --csv scores.csv --min ssim=0.95
  fused-ssim compare a.png b.png --padding valid --json
  fused-ssim compare source.mp4 encoded.mp4 --csv frames.csv --html report.html
  fused-ssim compare hr/ sr/ --match '{}_x4_SR' --channels y --crop-border 4 --padding valid
"""


def add(commands: Commands) -> None:
    """Adds the command."""
    compare = commands.add_parser(
        "compare",
        help="compare two images, two folders of images, or two videos",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    compare.add_argument("a", metavar="A", type=Path, help="image, folder or video")
    compare.add_argument("b", metavar="B", type=Path, help="image, folder or video")
    _add_reading(compare.add_argument_group("reading"))
    _add_measuring(compare.add_argument_group("measuring"))
    _add_output(compare.add_argument_group("output"))
    compare.set_defaults(run=_run, parser=compare)


def _add_reading(group: Group) -> None:
    group.add_argument(
        "--match",
        type=_matching,
        default="name",
        metavar="RULE",
        help="how the files of two folders are paired: name (default), order, or what B's name "
        'without the suffix is, "{}" standing for A\'s: "{}_x4_SR", "{}"',
    )
    group.add_argument("--recursive", action="store_true", help="search sub-folders, too")
    group.add_argument(
        "--background",
        default="white",
        metavar="COLOUR",
        help='colour behind transparent pixels: a name or "#rrggbb" (default: %(default)s)',
    )
    group.add_argument(
        "--data-range",
        type=positive_number,
        metavar="V",
        help="what white is in images of more than 8 bits: 4095 for 12 bits in a file of 16, 255 for "
        "floating-point images of 0..255 (default: 65535 for 16 bits, 1 for floating point)",
    )
    group.add_argument(
        "--any-size",
        action="store_true",
        help="read images beyond Pillow's limit against decompression bombs (179 million pixels)",
    )


def _add_measuring(group: Group) -> None:
    group.add_argument(
        "--metric",
        type=_metrics,
        default=("ssim", "psnr"),
        metavar="LIST",
        help=f"what to measure, by commas: {', '.join(METRICS)} (default: ssim,psnr)",
    )
    group.add_argument(
        "--padding",
        choices=(*PADDINGS, *BORDERS),
        help="same: every pixel counts, zeros beyond the border (default); valid: only windows that "
        "lie wholly inside the image, which is the number that papers, scikit-image and "
        "pytorch-msssim report; reflect, replicate: the image goes on beyond the border",
    )
    group.add_argument(
        "--window",
        type=_window,
        default="gaussian",
        metavar="W",
        help="gaussian (default), uniform, or taps by commas that sum to 1: 0.25,0.5,0.25",
    )
    group.add_argument(
        "--window-size",
        type=_window_size,
        default=11,
        metavar="N",
        help="width of a named window, odd (default: %(default)s)",
    )
    group.add_argument(
        "--sigma",
        type=positive_number,
        default=1.5,
        metavar="S",
        help="standard deviation of the Gaussian window in pixels (default: %(default)s)",
    )
    group.add_argument(
        "--channels",
        choices=CHANNELS,
        help="each: all, with each one's number (default for images); rgb: all, their mean alone; y: "
        "the luma of ITU-R BT.601 in studio swing (16 to 235), as papers on super-resolution take "
        "it, of videos the luma as it is stored (their default); y-full: in full swing (0 to 255), as "
        "JPEG does",
    )
    group.add_argument(
        "--crop-border",
        type=integer_from(0),
        default=0,
        metavar="N",
        help="leave out N pixels at each border",
    )
    group.add_argument(
        "--mask",
        type=Path,
        metavar="FILE",
        help="a gray image of the images' size: weights of pixels, white ones count (needs torch)",
    )
    add_device(group)


def _add_output(group: Group) -> None:
    group.add_argument(
        "--min",
        type=_minimum,
        action="append",
        default=[],
        metavar="METRIC=V",
        help="exit with 1 when a pair's number is lower: ssim=0.95; may be given several times",
    )
    group.add_argument(
        "--map",
        type=Path,
        metavar="PATH",
        help="write the SSIM map as a heat map with a legend; with two folders or videos (of which the "
        "worst frames have maps), a folder to fill, made if only its last level is missing",
    )
    group.add_argument(
        "--map-min",
        type=below_one,
        default=0.0,
        metavar="V",
        help="SSIM at the hot end of the heat map's scale, whose cold end is 1 "
        "(default: %(default)s); raise it to see small differences",
    )
    group.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        help="write one row for each pair, or frame, and each failure",
    )
    group.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="write a page that needs no other file: a table to sort, pictures, heat maps, and of "
        "videos SSIM over time",
    )
    group.add_argument(
        "--pictures",
        type=integer_from(1),
        metavar="N",
        help="how many pairs or frames --html shows, and of how many frames --map has maps, the worst "
        "first (default: 40 pairs, 8 frames)",
    )
    group.add_argument("--json", action="store_true", help="print JSON instead of text")
    add_no_progress(group)


def _matching(text: str) -> str:
    if text not in ("name", "order") and PLACEHOLDER not in text:
        raise argparse.ArgumentTypeError(
            f'expected name, order or a pattern with "{PLACEHOLDER}", got {text!r}'
        )
    if "/" in text:
        raise argparse.ArgumentTypeError(f"expected a pattern for a name, got a path: {text!r}")
    return text


def _metric(text: str) -> Metric:
    if text not in METRICS:
        raise argparse.ArgumentTypeError(f"expected {', '.join(METRICS)}, got {text!r}")
    return text


def _metrics(text: str) -> tuple[Metric, ...]:
    # Each once, in the order given.
    return tuple(dict.fromkeys(_metric(word.strip()) for word in text.split(",")))


def _window(text: str) -> str | tuple[float, ...]:
    if text in WINDOWS:
        return text
    if "," not in text:
        raise argparse.ArgumentTypeError(
            f"expected {', '.join(WINDOWS)} or taps by commas, got {text!r}"
        )
    taps = tuple(number(word) for word in text.split(","))
    # The kernels refuse the same, but know neither the option nor the text.
    if len(taps) % 2 == 0:
        raise argparse.ArgumentTypeError(
            f"expected an odd number of taps, got {len(taps)}; add a tap of 0 at one end"
        )
    if not all(0.0 <= tap < math.inf for tap in taps):
        raise argparse.ArgumentTypeError(
            f"expected finite taps that are not negative, got {text}; give weights of pixels"
        )
    total = math.fsum(taps)
    if abs(total - 1.0) > 1e-6:
        raise argparse.ArgumentTypeError(
            f"expected taps that sum to 1, got a sum of {total:.9g}; divide them by it"
        )
    return taps


def _window_size(text: str) -> int:
    size = integer_from(1)(text)
    if size > MAX_WINDOW_SIZE:
        raise argparse.ArgumentTypeError(f"expected at most {MAX_WINDOW_SIZE} taps, got {size}")
    if size % 2 == 0:
        raise argparse.ArgumentTypeError(
            f"expected an odd number of taps, got {size}; give {size - 1} or {size + 1}"
        )
    return size


def _minimum(text: str) -> tuple[Metric, float]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected METRIC=NUMBER, got {text!r}")
    metric = _metric(name)
    if metric == "l1-ssim":
        raise argparse.ArgumentTypeError("l1-ssim is a loss: lower is better, so it has no minimum")
    least = number(value)
    if math.isnan(least):
        raise argparse.ArgumentTypeError("expected a number, got nan")
    return metric, least


def _run(arguments: argparse.Namespace) -> int:
    from fused_ssim.cli import compare  # needs numpy and Pillow

    return compare.run(arguments)
