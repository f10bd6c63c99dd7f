"""An SSIM map as a colour picture with a legend. Needs Pillow and numpy.

Cold and dark is alike (SSIM 1), hot and bright is different, so that faults catch the eye.

    +-------------------+--------------+
    | the map, pixel    |  SSIM        |   The map stands at the top left, unscaled: pixel (x, y)
    | for pixel         |  [#] 1.0     |   of the picture is pixel (x, y) of the map.
    |                   |  [#] 0.5     |
    |                   |  [#] 0.0     |
    +-------------------+  mean 0.912  |
                        +--------------+
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fused_ssim.cli.images import Pixels, to_pil

# Nine stops, equally spaced in the scale, with even steps of perceived lightness (OKLCH
# lightness 0.16 to 0.94, hue from blue over red to yellow), so that it also reads in gray.
_STOPS = (
    *("#000d23", "#25164f", "#581b68", "#8e236b", "#be395d"),
    *("#e06149", "#f0924b", "#f2c378", "#f4edbd"),
)

_TICKS = 6
_SMALLEST_LEGEND = 160  # pixels: a smaller map gets a taller picture
_PAPER, _INK = (255, 255, 255), (32, 32, 32)


@lru_cache(maxsize=1)
def colour_table(steps: int = 256) -> Pixels:
    """[steps, 3], float32 in 0..1, from alike (dark) to different (bright)."""
    stops = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in _STOPS]) / 255.0
    position = np.linspace(0.0, len(_STOPS) - 1.0, steps)
    channels = [np.interp(position, range(len(_STOPS)), stop) for stop in stops.T]
    return np.stack(channels, axis=1).astype(np.float32)


def colourise(ssim_map: Pixels, lowest: float = 0.0) -> Pixels:
    """[H, W] SSIM values to [H, W, 3]; `lowest` and everything below it is the hottest colour."""
    table = colour_table()
    difference = np.nan_to_num((1.0 - ssim_map) / (1.0 - lowest), nan=1.0)
    index = np.rint(np.clip(difference, 0.0, 1.0) * (len(table) - 1)).astype(np.intp)
    colours: Pixels = table[index]
    return colours


def heat_map(ssim_map: Pixels, lowest: float = 0.0) -> Image.Image:
    """The picture for a [C, H, W] map: the mean over the channels, and a legend on its right."""
    values = ssim_map.mean(axis=0)
    picture = to_pil(colourise(values, lowest))
    footer = f"mean {float(values.mean()):.4f}"
    legend = draw_legend(picture.height, lowest, footer)
    canvas = Image.new("RGB", (picture.width + legend.width, legend.height), _PAPER)
    canvas.paste(picture, (0, 0))
    canvas.paste(legend, (picture.width, 0))
    return canvas


def draw_legend(height: int, lowest: float = 0.0, footer: str = "") -> Image.Image:
    """The colour scale with its numbers, and a line of text below it; never too small to read."""
    height = max(height, _SMALLEST_LEGEND)
    size = min(max(height // 28, 12), 48)  # of the text; everything else is measured in it
    font = ImageFont.load_default(size)
    labels = _tick_labels(lowest)
    bar_width, gap = size + size // 2, size // 2
    label_width = max(font.getlength(label) for label in labels)
    width = 2 * gap + math.ceil(max(bar_width + gap + label_width, font.getlength(footer)))

    legend = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(legend)
    top, bottom = 2 * size + gap, height - 2 * size - gap
    draw.text((gap, gap), "SSIM", _INK, font)
    draw.text((gap, height - gap), footer, _INK, font, anchor="ls")

    scale = np.repeat(np.linspace(1.0, lowest, bottom - top)[:, None], bar_width, axis=1)
    legend.paste(to_pil(colourise(scale, lowest)), (gap, top))
    draw.rectangle((gap - 1, top - 1, gap + bar_width, bottom), outline=_INK)
    for i, label in enumerate(labels):
        y = top + round(i * (bottom - 1 - top) / (len(labels) - 1))
        right = gap + bar_width
        draw.line((right, y, right + gap // 2, y), fill=_INK)
        draw.text((right + gap, y), label, _INK, font, anchor="lm")
    return legend


def _tick_labels(lowest: float) -> list[str]:
    """From 1 down to `lowest`, with as many digits as it takes to tell them apart."""
    values = [1.0 - i * (1.0 - lowest) / (_TICKS - 1) for i in range(_TICKS)]
    digits = next((n for n in (1, 2, 3) if all(abs(round(v, n) - v) < 1e-6 for v in values)), 4)
    labels = [f"{value:.{digits}f}" for value in values]
    # SSIM can be negative; the last colour then stands for everything below as well.
    if lowest > -1.0:
        labels[-1] = f"<= {labels[-1]}"
    return labels
