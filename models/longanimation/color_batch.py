"""Inputs and target of a training step of LongAnimation (section 3 of arXiv 2507.01945; the loss is that of CogVideoX)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["ColorBatch", "color_batch", "estimate_clean", "padded"]


class ColorBatch(NamedTuple):
    """A training step, with the padding latent in front.

    Attributes:
        noisy: latents with noise (B, T, C, h, w).
        image: reference latents, then zeros, (B, T, C, h, w).
        sketch: sketch latents, (B, T, C, h, w).
        target: the velocity, (B, T, C, h, w).
        timesteps: (B,).
    """

    noisy: Tensor
    image: Tensor
    sketch: Tensor
    target: Tensor
    timesteps: Tensor


def padded(latents: Tensor, first: Tensor | None = None, depth: int = 2) -> Tensor:
    """Latents (B, T, C, h, w) with frames in front, so that their number is a multiple of `depth`.

    Args:
        first: (B, 1, C, h, w), repeated in front; None for the first of `latents`, as CogVideoX 1.5 is trained.
    """
    missing = -latents.shape[1] % depth
    front = latents[:, :1] if first is None else first
    return torch.cat([front.expand(-1, missing, -1, -1, -1), latents], 1) if missing else latents


def color_batch(
    scheduler: Any,
    latents: Tensor,
    sketches: Tensor,
    first_sketch: Tensor,
    reference: Tensor,
    timesteps: Tensor,
    noise: Tensor,
    depth: int = 2,
) -> ColorBatch:
    """Noise a segment, and place the reference and the sketches as in sampling.

    Args:
        scheduler: of CogVideoX, with v-prediction.
        latents, sketches: of the segment, multiplied by the autoencoder's factor, (B, T, C, h, w).
        first_sketch: sketch of its first frame, encoded alone, likewise, (B, 1, C, h, w). Used where a padding latent is needed.
        reference: latents of the reference image, (B, 1, C, h, w), not multiplied, as in the published code.
        timesteps: (B,).
        noise: as `padded(latents)`.
    """
    clean, sketch = padded(latents, None, depth), padded(sketches, first_sketch, depth)
    image = torch.cat([reference, reference.new_zeros(()).expand_as(clean[:, 1:])], 1)
    return ColorBatch(
        scheduler.add_noise(clean, noise, timesteps),
        image,
        sketch,
        scheduler.get_velocity(clean, noise, timesteps),
        timesteps,
    )


def estimate_clean(scheduler: Any, noisy: Tensor, velocity: Tensor, timesteps: Tensor) -> Tensor:
    """The latents without noise that follow from a velocity; `get_velocity` with its arguments exchanged gives the same."""
    levels = scheduler.alphas_cumprod.to(noisy)[timesteps].reshape(-1, 1, 1, 1, 1)
    return levels.sqrt() * noisy - (1 - levels).sqrt() * velocity
