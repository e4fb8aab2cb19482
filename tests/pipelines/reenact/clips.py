"""Clips of a face, and their frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from visionzoo.io.image import load_image
from visionzoo.io.video import read_frames


def moving(face: Path, count: int = 7) -> list[np.ndarray]:
    """Frames in which the face wanders."""
    image = load_image(face)
    return [np.ascontiguousarray(np.roll(image, (2 * i, 3 * i), (0, 1))[:300, :340]) for i in range(count)]


def frames_of(path: Path) -> np.ndarray:
    return np.stack([frame.pixels for frame in read_frames(path)])
