"""Paste an animated crop back into its frame."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError
from .crop import CropBox, check_box
from .face import check_image

__all__ = ["paste_face"]


def paste_face(
    frame: NDArray[np.uint8], crop: NDArray[np.uint8], box: CropBox, *, feather: float = 0.1
) -> NDArray[np.uint8]:
    """Paste `crop` over `box` in a copy of `frame`, fading out towards the sides of the box.

    Args:
        frame: (H, W, 3) uint8 RGB; it stays unchanged.
        crop: (S, S, 3) uint8 RGB, resized (bicubic, antialiased) to the box; parts outside the frame are clipped.
        feather: width of the fade as a fraction of the box's side, 0 (hard edge) … 0.5 (to the centre).

    Returns:
        (H, W, 3) uint8; outside the box, the values of `frame` are unchanged.

    Raises:
        InputError: images of a wrong shape or type, a box without area, or a feather outside 0 … 0.5.
    """
    check_image(frame)
    check_image(crop)
    check_box(box)
    size = crop.shape[0]
    if crop.shape[1] != size:
        raise InputError(f"the crop must be square, got {crop.shape[1]} x {size} pixels")
    if not 0 <= feather <= 0.5:
        raise InputError(f"feather must be from 0 to 0.5, as a fraction of the crop's side, got {feather}")
    height, width = frame.shape[:2]
    # whole pixels inside the box and the frame
    left, right = max(0, math.ceil(box.left)), min(width, math.floor(box.right))
    top, bottom = max(0, math.ceil(box.top)), min(height, math.floor(box.bottom))
    result = frame.copy()
    if right <= left or bottom <= top:
        return result
    (x0, y0), (x1, y1) = np.clip(box.to_crop([(left, top), (right, bottom)], size), 0, size)
    patch = Image.fromarray(crop).resize(
        (right - left, bottom - top), Image.Resampling.BICUBIC, box=(float(x0), float(y0), float(x1), float(y1))
    )
    across = _fade(np.arange(left, right) + 0.5, box.left, box.side, feather)
    down = _fade(np.arange(top, bottom) + 0.5, box.top, box.side, feather)
    mask = (down[:, None] * across)[..., None]
    below = result[top:bottom, left:right].astype(np.float32)
    blended = below + mask * (np.asarray(patch, np.float32) - below)
    result[top:bottom, left:right] = np.rint(blended).astype(np.uint8)
    return result


def _fade(positions: NDArray[np.float64], start: float, side: float, feather: float) -> NDArray[np.float32]:
    """Weights along a side: 0 at both ends, rising smoothly to 1 over a fraction `feather` of the side."""
    inwards = np.minimum(positions - start, start + side - positions) / side
    share = np.clip(inwards / feather, 0, 1) if feather else np.ones_like(inwards)
    return (share * share * (3 - 2 * share)).astype(np.float32)
