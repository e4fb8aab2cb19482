"""Windows of frames, and which frames of a window an attention layer reads (LOVECon, arXiv:2310.09711, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from visionzoo.errors import InputError, unknown

__all__ = ["FrameContext", "FrameKey", "Window", "fixed_frames", "plan_windows", "relative_frames"]

FrameKey = int | Literal["first", "second", "last", "mid"]
"""A frame of the window, by its place ("first", "second", "last", "mid") or as an offset from the frame that reads it (-1, 0, 1)."""

_PLACES = ("first", "second", "last", "mid")


@dataclass
class FrameContext:
    """How many frames lie in the batch of a network, which its attention processors and norms cannot see from a tensor.

    Frames are folded into the batch, (batch * frames, channels, height, width), with the frame as the faster index. Set `frames`
    before each call of the network. All processors and norms of the networks share one context.
    """

    frames: int = 1

    def unfold(self, x: Tensor) -> Tensor:
        """(batch * frames, ...) as a view (batch, frames, ...).

        Raises:
            InputError: the batch is no multiple of the number of frames.
        """
        if self.frames < 1 or x.shape[0] % self.frames:
            raise InputError(
                f"a batch of {x.shape[0]} does not consist of windows of {self.frames} frames; set the frames of the FrameContext "
                "before calling the network"
            )
        return x.unflatten(0, (-1, self.frames))


@dataclass(frozen=True)
class Window:
    """Frames `start` to `stop - 1` of a video, edited together.

    Attributes:
        start, stop: the frames whose result is kept.
        references: frames of the video that are processed in front of them, so that the attention can read them.
    """

    start: int
    stop: int
    references: tuple[int, ...] = ()

    @property
    def frames(self) -> tuple[int, ...]:
        """Frames of the video in the order of the batch: the references, then the window."""
        return (*self.references, *range(self.start, self.stop))

    def __len__(self) -> int:
        return len(self.references) + self.stop - self.start


def plan_windows(frames: int, size: int = 8, *, references: bool = True) -> Iterator[Window]:
    """Consecutive windows that cover a video; the last one may be shorter.

    Args:
        frames: number of frames of the video.
        size: frames per window, without the references.
        references: put frame 0 and the last frame of the previous window (frame 0 in the first window) in front of each
            window, as in editing. Without them, as in the inversion of the source.

    Raises:
        InputError: `frames` or `size` is below 1.
    """
    if frames < 1 or size < 1:
        raise InputError(
            f"a video needs at least 1 frame and a window at least 1, got {frames} frames in windows of {size}"
        )
    for start in range(0, frames, size):
        yield Window(start, min(start + size, frames), (0, max(start - 1, 0)) if references else ())


def fixed_frames(keys: Sequence[FrameKey], frames: int) -> list[int]:
    """Indices of the frames that every frame of the window reads: those given by place, in the order of `keys`.

    Raises:
        InputError: an unknown place.
    """
    for key in keys:
        if not isinstance(key, int) and key not in _PLACES:
            raise unknown("frame of a window", str(key), _PLACES)
    places = {"first": 0, "second": min(1, frames - 1), "last": frames - 1, "mid": (frames - 1) // 2}
    return [places[key] for key in keys if not isinstance(key, int)]


def relative_frames(offset: int, frames: int) -> list[int]:
    """For each frame of the window, the index of the frame `offset` away from it, limited to the window."""
    return [min(max(frame + offset, 0), frames - 1) for frame in range(frames)]
