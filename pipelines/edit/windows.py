"""The windows of a video, one after the other; they get shorter when memory runs out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from visionzoo.models.lovecon import Window, plan_windows

__all__ = ["Windows"]

R = TypeVar("R")


class Windows:
    """Processes a video in windows.

    Args:
        frames: number of frames of the video.
        size: frames per window; halved, with one warning, when the device runs out of memory.
        device: where the networks run.
        references: see `plan_windows`.
    """

    def __init__(self, frames: int, size: int, device: torch.device, *, references: bool):
        self.frames, self.size, self.device, self.references = frames, size, device, references
        self._warned = False

    def plan(self, start: int = 0) -> list[Window]:
        """The windows from frame `start` on."""
        planned = plan_windows(self.frames - start, self.size, references=False) if start < self.frames else ()
        return [self._window(start + window.start, start + window.stop) for window in planned]

    def _window(self, start: int, stop: int) -> Window:
        return Window(start, stop, (0, max(start - 1, 0)) if self.references else ())

    def left(self, start: int = 0) -> int:
        """Number of windows from frame `start` on."""
        return -(-(self.frames - start) // self.size)

    def run(self, compute: Callable[[Window], R], start: int = 0) -> Iterator[tuple[Window, R]]:
        """Yield each window from frame `start` on with its result.

        Raises:
            torch.OutOfMemoryError: a window of one frame does not fit in memory.
        """
        while start < self.frames:
            window = self._window(start, min(start + self.size, self.frames))
            result = self.attempt(lambda window=window: compute(window))
            if result is not None:
                yield window, result
                start = window.stop

    def attempt(self, compute: Callable[[], R]) -> R | None:
        """The result of `compute`; None if memory ran out, after which windows are shorter."""
        try:
            return compute()
        except torch.OutOfMemoryError:
            if self.size == 1:
                raise
        # here the error is gone, and so are the tensors that its traceback kept alive
        self.size //= 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.device} is out of memory; continuing with windows of {self.size} frames, which changes the result a little",
                stacklevel=4,
            )
        return None
