"""Frames that a user has beside the video to edit, for controls and masks: a video, a folder of images, or one image."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visionzoo.errors import InputError
from visionzoo.io.extensions import ANIMATIONS, extension, is_image
from visionzoo.io.image import list_images, load_image
from visionzoo.io.video import probe, read_frames

__all__ = ["FrameFiles", "count_decoded"]


class FrameFiles:
    """The frames of a file or folder, (H, W, 3) uint8 RGB; they can be iterated more than once.

    Args:
        path: a video, a folder of images in the order of their names (numbers count as numbers), or one image.
        what: what they are, for messages, e.g. "control frames".
        most: number of frames to use; None for all.

    Raises:
        InputError: there is no such file, or it holds no frames.
    """

    def __init__(self, path: str | Path, what: str, most: int | None = None):
        self.path, self.what, self.most = Path(path), what, most
        if not self.path.exists():
            raise InputError(
                f"{path}: no such file or folder, expected {what}: a video, a folder of images, or one image"
            )
        self._images = self._listed()
        self.is_still = not self.path.is_dir() and self._images is not None
        if self._images is None:
            probe(self.path)

    def _listed(self) -> list[Path] | None:
        """The images, or None for a video."""
        if self.path.is_dir():
            return sorted(list_images(self.path, recursive=False), key=lambda path: _natural(path.name))
        return [self.path] if is_image(self.path) and extension(self.path) not in ANIMATIONS else None

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        if self._images is None:
            yield from (frame.pixels for frame in read_frames(self.path, stop=self.most))
        else:
            yield from (load_image(path) for path in self._images[: self.most])

    @cached_property
    def stated(self) -> int:
        """The number of frames; of a video that of its packets, some of which may be damaged."""
        return probe(self.path).frames if self._images is None else len(self._images)

    def check_length(self, source: Path, used: int | None) -> None:
        """Raise `InputError` unless there are as many frames as `source` has, or as many as are used of it."""
        if self.stated in (probe(source).frames, used):
            return
        frames = count_decoded(source)
        own = count_decoded(self.path) if self._images is None else self.stated
        if own not in (frames, used):
            raise InputError(
                f"{self.path}: holds {own:,} {self.what}, but {source} has {frames:,} frames; give one for each frame"
            )


def count_decoded(path: Path) -> int:
    """The number of frames of a video that can be decoded."""
    return sum(1 for _ in read_frames(path, longest=16))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
