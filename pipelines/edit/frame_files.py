"""Frames that a user has beside the video to edit, for controls and masks: a video, a folder of images, or one image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visionzoo.console import counted
from visionzoo.errors import InputError
from visionzoo.io.extensions import ANIMATIONS, IMAGES, extension, is_image
from visionzoo.io.find import list_frames
from visionzoo.io.image import load_image
from visionzoo.io.video import probe, read_frames

__all__ = ["FrameFiles", "count_decoded"]


class FrameFiles:
    """The frames of a file or folder, (H, W, 3) uint8 RGB; they can be iterated more than once.

    Args:
        path: a video, a folder of images in the order of their names (numbers count as numbers), or one image.
        what: what each is, for messages, e.g. "control frame".
        most: number of frames to use; None for all.

    Raises:
        InputError: there is no such file, or it holds no frames.
    """

    def __init__(self, path: str | Path, what: str, most: int | None = None):
        self.path, self.what, self.most = Path(path), what, most
        if not self.path.exists():
            raise InputError(
                f"{path}: no such file or folder, expected {what}s: a video, a folder of images, or one image"
            )
        self._images = self._listed()
        self.is_still = not self.path.is_dir() and self._images is not None
        if self._images is None:
            probe(self.path)

    def _listed(self) -> list[Path] | None:
        """The images, or None for a video."""
        if self.path.is_dir():
            if not (found := list_frames(self.path, IMAGES)):
                raise InputError(f"{self.path}: no images found; expected {self.what}s, e.g. 0001.png, 0002.png, …")
            return found
        return [self.path] if is_image(self.path) and extension(self.path) not in ANIMATIONS else None

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        if self._images is None:
            yield from (frame.pixels for frame in read_frames(self.path, stop=self.most))
        else:
            yield from (load_image(path) for path in self._images[: self.most])

    def check_length(self, source: Path, used: int | None) -> None:
        """Raise `InputError` unless there are as many frames as can be decoded of `source`, or as many as are used of it."""
        frames = count_decoded(source)
        own = count_decoded(self.path) if self._images is None else len(self._images)
        if own not in (frames, used):
            what = counted(own, self.what, f"{self.what}s")
            whole = "" if probe(source).frames == frames else " that can be decoded"
            raise InputError(
                f"{self.path}: holds {what}, but {source} has {counted(frames, 'frame')}{whole}; give one for each frame"
            )


def count_decoded(path: Path) -> int:
    """The number of frames of a video that can be decoded."""
    return sum(1 for _ in read_frames(path, longest=16))
