"""The frames of a clip, segment by segment: each is decoded once, and those that two segments share are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visionzoo.errors import InputError
from visionzoo.models.longanimation import prepare_frames

from .clip import Clip

if TYPE_CHECKING:
    from visionzoo.models.longanimation import ClipSegment

__all__ = ["SegmentReader"]

Pixels = NDArray[np.uint8]


class SegmentReader:
    """Reads the frames of segments in order.

    Args:
        clip: the video or folder.
        segments: those to be read.
        size: height and width to which frames are scaled and cropped.
    """

    def __init__(self, clip: Clip, segments: Sequence[ClipSegment], size: tuple[int, int]):
        self.clip, self.size = clip, size
        first = segments[0].start if segments else 0
        self._frames: Any = clip.frames(first)
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
                    f"{self.clip.path}: has fewer frames than before; run the command again when nothing writes to the file"
                )
            prepared = prepare_frames(frame[None], *self.size)
            self._held.append(np.ascontiguousarray(prepared[0].movedim(0, -1).numpy()))
        return np.stack(self._held)
