"""The arguments of every command. Needs no optional package, so `--help` always works."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import fused_ssim

if TYPE_CHECKING:
    # argparse has no public names for what add_subparsers() and add_argument_group() return.
    _Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
    _Group: TypeAlias = argparse._ActionsContainer

PROGRAM = "fused-ssim"

DEMO_PHOTOS = ("astronaut", "camera", "chelsea", "coffee", "rocket")

_DESCRIPTION = "Structural similarity (SSIM) of images, from fused CPU and CUDA kernels."

_COMPARE_DESCRIPTION = """\
Compare two images, or two folders of images.

Two files: prints SSIM, the SSIM of each channel, and PSNR.
Two folders: pairs the images by name, prints a table and the mean. Names match exactly
("a.png" with "a.png"), or without the suffix where that is unambiguous ("a.png" with
"a.jpg"); what has no partner is listed. Sub-folders are not searched.
"""

_COMPARE_EPILOG = """\
How images are read:
  values         8-bit and 16-bit images are scaled to 0..1, the data range of SSIM and PSNR.
                 Pillow reads 16-bit grayscale in full but 16-bit colour as 8 bits.
                 Floating-point images must already lie in 0..1.
  orientation    the EXIF orientation is applied.
  transparency   is blended onto --background; an opaque image is unaffected.
  grayscale      has one channel; beside a colour image it counts as three equal channels.
  others         palette, CMYK, Lab and YCbCr images become RGB; colour profiles are not
                 applied; of an animation the first frame counts.

PSNR is 10 log10(1 / MSE) over all channels: "inf" for identical images, null in JSON.

Exit code: 0, or 2 when an image is missing, unreadable or of a different size than its
partner. With folders the other pairs are compared all the same.

examples:
  fused-ssim compare render.png photo.png --map map.png
  fused-ssim compare renders/ photos/ --csv scores.csv
  fused-ssim compare a.png b.png --padding valid --json
"""

_DEMO_DESCRIPTION = """\
See SSIM at work on a real photograph.

First the photograph is distorted in several ways, each as strongly as it takes to reach
the same PSNR, and a table shows how SSIM tells them apart. Then an image of pure noise is
fitted to the photograph by maximising SSIM with Adam. The pictures are written to --out.
"""

_DEMO_EPILOG = """\
written to --out:
  overview.png            everything on one sheet
  target.png              the photograph
  distorted_*.png         the distorted photographs
  before.png, after.png   the fitted image before and after
  ssim_map_*.png          where it differs from the photograph, before and after

examples:
  fused-ssim demo
  fused-ssim demo --photo coffee --steps 1000 --out coffee_demo
  fused-ssim demo --photo my_holiday.jpg --device cuda
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser; each command's namespace carries the function to call as `run`."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=_DESCRIPTION)
    parser.add_argument(
        "--version", action="version", version=f"{PROGRAM} {fused_ssim.__version__}"
    )
    parser.add_argument(
        "--cmake-dir",
        action=_PrintCMakeDir,
        nargs=0,
        help="show the folder to put on CMAKE_PREFIX_PATH for find_package(fused_ssim), and exit",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_info(commands)
    _add_compare(commands)
    _add_demo(commands)
    return parser


class _PrintCMakeDir(argparse.Action):
    """Prints the folder that holds the libraries, the headers and the CMake package."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        # Beside `_C`, which in an editable install does not lie beside the Python files.
        folder = Path(fused_ssim._C.__file__).parent
        if not (folder / "lib/cmake/fused_ssim").is_dir():
            parser.error(
                f"expected the CMake package in {folder}, which has none; where the C++ libraries "
                "are a package of their own, as conda's, their prefix is what CMAKE_PREFIX_PATH needs"
            )
        print(folder)
        parser.exit()


def _add_info(commands: _Commands) -> None:
    summary = "show what was built and what this machine can run"
    info = commands.add_parser("info", help=summary, description=f"{summary.capitalize()}.")
    info.add_argument("--json", action="store_true", help="print JSON instead of text")
    info.set_defaults(run=_run_info)


def _add_compare(commands: _Commands) -> None:
    compare = commands.add_parser(
        "compare",
        help="compare two images or two folders of images",
        description=_COMPARE_DESCRIPTION,
        epilog=_COMPARE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    compare.add_argument("a", metavar="A", type=Path, help="image file or folder")
    compare.add_argument("b", metavar="B", type=Path, help="image file or folder")

    measure = compare.add_argument_group("measure")
    measure.add_argument(
        "--padding",
        choices=fused_ssim.allowed_padding,
        default="same",
        help="same: every pixel counts, zeros beyond the border (default); "
        "valid: only windows that lie wholly inside the image",
    )
    measure.add_argument(
        "--window-size",
        type=_integer_from(1),
        default=11,
        metavar="N",
        help="width of the Gaussian window, odd (default: %(default)s)",
    )
    measure.add_argument(
        "--sigma",
        type=_positive_number,
        default=1.5,
        metavar="S",
        help="standard deviation of the window in pixels (default: %(default)s)",
    )
    measure.add_argument(
        "--background",
        default="white",
        metavar="COLOUR",
        help='colour behind transparent pixels: a name or "#rrggbb" (default: %(default)s)',
    )
    _add_device(measure)

    output = compare.add_argument_group("output")
    output.add_argument(
        "--map",
        type=Path,
        metavar="PATH",
        help="write the SSIM map as a heat map with a legend; with two folders, a folder to fill",
    )
    output.add_argument(
        "--map-min",
        type=_below_one,
        default=0.0,
        metavar="V",
        help="SSIM at the hot end of the heat map's scale, whose cold end is 1 "
        "(default: %(default)s); raise it to see small differences",
    )
    output.add_argument(
        "--csv", type=Path, metavar="FILE", help="folders only: write one row per pair"
    )
    output.add_argument("--json", action="store_true", help="print JSON instead of text")
    _add_no_progress(output)
    compare.set_defaults(run=_run_compare)


def _add_demo(commands: _Commands) -> None:
    demo = commands.add_parser(
        "demo",
        help="distort a photograph, then fit one by maximising SSIM",
        description=_DEMO_DESCRIPTION,
        epilog=_DEMO_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument(
        "--photo",
        default="astronaut",
        metavar="NAME|FILE",
        help=f"a sample photograph of scikit-image ({', '.join(DEMO_PHOTOS)}) or an image file "
        "(default: %(default)s)",
    )
    demo.add_argument(
        "--size",
        type=_integer_from(32),
        default=256,
        metavar="PIXELS",
        help="the photograph is cropped to a square and scaled to this side (default: %(default)s)",
    )
    demo.add_argument(
        "--steps",
        type=_integer_from(1),
        default=300,
        metavar="N",
        help="steps of the fit (default: %(default)s)",
    )
    demo.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the noise (default: %(default)s)"
    )
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("fused_ssim_demo"),
        metavar="DIR",
        help="where the pictures go (default: %(default)s)",
    )
    _add_device(demo)
    _add_no_progress(demo)
    demo.set_defaults(run=_run_demo)


def _add_device(parser: _Group) -> None:
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="DEVICE",
        help="where to compute: cpu, cuda, cuda:1, ... (default: %(default)s)",
    )


def _add_no_progress(parser: _Group) -> None:
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None


def _positive_number(text: str) -> float:
    value = _number(text)
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return value


def _below_one(text: str) -> float:
    value = _number(text)
    if not -1.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"expected a number from -1 to below 1, got {text}")
    return value


def _integer_from(smallest: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected an integer, got {text!r}") from None
        if value < smallest:
            raise argparse.ArgumentTypeError(f"expected at least {smallest}, got {text}")
        return value

    return integer


# The commands are imported when they run: they need optional packages, the parser does not.


def _run_info(arguments: argparse.Namespace) -> int:
    from fused_ssim.cli import info

    return info.run(as_json=arguments.json)


def _run_compare(arguments: argparse.Namespace) -> int:
    from fused_ssim.cli import compare

    return compare.run(arguments)


def _run_demo(arguments: argparse.Namespace) -> int:
    from fused_ssim.cli import demo

    return demo.run(arguments)
