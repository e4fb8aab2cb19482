"""A driving video: its frames, decoded once where they fit into memory, and the part of each that the network sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from visionzoo.errors import InputError
from visionzoo.faces import CropBox, FaceDetector, centre_box, fixed_box, follow_face, moving_boxes
from visionzoo.io.video import Frame, probe, read_frames
from visionzoo.jobs import Progress

from .options import DrivingCrop

KEPT_BYTES = 2**30
"""Decoded frames are kept up to this size in bytes; the frames of a longer video are decoded again when needed."""
SEARCH_EVERY = 5
"""A face is searched for in every fifth frame."""


class DrivingVideo:
    """The frames of a video, which can be iterated more than once.

    Args:
        path: the video.
        keep: keep decoded frames, up to `KEPT_BYTES`; without, every pass decodes.

    Raises:
        InputError: the file is not a video that can be read.
    """

    def __init__(self, path: Path, keep: bool):
        self.path, self.info = path, probe(path)
        self._keep = keep
        self._kept: list[Frame] | None = None

    def __iter__(self) -> Iterator[Frame]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Frame] = []
        size, keep = 0, self._keep
        for frame in read_frames(self.path):
            size += frame.pixels.nbytes
            if keep and size > KEPT_BYTES:
                keep = False
                kept.clear()
            if keep:
                kept.append(frame)
            yield frame
        if keep:
            self._kept = kept

    def count(self, done: int) -> int:
        """The number of frames, as far as it is known after `done`."""
        return max(self.info.frames, done)

    def boxes(
        self, crop: DrivingCrop, face: int | str, detector: Callable[[], FaceDetector], report: Progress
    ) -> Callable[[int], CropBox | None]:
        """Number of a frame -> the square of it that the network sees; None for all of it.

        Args:
            crop: "auto" is one square around all positions of the face.
            face: "largest", or its number from the left in the first frame that shows one, from 1.
            detector: returns the face detector; called only if faces are searched for.

        Raises:
            InputError: there is no face, or no face of that number.
        """
        if crop == "none" or not isinstance(crop, str):
            return lambda number: None if isinstance(crop, str) else crop
        if crop == "centre":
            return lambda number: centre_box(self.info.height, self.info.width)

        def frames() -> Iterator[tuple[float, object]]:
            for frame in self:
                report("faces", frame.number + 1, self.count(frame.number + 1))
                yield frame.time_s, frame.pixels

        try:
            track = follow_face(frames(), detector(), face, every=SEARCH_EVERY)  # pyright: ignore[reportArgumentType]
        except InputError as error:
            raise InputError(f"{self.path}: {error}" if str(self.path) not in str(error) else str(error)) from error
        if not track.found.any():
            raise InputError(
                f"{self.path}: no face found; use a video that shows a face from the front, or use --crop-driving centre"
            )
        if crop == "follow":
            boxes = moving_boxes(track)
            return lambda number: boxes[min(number, len(boxes) - 1)]
        box = fixed_box(track)
        return lambda number: box


__all__ = ["DrivingVideo"]
