"""A sheet of captioned pictures. Needs Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

_PAPER, _INK, _FAINT = (255, 255, 255), (32, 32, 32), (110, 110, 110)


@dataclass(frozen=True)
class Tile:
    """A picture, a second one below it, a caption and a fainter line of detail."""

    picture: Image.Image
    below: Image.Image
    caption: str
    detail: str


def contact_sheet(sections: Sequence[tuple[str, Sequence[Tile]]]) -> Image.Image:
    """Each section is a heading and one row of tiles."""
    tiles = [tile for _, row in sections for tile in row]
    picture_width = max(tile.picture.width for tile in tiles)
    picture_height = max(tile.picture.height for tile in tiles)
    below_height = max(tile.below.height for tile in tiles)

    text = min(max(picture_width // 18, 11), 40)
    font, heading_font = ImageFont.load_default(text), ImageFont.load_default(text * 3 // 2)
    gap, line, heading = text, text * 3 // 2, 3 * text
    # A caption may be wider than a small picture.
    cell_width = gap + max(
        picture_width,
        *(
            math.ceil(font.getlength(words))
            for tile in tiles
            for words in (tile.caption, tile.detail)
        ),
    )
    row_height = heading + picture_height + gap // 2 + below_height + 2 * line + gap

    columns = max(len(row) for _, row in sections)
    sheet = Image.new("RGB", (gap + columns * cell_width, len(sections) * row_height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for r, (title, row) in enumerate(sections):
        top = r * row_height
        draw.text((gap, top + heading // 2), title, _INK, heading_font, anchor="lm")
        for c, tile in enumerate(row):
            x, y = gap + c * cell_width, top + heading
            sheet.paste(tile.picture, (x, y))
            y += picture_height + gap // 2
            sheet.paste(tile.below, (x, y))
            y += below_height + line // 2
            draw.text((x, y), tile.caption, _INK, font, anchor="lm")
            draw.text((x, y + line), tile.detail, _FAINT, font, anchor="lm")
    return sheet
