"""Contact sheets: a query and the pictures found for it, as one HTML page that needs no other file, or as one picture."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..console import printable
from .files import atomic_path, write_text
from .image import ImageError, load_image

THUMBNAIL = 360
"""Longest side of a thumbnail in pixels."""

PAPER, INK, FAINT, ACCENT, MISSING = "#f7f7f5", "#1d1d1b", "#6b6b66", "#b3391f", "#dcdcd6"


@dataclass(frozen=True)
class Tile:
    """One picture of a sheet.

    Attributes:
        image: a path, or (H, W, 3) uint8.
        title: the line below it, e.g. "1 · 0.934".
        note: a fainter second line, e.g. the file name.
        mark: a short accent beside the title, e.g. "▲ 3".
        box: (x0, y0, x1, y1) in pixels of the picture, drawn as a frame.
    """

    image: str | Path | np.ndarray
    title: str
    note: str = ""
    mark: str = ""
    box: Sequence[float] | None = None


@dataclass(frozen=True)
class Row:
    """A query and what was found for it."""

    query: Tile
    results: Sequence[Tile]


def thumbnail(tile: Tile, side: int = THUMBNAIL) -> Image.Image | None:
    """The tile's picture, at most `side` pixels long, with its frame; None if the file is gone or cannot be read."""
    try:
        array = load_image(tile.image, max_side=None if tile.box is not None else side)
    except ImageError:
        return None
    picture = Image.fromarray(array)
    scale = min(1.0, side / max(picture.size))
    if scale < 1:
        picture = picture.resize(
            (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.LANCZOS
        )
    if tile.box is not None:
        x0, y0, x1, y1 = (value * scale for value in tile.box)
        frame = [max(x0, 0), max(y0, 0), min(x1, picture.width - 1), min(y1, picture.height - 1)]
        if frame[0] < frame[2] and frame[1] < frame[3]:
            ImageDraw.Draw(picture).rectangle(frame, outline=ACCENT, width=3)
    return picture


def save_sheet(path: str | Path, rows: Sequence[Row], *, heading: str, subtitle: str = "") -> None:
    """Write a sheet: a page for `.html` and `.htm`, a picture for `.jpg`, `.jpeg`, `.png` and `.webp`.

    Raises:
        ValueError: another ending.
    """
    ending = Path(path).suffix.lower()
    if ending in (".html", ".htm"):
        write_text(path, html_sheet(rows, heading=heading, subtitle=subtitle))
    elif ending in (".jpg", ".jpeg", ".png", ".webp"):
        picture = picture_sheet(rows)
        with atomic_path(path) as temporary:
            picture.save(temporary, quality=88)
    else:
        raise ValueError(f"{path}: a sheet is written as .html, .jpg, .png or .webp")


# The page

_STYLE = f"""
:root {{ color-scheme: light; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; padding: 2rem clamp(1rem, 4vw, 3.5rem); background: {PAPER}; color: {INK};
       font: 15px/1.45 system-ui, sans-serif; }}
h1 {{ font-size: 1.35rem; font-weight: 600; margin: 0; }}
.subtitle {{ color: {FAINT}; margin: .2rem 0 1.6rem; }}
section {{ display: grid; grid-template-columns: minmax(190px, 260px) 1fr; gap: 2rem; padding: 1.4rem 0;
          border-top: 1px solid {MISSING}; }}
.grid {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(165px, 1fr)); gap: 1.1rem; }}
figure {{ margin: 0; min-width: 0; }}
figure .frame {{ display: flex; align-items: center; justify-content: center; aspect-ratio: 4/3;
                 background: #ecece7; overflow: hidden; }}
.query .frame {{ aspect-ratio: auto; outline: 3px solid {ACCENT}; outline-offset: 3px; }}
img {{ max-width: 100%; max-height: 100%; display: block; }}
.gone {{ color: {FAINT}; padding: 2rem .5rem; text-align: center; }}
figcaption {{ padding-top: .45rem; }}
.query figcaption {{ padding-top: .8rem; }}
.title {{ font-weight: 600; font-variant-numeric: tabular-nums; }}
.mark {{ color: {ACCENT}; font-weight: 600; padding-left: .5em; white-space: nowrap; }}
.note {{ color: {FAINT}; font-size: .85em; overflow-wrap: anywhere; }}
@media (max-width: 640px) {{ section {{ grid-template-columns: 1fr; }} }}
"""


def html_sheet(rows: Sequence[Row], *, heading: str, subtitle: str = "") -> str:
    """The sheet as an HTML page with its pictures inside."""
    sections = "\n".join(
        f'<section><div class="query">{_figure(row.query)}</div>'
        f'<div class="grid">{"".join(_figure(tile) for tile in row.results) or "<p>Nothing found.</p>"}</div></section>'
        for row in rows
    )
    return page(sections, heading=heading, subtitle=subtitle)


def page(body: str, *, heading: str, subtitle: str = "", style: str = "") -> str:
    """An HTML page in the look of these sheets, around `body`."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escaped(heading)}</title><style>{_STYLE}{style}</style></head>\n"
        f'<body><h1>{escaped(heading)}</h1><p class="subtitle">{escaped(subtitle)}</p>\n{body}\n</body></html>\n'
    )


def escaped(value: str) -> str:
    """`value` as HTML shows it."""
    return html.escape(printable(value))


def framed(tile: Tile) -> str:
    """The tile's picture as HTML, inside the page."""
    picture = thumbnail(tile)
    if picture is None:
        return '<div class="frame"><div class="gone">the file is gone or cannot be read</div></div>'
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=82)
    encoded = base64.b64encode(data.getvalue()).decode()
    return f'<div class="frame"><img alt="{escaped(tile.note or tile.title)}" src="data:image/jpeg;base64,{encoded}"></div>'


def _figure(tile: Tile) -> str:
    mark = f'<span class="mark">{escaped(tile.mark)}</span>' if tile.mark else ""
    note = f'<div class="note">{escaped(tile.note)}</div>' if tile.note else ""
    caption = f'<span class="title">{escaped(tile.title)}</span>{mark}{note}'
    return f"<figure>{framed(tile)}<figcaption>{caption}</figcaption></figure>"


# The picture


def picture_sheet(rows: Sequence[Row], *, cell: int = 220, columns: int = 5) -> Image.Image:
    """The sheet as one picture: a query and its results a band."""
    caption, gap = 40, 14
    step_x, step_y = cell + gap, cell * 3 // 4 + caption + gap
    bands = [max(1, -(-len(row.results) // columns)) for row in rows]
    sheet = Image.new("RGB", (gap + (columns + 1) * step_x + gap, gap + sum(bands) * step_y), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = gap
    for row, lines in zip(rows, bands, strict=True):
        _paste(sheet, draw, row.query, (gap, top), cell, ACCENT)
        for place, tile in enumerate(row.results):
            x = 2 * gap + (place % columns + 1) * step_x
            _paste(sheet, draw, tile, (x, top + place // columns * step_y), cell, None)
        top += lines * step_y
    return sheet


def _paste(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, at: tuple[int, int], cell: int, frame: str | None
) -> None:
    x, y = at
    height = cell * 3 // 4
    picture = thumbnail(tile, cell)
    if picture is None:
        draw.rectangle([x, y, x + cell - 1, y + height - 1], fill=MISSING)
    else:
        picture.thumbnail((cell, height), Image.Resampling.LANCZOS)
        left, upper = x + (cell - picture.width) // 2, y + (height - picture.height) // 2
        sheet.paste(picture, (left, upper))
        if frame:
            draw.rectangle(
                [left - 3, upper - 3, left + picture.width + 2, upper + picture.height + 2], outline=frame, width=3
            )
    bold, small = ImageFont.load_default(15), ImageFont.load_default(12)
    draw.text((x, y + height + 5), tile.title, fill=INK, font=bold)
    if tile.mark:
        draw.text(
            (x + draw.textlength(tile.title, bold) + 10, y + height + 5),
            tile.mark.replace("−", "-"),
            fill=ACCENT,
            font=bold,
        )
    draw.text((x, y + height + 23), fitting(draw, tile.note, small, cell), fill=FAINT, font=small)


def fitting(
    draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> str:
    """`text`, cut to at most `width` pixels."""
    text = printable(text)
    while text and draw.textlength(text, font) > width:
        text = text[:-2] + "…"
        if len(text) < 3:
            break
    return text
