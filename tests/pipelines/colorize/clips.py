"""Small clips to colour: moving lines on paper, the same in colour, and a reference."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from visionzoo.io.video import VideoWriter, read_frames

SIZE = (32, 32)
"""Height and width."""


def drawings(count: int, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """A frame and a bar that moves, as dark lines on bright paper."""
    found = []
    for number in range(count):
        frame = np.full((*size, 3), 255, np.uint8)
        frame[4:6, 4:-4] = frame[-6:-4, 4:-4] = 0
        place = 6 + number % (size[1] - 12)
        frame[8:-8, place : place + 2] = 0
        found.append(frame)
    return found


def colored(count: int, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """The same with a red left side and a blue right side."""
    found = []
    for frame in drawings(count, size):
        paint = np.zeros((*size, 3), np.uint8)
        paint[:, : size[1] // 2], paint[:, size[1] // 2 :] = (220, 60, 40), (40, 90, 200)
        found.append(np.where(frame > 128, paint, frame))
    return found


def write(path: Path, frames: Sequence[np.ndarray], fps: int = 10, sound: Path | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, fps=Fraction(fps), crf=8, audio_from=sound, overwrite=True) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def reference(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colored(1, size)[0]).save(path)
    return path


def shown(path: Path) -> np.ndarray:
    return np.stack([frame.pixels for frame in read_frames(path)])
