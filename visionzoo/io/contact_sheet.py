"""Contact sheets: a query and the images found for it, as one HTML page that needs no other file, or as one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .sheets import ACCENT, FAINT, INK, MISSING, PAPER, Tile, check_height, fitting, render, save, thumbnail

__all__ = ["Row", "Tile", "html_sheet", "image_sheet", "save_sheet", "thumbnail"]


@dataclass(frozen=True)
class Row:
    """A query and what was found for it."""

    query: Tile
    results: Sequence[Tile]


def save_sheet(path: str | Path, rows: Sequence[Row], *, heading: str, subtitle: str = "") -> None:
    """Write a sheet: as a page to `.html` and `.htm`, as an image to `.jpg`, `.jpeg`, `.png` and `.webp`.

    Raises:
        ValueError: another extension.
    """

    def draw_sheet() -> Image.Image:
        check_height(path, _GAP + sum(_bands(rows)) * _STEP[1], sum(1 + len(row.results) for row in rows))
        return image_sheet(rows)

    save(
        path,
        lambda: html_sheet(rows, heading=heading, subtitle=subtitle, folder=Path(path).absolute().parent),
        draw_sheet,
    )


def html_sheet(rows: Sequence[Row], *, heading: str, subtitle: str = "", folder: Path | None = None) -> str:
    """The sheet as an HTML page with embedded images.

    Args:
        folder: where the page will be; names of files then link to the files.
    """
    return render("contact.html", rows=rows, heading=heading, subtitle=subtitle, folder=folder)


# The image

_CELL, _GAP, _CAPTION, _COLUMNS = 220, 14, 40, 5
"""In pixels: width of a thumbnail, gap between tiles, height of the text below. The last is the number of tiles next to a query."""
_STEP = (_CELL + _GAP, _CELL * 3 // 4 + _CAPTION + _GAP)
"""Pixels from one tile to the next, across and down."""


def image_sheet(rows: Sequence[Row]) -> Image.Image:
    """The sheet as one image, with a band for each query and its results."""
    bands = _bands(rows)
    sheet = Image.new("RGB", (2 * _GAP + (_COLUMNS + 1) * _STEP[0], _GAP + sum(bands) * _STEP[1]), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = _GAP
    for row, lines in zip(rows, bands, strict=True):
        _paste(sheet, draw, row.query, (_GAP, top), _CELL, ACCENT)
        for place, tile in enumerate(row.results):
            x = 2 * _GAP + (place % _COLUMNS + 1) * _STEP[0]
            _paste(sheet, draw, tile, (x, top + place // _COLUMNS * _STEP[1]), _CELL, None)
        top += lines * _STEP[1]
    return sheet


def _bands(rows: Sequence[Row]) -> list[int]:
    """Number of lines of tiles in each row."""
    return [max(1, -(-len(row.results) // _COLUMNS)) for row in rows]


def _paste(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, at: tuple[int, int], cell: int, frame: str | None
) -> None:
    x, y = at
    height = cell * 3 // 4
    image = thumbnail(tile, cell)
    if image is None:
        draw.rectangle([x, y, x + cell - 1, y + height - 1], fill=MISSING)
    else:
        image.thumbnail((cell, height), Image.Resampling.LANCZOS)
        left, upper = x + (cell - image.width) // 2, y + (height - image.height) // 2
        sheet.paste(image, (left, upper))
        if frame:
            draw.rectangle(
                [left - 3, upper - 3, left + image.width + 2, upper + image.height + 2], outline=frame, width=3
            )
    bold, small = ImageFont.load_default(15), ImageFont.load_default(12)
    title = fitting(draw, tile.title, bold, cell)
    draw.text((x, y + height + 5), title, fill=INK, font=bold)
    if tile.mark:
        mark = fitting(draw, tile.mark.replace("−", "-"), bold, cell)
        draw.text((x + draw.textlength(title, bold) + 10, y + height + 5), mark, fill=ACCENT, font=bold)
    draw.text((x, y + height + 23), fitting(draw, tile.note, small, cell), fill=FAINT, font=small)
