"""Shared parts of image sheets: colours, thumbnails, lines of text, and page templates (`assets/sheets`)."""

from __future__ import annotations

import base64
import functools
import io
import os
from collections.abc import Callable, Iterable, Sequence
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
"""Colours behind a thumbnail and behind a bar, and of the bars below the first."""

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
        title: the line below the image, e.g. "1 · 0.934".
        note: a fainter second line, e.g. the file name.
        mark: a short accent next to the title, e.g. "▲ 3".
        box: (x0, y0, x1, y1) in pixels of the image, drawn as a rectangle.
    """

    image: str | Path | np.ndarray
    title: str
    note: str = ""
    mark: str = ""
    box: Sequence[float] | None = None


def thumbnail(tile: Tile, side: int = THUMBNAIL) -> Image.Image | None:
    """The tile's image with its box, at most `side` pixels on the longer side; None if the file is gone or cannot be read."""
    try:
        array = load_image(tile.image, max_side=None if tile.box is not None else side)
    except ImageError:
        return None
    image = Image.fromarray(array)
    scale = min(1.0, side / max(image.size))
    if scale < 1:
        image = image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
        )
    if tile.box is not None:
        x0, y0, x1, y1 = (value * scale for value in tile.box)
        frame = [max(x0, 0), max(y0, 0), min(x1, image.width - 1), min(y1, image.height - 1)]
        if frame[0] < frame[2] and frame[1] < frame[3]:
            ImageDraw.Draw(image).rectangle(frame, outline=ACCENT, width=3)
    return image


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


def short_names(paths: Iterable[str | Path]) -> dict[Path, str]:
    """What a sheet calls each file: its path below the folder that all of them share, so that equal names can be told apart."""
    files = {Path(path) for path in paths}
    try:
        shared = os.path.commonpath([file.absolute().parent for file in files])
    except ValueError:  # none, or on several drives of Windows
        return {file: str(file) for file in files}
    return {file: os.path.relpath(file.absolute(), shared) for file in files}


def check_height(path: str | Path, height: int, count: int) -> None:
    """Raise `InputError` if a sheet of `count` images, `height` pixels tall, exceeds what an image file can hold."""
    ending = extension(path)
    if ending in PAGES:
        return
    limit = 16_383 if ending == ".webp" else 65_535  # limits of WebP and JPEG; few programs open a taller PNG
    if height > limit:
        raise InputError(f"{path}: {count} images do not fit into one {ending} image; write an .html page instead")


def save(path: str | Path, page: Callable[[], str], draw: Callable[[], Image.Image]) -> None:
    """Write a sheet: as a page to `.html` and `.htm`, as an image to `.jpg`, `.jpeg`, `.png` and `.webp`.

    Raises:
        ValueError: another extension.
    """
    if extension(path) not in SHEETS_WRITTEN:
        raise ValueError(f"{path}: the extension of a sheet must be .html, .jpg, .png or .webp")
    if extension(path) in PAGES:
        write_text(path, page())
        return
    image = draw()
    with atomic_path(path) as temporary:
        image.save(temporary, quality=90)


def render(template: str, **values: Any) -> str:
    """Render a template of `assets/sheets`; all text is escaped.

    Its filters: `line` shows control characters as escapes; `jpeg` gives the thumbnail of a `Tile` as a base64-encoded JPEG
    file, or an empty string if the file is gone; `link(folder)` gives the address of its file relative to the folder.
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
    except ValueError:  # on another drive on Windows
        return Path(tile.image).absolute().as_uri()
    return quote(os.fsencode(place.replace(os.sep, "/")))


def _jpeg(tile: Tile) -> str:
    image = thumbnail(tile)
    if image is None:
        return ""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=82)
    return base64.b64encode(data.getvalue()).decode()
