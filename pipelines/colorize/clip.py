"""The clip that is coloured: a video, or a folder of numbered images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionzoo.errors import InputError
from visionzoo.io.find import list_frames
from visionzoo.io.image import image_size, load_image
from visionzoo.io.video import VideoInfo, probe, read_frames
from visionzoo.io.video.loop import file_identity
from visionzoo.jobs import Progress

from .file_options import exact_rate
from .kinds import FRAMES

__all__ = ["Clip", "Moment", "frame_files"]

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Moment:
    """When a frame is shown, in seconds from the start."""

    time: Fraction
    duration: Fraction


def frame_files(folder: Path) -> list[Path]:
    """The images of a folder in the order of their numbers: 2.png is before 10.png.

    Raises:
        InputError: there are none.
    """
    if not (found := list_frames(folder, FRAMES)):
        raise InputError(f"{folder}: holds no images; expected the frames of a clip, e.g. 0001.png, 0002.png, …")
    return found


@dataclass(frozen=True)
class Clip:
    """A clip on disk.

    Attributes:
        path: a video, or a folder of images.
        info: its size, rate and number of frames.
        images: the images of a folder; empty for a video.
    """

    path: Path
    info: VideoInfo
    images: Sequence[Path] = ()

    @classmethod
    def open(cls, path: Path, fps: Fraction | None, usual_fps: float = 24.0) -> Clip:
        """Look at a clip without decoding all of it.

        Args:
            fps: frames per second of a folder; a video has its own.
            usual_fps: that of a folder if `fps` is None.

        Raises:
            InputError: it cannot be read, images differ in size, or a video is given with `fps`.
        """
        if not path.is_dir():
            info = probe(path)
            if fps is not None:
                raise InputError(
                    f"{path}: is a video with {float(info.fps):g} frames a second, which the result keeps; fps (--fps) is for "
                    "folders of images"
                )
            return cls(path, info)
        images = frame_files(path)
        width, height = _common_size(path, images)
        rate = exact_rate(usual_fps) if fps is None else fps
        return cls(path, VideoInfo(width, height, rate, len(images), len(images) / rate, False, rate), images)

    @property
    def sound(self) -> Path | None:
        """The file with its sound."""
        return None if self.images else self.path

    def identity(self) -> list[Any]:
        """What tells its content from another one, as JSON values."""
        return [file_identity(path) for path in self.images or [self.path]]

    def moments(self, most: int | None, report: Progress) -> list[Moment]:
        """The times of the first `most` frames, as many as can be decoded; None for all."""
        if self.images:
            step = 1 / self.info.fps
            return [Moment(number * step, step) for number in range(len(self.images[:most]))]
        found: list[Moment] = []
        for frame in read_frames(self.path, stop=most, longest=16):
            found.append(Moment(Fraction(frame.time), Fraction(frame.duration)))
            report("reading", len(found), max(len(found), self.info.frames))
        return found

    def frames(self, start: int) -> Iterator[Pixels]:
        """The frames (H, W, 3) from number `start` on."""
        if not self.images:
            yield from (frame.pixels for frame in read_frames(self.path, start=start))
        yield from (load_image(path) for path in self.images[start:])


def _common_size(folder: Path, images: Sequence[Path]) -> tuple[int, int]:
    """Width and height of images, from their headers."""
    first = image_size(images[0])
    for path in images[1:]:
        if (size := image_size(path)) != first:
            raise InputError(
                f"{folder}: holds images of several sizes: {images[0].name} has {first[0]} x {first[1]} pixels, {path.name} "
                f"{size[0]} x {size[1]}; export all frames in one size"
            )
    return first
