"""The last latents of a segment at each denoising step, for colour-consistency fusion with the next segment."""

from __future__ import annotations

import torch
from torch import Tensor

from visionzoo.errors import InputError
from visionzoo.memory import TensorBank, TimeWindow

__all__ = ["StepTails"]


class StepTails:
    """A named store of a video's memory: per step, the last latent frames of this segment and of the one before.

    A step is a group of a `TensorBank`, whose values are latent frames, whose keys are the step's number, and whose times are
    the segments' numbers. What is older than the segment before is dropped, so the store does not grow with the video.

    >>> tails.begin(segment)  # drops what an interrupted attempt at this segment wrote
    >>> for step, timestep in enumerate(timesteps):
    ...     latents = …
    ...     if (previous := tails.read(step, latents)) is not None:
    ...         latents = fuse(latents, previous)
    ...     tails.write(step, latents)

    Args:
        frames: number of latent frames per tail.
        bank: the store of an interrupted run, or None.

    Attributes:
        bank: the bank; None before the first write.
        segment: number of the current segment.
    """

    def __init__(self, frames: int = 4, bank: TensorBank | None = None):
        if frames < 1:
            raise InputError(f"a tail has {frames} frames; expected 1 or more")
        self.frames, self.bank, self.segment = frames, bank, 0

    def begin(self, segment: int) -> None:
        """Start a segment, or start it again."""
        if segment < 0:
            raise InputError(f"segment is {segment}; expected 0 or more")
        self.segment = segment
        if self.bank is not None:
            self.bank.evict(TimeWindow(segment - 1, segment - 1))

    def write(self, step: int, latents: Tensor) -> None:
        """Keep the last `frames` of latents (1, T, C, h, w) of the current segment at a step, in main memory.

        Raises:
            InputError: fewer frames, or frames of another size than before.
        """
        if latents.ndim != 5 or latents.shape[0] != 1 or latents.shape[1] < self.frames:
            raise InputError(f"latents are {tuple(latents.shape)}; expected (1, {self.frames} or more, C, h, w)")
        tail = latents[:, -self.frames :].detach().flatten(2)[:, None]
        if self.bank is None:
            self.bank = TensorBank(1, tail.shape[-1], capacity=2 * self.frames, dtype=tail.dtype)
        key = torch.full((1, 1, self.frames, 1), float(step), dtype=tail.dtype)
        self.bank.purge(ids=self._ids(step, self.segment))
        self.bank.write(key, tail.cpu(), group=step, time=float(self.segment))

    def read(self, step: int, latents: Tensor) -> Tensor | None:
        """The tail (1, frames, C, h, w) of the segment before at a step, or None if there is none.

        Args:
            latents: the current ones (1, T, C, h, w); the tail has their dtype and device.
        """
        if self.bank is None or not len(self._ids(step, self.segment - 1)):
            return None
        found = self.bank.view(TimeWindow(self.segment - 1, self.segment - 1), group=step, copy=True)
        return found.value[:, 0].unflatten(2, latents.shape[2:]).to(latents)

    def _ids(self, step: int, segment: int) -> Tensor:
        assert self.bank is not None
        return self.bank.ids(group=step, where=TimeWindow(segment, segment))
