"""Sheets of images, each with horizontal bars: an HTML page that needs no other file, or one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .sheets import (
    ACCENT,
    FAINT,
    GROUND,
    INK,
    PAPER,
    QUIET,
    TRACK,
    Tile,
    check_height,
    fitting,
    render,
    save,
    thumbnail,
)


@dataclass(frozen=True)
class Bar:
    """A labelled value in [0, 1], e.g. a probability."""

    label: str
    value: float


@dataclass(frozen=True)
class Card:
    """An image with its bars.

    Attributes:
        image: a path, or (H, W, 3) uint8.
        title: the line above the bars.
        bars: best first.
        file: the file that the title links to on a page; by default the image's.
        parts: cards that belong to this one, e.g. the frames of a video: on a page they follow below it, smaller.
    """

    image: str | Path | np.ndarray
    title: str
    bars: Sequence[Bar]
    file: str | Path | None = None
    parts: Sequence[Card] = ()


def check_size(path: str | Path, cards: int, bars: int) -> None:
    """Raise `InputError` if a sheet with this many cards is too tall for an image of this format. A page may have any length."""
    check_height(path, _layout(cards, bars)[1][1], cards)


def save_bar_sheet(path: str | Path, cards: Sequence[Card], *, heading: str, subtitle: str = "") -> None:
    """Write a sheet: as a page to `.html` and `.htm`, as an image to `.jpg`, `.jpeg`, `.png` and `.webp`.

    Raises:
        ValueError: another extension.
    """

    def draw_sheet() -> Image.Image:
        check_size(path, len(_flat(cards)), _most_bars(_flat(cards)))
        return image_bar_sheet(cards)

    save(
        path,
        lambda: html_bar_sheet(cards, heading=heading, subtitle=subtitle, folder=Path(path).absolute().parent),
        draw_sheet,
    )


def html_bar_sheet(cards: Sequence[Card], *, heading: str, subtitle: str = "", folder: Path | None = None) -> str:
    """The sheet as an HTML page with embedded images.

    Args:
        folder: where the page will be; titles then link to the files.
    """
    return render("bars.html", cards=map(_shown, cards), heading=heading, subtitle=subtitle, folder=folder)


def _shown(card: Card) -> dict[str, Any]:
    file = card.image if card.file is None else card.file
    return {
        "tile": Tile(card.image, card.title),
        "file": Tile(file, card.title),
        "title": card.title,
        "bars": card.bars,
        "parts": [_shown(part) for part in card.parts],
    }


# The image

_SIDE, _WIDE, _GAP, _LINE = 176, 290, 28, 31
"""In pixels: side of a thumbnail, width of the bars, gap between cards, height of a bar with its label."""


def image_bar_sheet(cards: Sequence[Card]) -> Image.Image:
    """The sheet as one image: a grid of cards, each followed by its parts."""
    cards = _flat(cards)
    columns, size = _layout(len(cards), _most_bars(cards))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    width, height = _card_size(_most_bars(cards))
    for place, card in enumerate(cards):
        x = _GAP + place % columns * (width + _GAP)
        y = _GAP + place // columns * (height + _GAP)
        _draw_card(sheet, draw, card, x, y)
    return sheet


def _flat(cards: Sequence[Card]) -> list[Card]:
    """Cards and their parts, in whose titles the name of the card's file is added."""
    flat = []
    for card in cards:
        name = "" if card.file is None else f"{Path(card.file).name}, "
        flat += [card, *(replace(part, title=f"{name}{part.title}") for part in card.parts)]
    return flat


def _most_bars(cards: Sequence[Card]) -> int:
    return max((len(card.bars) for card in cards), default=0)


def _card_size(bars: int) -> tuple[int, int]:
    return _SIDE + 20 + _WIDE, max(_SIDE, 26 + bars * _LINE)


def _layout(cards: int, bars: int) -> tuple[int, tuple[int, int]]:
    """Columns of the grid, and (width, height) of the sheet."""
    columns = 1 if cards < 2 else 2 if cards < 9 else 3
    width, height = _card_size(bars)
    return columns, (_GAP + columns * (width + _GAP), _GAP + -(-cards // columns) * (height + _GAP))


def _draw_card(sheet: Image.Image, draw: ImageDraw.ImageDraw, card: Card, x: int, y: int) -> None:
    draw.rectangle([x, y, x + _SIDE - 1, y + _SIDE - 1], fill=GROUND)
    image = thumbnail(Tile(card.image, card.title), _SIDE)
    if image is not None:
        sheet.paste(image, (x + (_SIDE - image.width) // 2, y + (_SIDE - image.height) // 2))
    small, plain = ImageFont.load_default(13), ImageFont.load_default(15)
    left, top = x + _SIDE + 20, y + 26
    draw.text((left, y), fitting(draw, card.title, small, _WIDE), fill=FAINT, font=small)
    for place, bar in enumerate(card.bars):
        share = f"{bar.value:.1%}"
        room = _WIDE - round(draw.textlength(share, plain)) - 12
        draw.text((left, top), fitting(draw, bar.label, plain, room), fill=INK, font=plain)
        draw.text((left + _WIDE, top), share, fill=INK, font=plain, anchor="ra")
        draw.rectangle([left, top + 20, left + _WIDE - 1, top + 24], fill=TRACK)
        end = left + round(_WIDE * min(max(bar.value, 0.0), 1.0)) - 1
        if end >= left:
            draw.rectangle([left, top + 20, end, top + 24], fill=QUIET if place else ACCENT)
        top += _LINE
