"""What sheets of images share: their colours, thumbnails, lines of text, and the templates of their pages (`assets/sheets`)."""

from __future__ import annotations

import base64
import functools
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..console import printable
from ..errors import InputError
from .extensions import SHEETS_WRITTEN, extension
from .files import atomic_path, bundled, write_text
from .image import ImageError, load_image

PAGES = (".html", ".htm")
THUMBNAIL = 360
"""Longest side of a thumbnail in pixels."""

PAPER, INK, FAINT, ACCENT, MISSING = "#f7f7f5", "#1d1d1b", "#6b6b66", "#b3391f", "#dcdcd6"
GROUND, TRACK, QUIET = "#ecece7", "#e6e6e0", "#c9b3aa"
"""Behind a thumbnail, behind a bar, and the bars below the first."""

COLOURS = {
    "paper": PAPER,
    "ink": INK,
    "faint": FAINT,
    "accent": ACCENT,
    "missing": MISSING,
    "ground": GROUND,
    "track": TRACK,
    "quiet": QUIET,
}


@dataclass(frozen=True)
class Tile:
    """One image of a sheet.

    Attributes:
        image: a path, or (H, W, 3) uint8.
        title: the line below it, e.g. "1 · 0.934".
        note: a fainter second line, e.g. the file name.
        mark: a short accent beside the title, e.g. "▲ 3".
        box: (x0, y0, x1, y1) in pixels of the image, drawn as a frame.
    """

    image: str | Path | np.ndarray
    title: str
    note: str = ""
    mark: str = ""
    box: Sequence[float] | None = None


def thumbnail(tile: Tile, side: int = THUMBNAIL) -> Image.Image | None:
    """The tile's image, at most `side` pixels long, with its frame; None if the file no longer exists or cannot be read."""
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


def fitting(
    draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> str:
    """`text` as one line, cut to at most `width` pixels."""
    text = printable(text)
    while text and draw.textlength(text, font) > width:
        text = text[:-2] + "…"
        if len(text) < 3:
            break
    return text


def check_height(path: str | Path, height: int, count: int) -> None:
    """Raise `InputError` if `height` pixels, for `count` images, are too many for an image file; a page may be of any length."""
    ending = extension(path)
    if ending in PAGES:
        return
    limit = 16_383 if ending == ".webp" else 65_535  # of WebP and of JPEG; a PNG that is higher opens in few programs
    if height > limit:
        raise InputError(f"{path}: {count} images do not fit into one {ending} image; write an .html page instead")


def save(path: str | Path, page: Callable[[], str], picture: Callable[[], Image.Image]) -> None:
    """Write a sheet: its page for `.html` and `.htm`, its picture for `.jpg`, `.jpeg`, `.png` and `.webp`.

    Raises:
        ValueError: another extension.
    """
    if extension(path) not in SHEETS_WRITTEN:
        raise ValueError(f"{path}: a sheet is written as .html, .jpg, .png or .webp")
    if extension(path) in PAGES:
        write_text(path, page())
        return
    image = picture()
    with atomic_path(path) as temporary:
        image.save(temporary, quality=90)


def render(template: str, **values: Any) -> str:
    """A page from a template of `assets/sheets`, in which all text is escaped.

    Filters there: `line` shows control characters as escapes; `jpeg` gives the thumbnail of a `Tile` as base64 of a JPEG
    file, or an empty text if the file is gone; `link(folder)` gives the address of its file as seen from the folder.
    """
    return _templates().get_template(template).render(colours=COLOURS, **values)


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(bundled("sheets")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters.update(line=printable, jpeg=_jpeg, link=_link)
    return environment


def _link(tile: Tile, folder: Path | None) -> str:
    if folder is None or not isinstance(tile.image, (str, Path)) or not Path(tile.image).exists():
        return ""
    try:
        place = os.path.relpath(tile.image, folder)
    except ValueError:  # on another drive of Windows
        return Path(tile.image).absolute().as_uri()
    return quote(os.fsencode(place.replace(os.sep, "/")))


def _jpeg(tile: Tile) -> str:
    picture = thumbnail(tile)
    if picture is None:
        return ""
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=82)
    return base64.b64encode(data.getvalue()).decode()
