"""What a video begins with: an image, the frames of a video, in the size of the new frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from visionzoo.errors import InputError, check_items
from visionzoo.io.extensions import ANIMATIONS, VIDEOS, extension
from visionzoo.io.head import content_of, read_head
from visionzoo.io.image import load_image
from visionzoo.io.video import read_frames

__all__ = ["Fit", "check_fit", "fitted", "frames_of", "is_video"]

Pixels = NDArray[np.uint8]

Fit = Literal["crop", "stretch", "exact"]
"""How a frame of another size is used: scaled and cropped in the middle, scaled in both directions, or refused."""


def is_video(path: str | Path) -> bool:
    """Whether a file is read as a video; raises `InputError` if it is missing, a folder or empty."""
    head = read_head(path, "an image or a video")
    if extension(path) in ANIMATIONS:
        return True
    return (content_of(head) or ("video" if extension(path) in VIDEOS else "image")) == "video"


def frames_of(source: Any) -> Iterator[Pixels]:
    """The frames of an image, a video, or of several images, each (H, W, 3) uint8.

    Args:
        source: path of an image or a video, a PIL image, an array (H, W, 3) or (N, H, W, 3), or an iterable of images.

    Raises:
        InputError: it cannot be read.
    """
    if isinstance(source, (str, Path)):
        if is_video(source):
            yield from (frame.pixels for frame in read_frames(source))
        else:
            yield load_image(source)
        return
    if isinstance(source, Image.Image) or (hasattr(source, "ndim") and source.ndim <= 3):
        yield load_image(source)
        return
    check_items("the source", source, "an image, a video, or images one after another")
    for number, frame in enumerate(source):
        try:
            yield load_image(frame)
        except InputError as error:
            raise InputError(f"frame {number} of the source: {error}") from error


def check_fit(fit: str) -> None:
    """Raise `InputError` for an unknown fit."""
    if fit not in get_args(Fit):
        raise InputError(f"fit must be crop, stretch or exact, got {fit!r}")


def fitted(frame: Pixels, size: tuple[int, int], fit: Fit = "crop") -> Pixels:
    """A frame in the size (height, width) of the new ones.

    Raises:
        InputError: it has another size, and `fit` is "exact".
    """
    if frame.shape[:2] == tuple(size):
        return frame
    height, width = size
    if fit == "exact":
        raise InputError(
            f"the image has {frame.shape[1]} x {frame.shape[0]} pixels, and the video {width} x {height}; resize it, or use fit "
            '"crop" or "stretch"'
        )
    image = Image.fromarray(frame)
    if fit == "crop":
        return np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS))
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
