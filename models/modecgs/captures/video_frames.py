"""Chooses frames of a video to reconstruct a scene from: evenly spread over its length, and sharp."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visionzoo.errors import InputError
from visionzoo.io.image import list_images, load_image
from visionzoo.io.video import Frame, VideoInfo, read_frames
from visionzoo.jobs.progress import Progress, silent

LEAST_SEEN = 0.1
"""Masks that leave less of the images than this are suspected to be inverted."""


def sharpness(pixels: NDArray[np.uint8]) -> float:
    """How sharp an image (H, W, 3) is: the variance of its Laplacian."""
    grey = pixels.astype(np.float32).mean(-1)
    inner = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4 * inner).var()) if inner.size else 0.0


def choose_frames(
    video: Path, info: VideoInfo, count: int, *, max_side: int | None = None, progress: Progress = silent
) -> Iterator[Frame]:
    """Up to `count` frames, in order: the video is cut into `count` parts, and the sharpest frame in the middle half of each is taken.

    A video of at most `count` frames gives all of them.
    """
    length, best, score = info.frames / count, None, -1.0
    for frame in read_frames(video, longest=max_side):
        if frame.number % 10 == 0:
            progress("frames", min(frame.number, info.frames), info.frames)
        if length <= 1:
            yield frame
            continue
        part, place = divmod(frame.number, length)
        if best is not None and part > best.number // length:
            yield best
            best, score = None, -1.0
        # at least one frame is in the middle of every part
        if abs(place + 0.5 - length / 2) <= max(length / 4, 0.5) and sharpness(frame.pixels) > score:
            best, score = frame, sharpness(frame.pixels)
    if best is not None:
        yield best


def list_masks(folder: Path, video: Path, info: VideoInfo) -> list[Path]:
    """The masks of all frames of a video. Raises `InputError` if there is not one for every frame."""
    paths = list_images(folder, recursive=False)
    if len(paths) != info.frames:
        raise InputError(
            f"{folder}: has {len(paths)} masks, but {video.name} has {info.frames} frames; there must be one for every frame, in the "
            "order of their names"
        )
    return paths


def read_mask(path: Path, width: int, height: int) -> NDArray[np.bool_]:
    """(height, width), whether a pixel counts. Raises `InputError` if the mask has another shape than the frames."""
    pixels = load_image(path)
    rows, columns = pixels.shape[:2]
    if abs(columns * height - rows * width) > max(width, height, columns, rows):
        raise InputError(
            f"{path}: is {columns} x {rows}, but the frames are {width} x {height}; use masks of this video's frames"
        )
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST))[..., 0] > 127


def check_masks(folder: Path, shares: list[float]) -> None:
    """Raise `InputError` if masks leave almost nothing. `shares`: what each leaves of its image, in [0, 1]."""
    if np.mean(shares) < LEAST_SEEN:
        raise InputError(
            f"{folder}: the masks leave {np.mean(shares):.0%} of the frames to find the camera with; what moves must be black in "
            "them, and the rest white"
        )


__all__ = ["check_masks", "choose_frames", "list_masks", "read_mask", "sharpness"]
