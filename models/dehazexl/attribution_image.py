"""Draws an attribution map."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch.nn import functional as F

from visionzoo.errors import InputError

from .attribution_patches import Window, rectangle

_POWER = 0.25  # as published: without it, only a few pixels are visible
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)


def attribution_image(
    hazy: npt.NDArray[np.uint8],
    saliency: npt.NDArray[np.floating],
    window: Window,
    *,
    side_max: int = 2048,
) -> npt.NDArray[np.uint8]:
    """Draw the map in colours, from blue (0) to red (1), over the grey image, with the window outlined and a scale on the right.

    Colours show the saliency to the power of 1/4, as in the published images: the middle of the scale is 1/16. If the
    image is smaller than the map, a pixel shows the highest value that it covers; if it is larger, the nearest.

    Args:
        hazy: (H, W, 3) RGB.
        saliency: values in [0, 1]; (H, W), or smaller if it was computed for a reduced image.
        window: first row, first column, and side (or height and width) in pixels of `hazy`.
        side_max: maximum of the longer side of the image; larger images are reduced.

    Returns:
        (h, w, 3) RGB; the image fills the left, h pixels high, the scale the right.

    Raises:
        InputError: arrays of other shapes, a window that is not inside, or no side.
    """
    if hazy.ndim != 3 or hazy.shape[2] != 3 or hazy.dtype != np.uint8 or 0 in hazy.shape:
        raise InputError(f"hazy must be uint8 (H, W, 3), got {hazy.dtype} {hazy.shape}")
    if saliency.ndim != 2 or 0 in saliency.shape:
        raise InputError(f"the saliency must be (H, W), got {saliency.shape}")
    top, left, tall, wide = rectangle(window)
    if min(tall, wide) < 1 or min(top, left) < 0 or top + tall > hazy.shape[0] or left + wide > hazy.shape[1]:
        raise InputError(
            f"the window of {wide} x {tall} pixels at row {top}, column {left} is not inside {hazy.shape[1]} x "
            f"{hazy.shape[0]} pixels"
        )
    if side_max < 1:
        raise InputError(f"side_max must be at least 1, got {side_max}")
    factor = min(1.0, side_max / max(hazy.shape[:2]))
    height, width = (max(1, round(size * factor)) for size in hazy.shape[:2])
    grey = np.asarray(Image.fromarray(hazy).convert("L").resize((width, height), Image.Resampling.BOX), np.float32)
    heat = jet(_fit(saliency, height, width).clip(0, 1) ** _POWER).astype(np.float32)
    blend = (0.5 * grey[..., None] + 0.5 * heat).round().astype(np.uint8)

    thin = max(1, round(max(height, width) / 500))
    scale = _scale(height, width)
    canvas = Image.new("RGB", (width + scale.width, height), _WHITE)
    canvas.paste(Image.fromarray(blend), (0, 0))
    canvas.paste(scale, (width, 0))
    pen = ImageDraw.Draw(canvas)
    bottom, right = (
        max(int(edge * factor), round((edge + side) * factor) - 1) for edge, side in ((top, tall), (left, wide))
    )
    top, left = int(top * factor), int(left * factor)
    for around, colour in (
        (2 * thin, _BLACK),
        (thin, _WHITE),
    ):  # outside of the window, so that its colours can be seen
        box = (left - around, top - around, min(right + around, width - 1), bottom + around)
        pen.rectangle(box, outline=colour, width=thin)
    return np.asarray(canvas)


def jet(x: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """The "jet" colour map: (...) in [0, 1] -> (..., 3) RGB; dark blue, blue, cyan, yellow, red, dark red."""
    colours = 1.5 - np.abs(4 * x[..., None] - np.array([3, 2, 1], x.dtype))
    return (255 * colours.clip(0, 1)).round().astype(np.uint8)


def _fit(values: npt.NDArray[np.floating], height: int, width: int) -> npt.NDArray[np.float32]:
    x = torch.from_numpy(np.ascontiguousarray(values, np.float32))[None, None]
    smaller = (min(height, x.shape[2]), min(width, x.shape[3]))
    return F.interpolate(F.adaptive_max_pool2d(x, smaller), (height, width), mode="nearest-exact")[0, 0].numpy()


def _scale(height: int, width: int) -> Image.Image:
    """The colours from 1 at the top to 0 at the bottom, with labels."""
    size = min(max(10, round(max(height, width) / 50)), max(10, height // 4))
    font = ImageFont.load_default(size)
    gap, bar = size // 2, size
    canvas = Image.new("RGB", (gap + bar + gap + 3 * size, height), _WHITE)
    colours = jet(np.linspace(1, 0, height, dtype=np.float32))
    canvas.paste(Image.fromarray(np.repeat(colours[:, None], bar, 1)), (gap, 0))
    pen = ImageDraw.Draw(canvas)
    marks = [("1", 0, "lt"), ("0", height - 1, "lb")]
    if height >= 6 * size:
        marks.append(("1/16", height // 2, "lm"))
    for text, y, anchor in marks:
        pen.text((gap + bar + gap, y), text, fill=_BLACK, font=font, anchor=anchor)
    return canvas
