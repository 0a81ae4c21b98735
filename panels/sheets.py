"""A table of pictures as one picture, with its headings."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

GAP = 4  # pixels between pictures
SMALLEST = 96  # pixels of a cell's side, so that words fit


def sheet(
    tables: Sequence[tuple[str, Sequence[str], Sequence[str]]],
    cells: Sequence[Image.Image | str],
) -> Image.Image:
    """Pictures in rows and columns under their headings, RGB on white.

    Args:
        tables: caption, headings of the columns and headings of the rows of each table.
        cells: row by row, table by table: a picture, or words in its place.
    """
    pictures = [cell for cell in cells if not isinstance(cell, str)]
    side = max([SMALLEST, *(length for picture in pictures for length in picture.size)])
    font = ImageFont.load_default(max(11, side // 14))
    line = round(font.size * 1.5)
    columns, rows = len(tables[0][1]), sum(len(table[2]) for table in tables)
    left = max(
        (round(font.getlength(row)) + 2 * GAP for _, _, r in tables for row in r if row), default=0
    )
    width = left + columns * (side + GAP)
    height = 2 * line * len(tables) + rows * (side + GAP)
    page = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(page)
    todo, y = iter(cells), 0
    for caption, across, down in tables:
        pen.text((GAP, y), caption, "black", font)
        y += line
        for number, words in enumerate(across):
            fitted = _shortened(words, font, side)
            pen.text((left + number * (side + GAP), y), fitted, "black", font)
        y += line
        for words in down:
            pen.text((GAP, y + side // 2), words, "black", font)
            for number in range(columns):
                place, cell = (left + number * (side + GAP), y), next(todo)
                if isinstance(cell, str):
                    lines = textwrap.wrap(cell, round(side / font.getlength("n")))
                    pen.text(place, "\n".join(lines), "black", font)
                else:
                    page.paste(cell, place)
            y += side + GAP
    return page


def _shortened(words: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """As much of `words` as `width` pixels hold."""
    while words and font.getlength(words) > width:
        words = words[:-2].rstrip("…") + "…"
    return words
