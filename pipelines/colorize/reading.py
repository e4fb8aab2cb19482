"""The frames of a clip, segment by segment: each is decoded once, and those that two segments share are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visionzoo.errors import InputError
from visionzoo.io.video import read_frames
from visionzoo.jobs import Progress
from visionzoo.models.longanimation import prepare_frames

if TYPE_CHECKING:
    from visionzoo.models.longanimation import ClipSegment

__all__ = ["Moment", "SegmentReader", "moments_of"]

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Moment:
    """When a frame is shown, in seconds from the start."""

    time: Fraction
    duration: Fraction


def moments_of(path: Path, most: int | None, expected: int, report: Progress) -> list[Moment]:
    """The times of the first `most` frames of a video, as many as can be decoded; None for all.

    Args:
        expected: number of frames that the file states, for `report`.
    """
    found: list[Moment] = []
    for frame in read_frames(path, stop=most, longest=16):
        found.append(Moment(Fraction(frame.time), Fraction(frame.duration)))
        report("reading", len(found), max(len(found), expected))
    return found


class SegmentReader:
    """Reads the frames of segments in order.

    Args:
        path: the video.
        segments: those to be read.
        size: height and width to which frames are scaled and cropped.
    """

    def __init__(self, path: Path, segments: Sequence[ClipSegment], size: tuple[int, int]):
        self.path, self.size = path, size
        first = segments[0].start if segments else 0
        self._frames: Any = iter(read_frames(path, start=first))
        self._held: list[Pixels] = []
        self._start = first

    def read(self, segment: ClipSegment) -> Pixels:
        """The frames (F, H, W, 3) of the next segment, which shares some with the one before."""
        del self._held[: segment.start - self._start]
        self._start = segment.start
        while len(self._held) < segment.stop - segment.start:
            frame = next(self._frames, None)
            if frame is None:
                raise InputError(
                    f"{self.path}: has fewer frames than before; run the command again when nothing writes to the file"
                )
            prepared = prepare_frames(frame.pixels[None], *self.size)
            self._held.append(np.ascontiguousarray(prepared[0].movedim(0, -1).numpy()))
        return np.stack(self._held)
