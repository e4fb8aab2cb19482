"""The attribution map of a window of the haze page's result, over a reduced image."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from visionzoo.io.pixels import to_float

from ..models.dehazexl import attribution_image, attribution_map
from ..pipelines.dehaze.attribution import share_inside
from ..pipelines.dehaze.pipeline import DehazePipeline
from .dehaze_result import Removed, reduced
from .page import summary
from .words import duration

MAP_SIDE = 1024
"""Longest side of the images for which attribution maps are computed."""
MAP_STEPS = 8
WINDOWS = (16, 256)
"""Smallest and largest side of the window that a map explains."""


@dataclass(frozen=True)
class Look:
    """The input of attribution maps: an image before and after, reduced.

    Attributes:
        hazy, clear: (h, w, 3) uint8.
        full: (width, height) before the reduction.
    """

    hazy: np.ndarray
    clear: np.ndarray
    full: tuple[int, int]

    @classmethod
    def of(cls, removed: Removed) -> Look:
        height, width = removed.hazy.shape[:2]
        return cls(reduced(removed.hazy, MAP_SIDE), reduced(removed.clear, MAP_SIDE), (width, height))

    def window(self, x: float, y: float, side: float) -> tuple[int, int, int, int]:
        """First row, first column, height and width of a window around a point, moved so that it lies inside the image."""
        height, width = self.hazy.shape[:2]
        tall, wide = (max(1, min(int(side), size)) for size in (height, width))
        top, left = round(y) - tall // 2, round(x) - wide // 2
        return max(0, min(top, height - tall)), max(0, min(left, width - wide)), tall, wide

    def framed(self, x: float, y: float, side: float) -> Image.Image:
        """The result with the window's outline."""
        top, left, tall, wide = self.window(x, y, side)
        image = Image.fromarray(self.clear)
        pen = ImageDraw.Draw(image)
        thin = max(1, round(max(image.size) / 400))
        for around, colour in ((2 * thin, "black"), (thin, "white")):
            pen.rectangle(
                (left - around, top - around, left + wide - 1 + around, top + tall - 1 + around),
                outline=colour,
                width=thin,
            )
        return image

    def size_text(self) -> str:
        height, width = self.hazy.shape[:2]
        if (width, height) == self.full:
            return f"{width} x {height} pixels."
        return (
            f"The image of {self.full[0]} x {self.full[1]} pixels was first reduced to {width} x {height}, "
            f"so the network sees it at a smaller size than for the result."
        )


def explain(pipe: DehazePipeline, look: Look, x: float, y: float, side: float) -> tuple[str, np.ndarray]:
    """The attribution map of a window as an image, and HTML on how to read it. Raises `InputError`."""
    window = look.window(x, y, side)
    started = time.perf_counter()
    hazy = to_float(look.hazy).contiguous()
    found = attribution_map(pipe.network.to(pipe.device).float(), hazy, None, window, steps=MAP_STEPS)
    saliency = found.saliency.numpy()
    seconds = time.perf_counter() - started
    if saliency.any():
        share = f"{share_inside(saliency, window):.0%} of the total lies inside the frame."
    else:
        share = "Here the network changes nothing, so the map is empty."
    text = summary(
        "What the framed window depends on",
        f"{MAP_STEPS} steps in {duration(seconds)}",
        below="The redder a pixel is, the more the network's result in the framed window depends on it; blue pixels hardly "
        f"matter. {share} {look.size_text()}",
    )
    return text, attribution_image(look.hazy, saliency, window)


__all__ = ["MAP_SIDE", "MAP_STEPS", "WINDOWS", "Look", "explain"]
