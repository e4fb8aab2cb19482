"""Videos: a frame at regular intervals, each with its classes, and the mean of all of them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from visionzoo.errors import InputError, MissingDependencyError
from visionzoo.io.sheets import THUMBNAIL, Tile, thumbnail
from visionzoo.io.video import probe, sample_frames
from visionzoo.preprocess import Preprocess

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Shot:
    """A frame of a video, prepared for the network.

    Attributes:
        time_s: time at which it is shown.
        pixels: (3, S, S) float32, the network's input.
        thumbnail: the frame as a small JPEG file.
    """

    time_s: float
    pixels: Tensor
    thumbnail: bytes


def shots(path: Path, every_s: float, preprocess: Preprocess) -> Iterator[Shot]:
    """The frames that a video shows at 0, `every_s`, 2 `every_s`, … seconds; one frame of the video is in memory at a time.

    Raises:
        InputError: the video cannot be read, or the extra `video` is not installed.
    """
    try:
        for time_s, frame in sample_frames(path, every_s):
            yield Shot(time_s, preprocess(frame.pixels), _jpeg(frame.pixels))
    except MissingDependencyError as error:
        raise InputError(f"{path}: {error}") from error


def count_shots(path: Path, every_s: float) -> int:
    """The approximate number of frames that `shots` gives; 1 for a video that cannot be read."""
    try:
        return int(float(probe(path).duration) / every_s) + 1
    except (InputError, MissingDependencyError):
        return 1


def clock(seconds: float) -> str:
    """A time in a video: "0:03", "1:02:03", "0:00.50"."""
    hundredths = round(100 * seconds)
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    whole = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{whole}:{rest // 100:02}" + (f".{rest % 100:02}" if rest % 100 else "")


def decoded(jpeg: bytes) -> np.ndarray:
    """A thumbnail as (H, W, 3) uint8."""
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def _jpeg(pixels: np.ndarray) -> bytes:
    small = thumbnail(Tile(pixels, ""), THUMBNAIL)
    assert small is not None
    data = io.BytesIO()
    small.save(data, "JPEG", quality=85)
    return data.getvalue()


__all__ = ["Shot", "clock", "count_shots", "decoded", "shots"]
