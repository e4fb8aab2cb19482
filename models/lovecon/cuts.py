"""Finds cuts between two frames of a video, across which no frame can be interpolated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

CUT = 0.4
"""Default of the change above which two consecutive frames count as a cut; see `frame_change`."""

_BINS = 6
_WIDTH = 64
_NOISE = 25.0
"""Variance of 8-bit levels that is added to both frames, so that noise of flat frames does not count as a change."""


def frame_change(first: Pixels, second: Pixels) -> float:
    """How much two frames differ, from 0 to 1: the geometric mean of the changes of their colours and of their layout.

    The first is 1 minus the intersection of the colour histograms, the second 1 minus the correlation of the brightness, both of
    frames that are 64 pixels wide. Motion changes the layout but keeps the colours, a flash the other way round, and a cut
    changes both.

    Args:
        first, second: (H, W, 3) uint8 RGB, of one size.
    """
    colours, brightness = zip(*(_described(frame) for frame in (first, second)), strict=True)
    changed = 1 - np.minimum(*colours).sum() / colours[0].sum()
    a, b = (levels - levels.mean() for levels in brightness)
    correlation = ((a * b).mean() + _NOISE) / np.sqrt(((a * a).mean() + _NOISE) * ((b * b).mean() + _NOISE))
    return float(np.sqrt(max(changed, 0) * np.clip(1 - correlation, 0, 1)))


def _described(frame: Pixels) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The histogram of the colours of a frame, and the brightness of its pixels, once it is shrunk."""
    height, width = frame.shape[:2]
    size = (min(width, _WIDTH), max(1, round(height * min(1, _WIDTH / width))))
    small = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))
    bins = small.astype(np.intp) * _BINS // 256
    histogram = np.bincount((bins @ (_BINS**2, _BINS, 1)).ravel(), minlength=_BINS**3)
    return histogram, small @ (0.299, 0.587, 0.114)


__all__ = ["CUT", "frame_change"]
