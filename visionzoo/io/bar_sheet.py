"""Sheets of pictures with horizontal bars beside each: an HTML page that needs no other file, or one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import InputError
from .contact_sheet import ACCENT, FAINT, INK, MISSING, PAPER, Tile, escaped, fitting, framed, page, thumbnail
from .files import atomic_path, write_text

QUIET = "#c9b3aa"
"""Of the bars below the first."""


@dataclass(frozen=True)
class Bar:
    """A labelled share of one, e.g. a probability."""

    label: str
    value: float


@dataclass(frozen=True)
class Card:
    """A picture (a path, or (H, W, 3) uint8), its title, and the bars beside it, best first."""

    image: str | Path | np.ndarray
    title: str
    bars: Sequence[Bar]


def check_size(path: str | Path, cards: int, bars: int) -> None:
    """Raise `InputError` if a sheet of so many cards is too high for a picture of this ending; a page may be of any length."""
    ending = Path(path).suffix.lower()
    if ending in (".html", ".htm"):
        return
    limit = 16_383 if ending == ".webp" else 65_535  # of WebP and of JPEG; a PNG that is higher opens in few programs
    if _layout(cards, bars)[1][1] > limit:
        raise InputError(f"{path}: {cards} pictures do not fit into one {ending} picture; write an .html page instead")


def save_bar_sheet(path: str | Path, cards: Sequence[Card], *, heading: str, subtitle: str = "") -> None:
    """Write a sheet: a page for `.html` and `.htm`, a picture for `.jpg`, `.jpeg`, `.png` and `.webp`.

    Raises:
        ValueError: another ending.
    """
    ending = Path(path).suffix.lower()
    if ending in (".html", ".htm"):
        write_text(path, html_bar_sheet(cards, heading=heading, subtitle=subtitle))
    elif ending in (".jpg", ".jpeg", ".png", ".webp"):
        check_size(path, len(cards), _most_bars(cards))
        picture = picture_bar_sheet(cards)
        with atomic_path(path) as temporary:
            picture.save(temporary, quality=90)
    else:
        raise ValueError(f"{path}: a sheet is written as .html, .jpg, .png or .webp")


# The page

_STYLE = f"""
.cards {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 430px), 1fr)); gap: 1.2rem 2.4rem; }}
.card {{ display: grid; grid-template-columns: minmax(110px, 170px) 1fr; gap: 1.2rem; padding-top: 1.2rem;
         border-top: 1px solid {MISSING}; align-items: start; }}
.card .frame {{ display: flex; align-items: center; justify-content: center; aspect-ratio: 1;
                background: #ecece7; overflow: hidden; }}
.card h2 {{ font-size: .85rem; font-weight: 400; color: {FAINT}; margin: 0 0 .5rem; overflow-wrap: anywhere; }}
.card dl {{ margin: 0; display: grid; grid-template-columns: 1fr auto; column-gap: 1rem; }}
.card dt {{ overflow-wrap: anywhere; }}
.card dd {{ margin: 0; text-align: right; font-variant-numeric: tabular-nums; }}
.card .track {{ grid-column: 1 / -1; height: 6px; background: #e6e6e0; margin: .15rem 0 .55rem; }}
.card .track i {{ display: block; height: 100%; min-width: 1px; background: {QUIET}; }}
.card .first {{ font-weight: 600; }}
.card .first + .first + .track i {{ background: {ACCENT}; }}
"""


def html_bar_sheet(cards: Sequence[Card], *, heading: str, subtitle: str = "") -> str:
    """The sheet as an HTML page with its pictures inside."""
    body = f'<div class="cards">{"".join(_card(card) for card in cards)}</div>'
    return page(body, heading=heading, subtitle=subtitle, style=_STYLE)


def _card(card: Card) -> str:
    rows = []
    for place, bar in enumerate(card.bars):
        mark = ' class="first"' if place == 0 else ""
        rows.append(
            f"<dt{mark}>{escaped(bar.label)}</dt><dd{mark}>{bar.value:.1%}</dd>"
            f'<dd class="track"><i style="width:{bar.value:.2%}"></i></dd>'
        )
    title = f"<h2>{escaped(card.title)}</h2>"
    return f'<div class="card">{framed(Tile(card.image, card.title))}<div>{title}<dl>{"".join(rows)}</dl></div></div>\n'


# The picture

_SIDE, _WIDE, _GAP, _LINE = 176, 290, 28, 31
"""Pixels: of the thumbnail's side, the bars' width, the space between cards, and the height of a bar with its label."""


def picture_bar_sheet(cards: Sequence[Card]) -> Image.Image:
    """The sheet as one picture: a grid of cards."""
    columns, size = _layout(len(cards), _most_bars(cards))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    width, height = _card_size(_most_bars(cards))
    for place, card in enumerate(cards):
        x = _GAP + place % columns * (width + _GAP)
        y = _GAP + place // columns * (height + _GAP)
        _draw_card(sheet, draw, card, x, y)
    return sheet


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
    draw.rectangle([x, y, x + _SIDE - 1, y + _SIDE - 1], fill="#ecece7")
    picture = thumbnail(Tile(card.image, card.title), _SIDE)
    if picture is not None:
        sheet.paste(picture, (x + (_SIDE - picture.width) // 2, y + (_SIDE - picture.height) // 2))
    small, plain = ImageFont.load_default(13), ImageFont.load_default(15)
    left, top = x + _SIDE + 20, y + 26
    draw.text((left, y), fitting(draw, card.title, small, _WIDE), fill=FAINT, font=small)
    for place, bar in enumerate(card.bars):
        share = f"{bar.value:.1%}"
        room = _WIDE - round(draw.textlength(share, plain)) - 12
        draw.text((left, top), fitting(draw, bar.label, plain, room), fill=INK, font=plain)
        draw.text((left + _WIDE, top), share, fill=INK, font=plain, anchor="ra")
        draw.rectangle([left, top + 20, left + _WIDE - 1, top + 24], fill="#e6e6e0")
        end = left + round(_WIDE * min(max(bar.value, 0.0), 1.0)) - 1
        if end >= left:
            draw.rectangle([left, top + 20, end, top + 24], fill=QUIET if place else ACCENT)
        top += _LINE
