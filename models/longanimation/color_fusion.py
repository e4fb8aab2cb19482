"""Colour consistency fusion: late denoising steps blend a segment's first latents with the last ones of the segment before.

LongAnimation, arXiv 2507.01945, section 3.4. Both segments cover the frames of their overlap. In the last steps, in which colours
are decided, the latents of these frames move from those of the previous segment to the current segment's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visionzoo.errors import InputError

__all__ = ["ColorFusion"]


@dataclass(frozen=True)
class ColorFusion:
    """When and how latents are fused. The defaults are those of the published code, with 50 steps.

    Attributes:
        first_step: the first denoising step, counted from 0, after which latents are fused: 31, so the last 19 of 50. Starting
            earlier makes the brightness jump between segments.
        weights: share of the current segment in each fused latent, in the order of time.
    """

    first_step: int = 31
    weights: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)

    def __post_init__(self) -> None:
        if self.first_step < 0 or not self.weights or any(not 0 <= each <= 1 for each in self.weights):
            raise InputError(
                f"color fusion needs a first step from 0 and weights in [0, 1], got {self.first_step} and {self.weights}"
            )

    @property
    def count(self) -> int:
        """Number of latents that are fused, and of those that a segment keeps for the next one."""
        return len(self.weights)

    def steps(self, num_steps: int) -> range:
        """The steps after which latents are fused, and whose last latents the next segment needs, of `num_steps`."""
        return range(min(self.first_step, num_steps), num_steps)

    def tail(self, latents: Tensor) -> Tensor:
        """What the next segment needs of this step, a copy of (B, count, C, h, w): the last latents, after fusion.

        Args:
            latents: (B, T, C, h, w).
        """
        return latents[:, -self.count :].clone()

    def fuse(self, latents: Tensor, previous: Tensor | None, step: int, place: int = 2) -> Tensor:
        """The latents after a step of the scheduler; unchanged in early steps, and in the first segment.

        Args:
            latents: (B, T, C, h, w) of the current segment, with the padding latent at index 0.
            previous: what `tail` kept of the same step of the segment before; None in the first segment.
            step: index of the step, counted from 0.
            place: index of the first latent to fuse, from `ClipSegment.fused_latent`.

        Raises:
            InputError: shapes that do not fit.
        """
        if previous is None or step < self.first_step:
            return latents
        stop = place + self.count
        expected = (latents.shape[0], self.count, *latents.shape[2:])
        if previous.shape != expected or stop > latents.shape[1] or place < 0:
            raise InputError(
                f"latents {tuple(latents.shape)} are fused from index {place} with the last latents of the segment before, "
                f"{expected}, but these are {tuple(previous.shape)}"
            )
        own = _weights(self.weights, latents)
        fused = (1 - own) * previous.to(latents.device, latents.dtype) + own * latents[:, place:stop]
        return torch.cat([latents[:, :place], fused, latents[:, stop:]], 1)


def _weights(weights: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(weights, device=like.device, dtype=like.dtype)[:, None, None, None]
