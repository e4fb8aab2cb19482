"""Pages of frames for the guides: titled blocks with rows of frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["Block", "Pixels", "draw_sheet"]

Pixels = NDArray[np.uint8]

SIDE, GAP, LINE, LEFT = 120, 4, 16, 96
"""Sizes in pixels: height of a frame, between frames, of a line of text, and of the column that names the rows."""


@dataclass(frozen=True)
class Block:
    """Rows of frames with the same columns.

    Attributes:
        titles: of the columns.
        rows: name -> frames (H, W, 3), one for each column.
    """

    titles: Sequence[str]
    rows: Mapping[str, Sequence[Pixels]]


def draw_sheet(blocks: Sequence[Block], width: int = SIDE) -> Image.Image:
    """Draw blocks below each other.

    Args:
        width: of a frame on the page; its height is 120 pixels.
    """
    font = ImageFont.load_default(12)
    widest = max(len(block.titles) for block in blocks)
    height = sum(LINE + len(block.rows) * (SIDE + GAP) for block in blocks) + GAP
    page = Image.new("RGB", (LEFT + widest * (width + GAP), height), "white")
    draw, top = ImageDraw.Draw(page), GAP
    for block in blocks:
        for column, word in enumerate(block.titles):
            draw.text((LEFT + column * (width + GAP), top), word, "black", font)
        top += LINE
        for name, frames in block.rows.items():
            draw.text((GAP, top + SIDE // 2), name, "black", font)
            for column, frame in enumerate(frames):
                shown = Image.fromarray(frame).resize((width, SIDE), Image.Resampling.BICUBIC)
                page.paste(shown, (LEFT + column * (width + GAP), top))
            top += SIDE + GAP
    return page
