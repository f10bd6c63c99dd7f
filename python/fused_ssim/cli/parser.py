"""The arguments of every command. Needs no optional package, so `--help` always works."""

from __future__ import annotations

import argparse
from pathlib import Path

import fused_ssim
from fused_ssim.cli import compare_options
from fused_ssim.cli.argument_types import Commands, add_device, add_no_progress, integer_from
from fused_ssim.cli.errors import PROGRAM

DEMO_PHOTOS = ("astronaut", "camera", "chelsea", "coffee", "rocket")

_DESCRIPTION = "Structural similarity (SSIM) of images, from fused CPU and CUDA kernels."

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
    """The parser; each command's namespace carries the function to call as `run`, and its `parser`."""
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
    _add_check(commands)
    compare_options.add(commands)
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


def _add_info(commands: Commands) -> None:
    summary = "show what was built and what this machine can run"
    info = commands.add_parser("info", help=summary, description=f"{summary.capitalize()}.")
    info.add_argument("--json", action="store_true", help="print JSON instead of text")
    info.set_defaults(run=_run_info, parser=info)


def _add_check(commands: Commands) -> None:
    summary = "check that the kernels compute right on this machine"
    check = commands.add_parser(
        "check",
        help=summary,
        description=f"{summary.capitalize()}: every form, window, type and layout beside torch "
        "operations in float64. Exit code 1 where one is wrong.",
    )
    add_device(check)
    check.add_argument(
        "--bench", action="store_true", help="time an image of 1x3x1080x1920 beside mse_loss, too"
    )
    check.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write all results there, for an issue (docs/check.schema.json)",
    )
    check.add_argument(
        "--verbose",
        action="store_true",
        help="print a line for each form, window and size instead of one for each form",
    )
    check.set_defaults(run=_run_check, parser=check)


def _add_demo(commands: Commands) -> None:
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
        type=integer_from(32),
        default=256,
        metavar="PIXELS",
        help="the photograph is cropped to a square and scaled to this side (default: %(default)s)",
    )
    demo.add_argument(
        "--steps",
        type=integer_from(1),
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
    add_device(demo)
    add_no_progress(demo)
    demo.set_defaults(run=_run_demo, parser=demo)


# The commands are imported when they run: they need optional packages, the parser does not.


def _run_info(arguments: argparse.Namespace) -> int:
    from fused_ssim.cli import info

    return info.run(as_json=arguments.json)


def _run_check(arguments: argparse.Namespace) -> int:
    from fused_ssim.cli import check

    return check.run(
        device=arguments.device,
        json_file=arguments.json,
        bench=arguments.bench,
        verbose=arguments.verbose,
    )


def _run_demo(arguments: argparse.Namespace) -> int:
    from fused_ssim.cli import demo

    return demo.run(arguments)
