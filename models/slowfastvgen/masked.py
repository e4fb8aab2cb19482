"""Masked conditional video diffusion: past frames stay clean, and only new ones count (section 3.1 of arXiv 2410.23277)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visionzoo.diffusion import noisy_batch
from visionzoo.errors import InputError

__all__ = ["MaskedBatch", "compose", "masked_batch", "masked_errors"]


@dataclass(frozen=True)
class MaskedBatch:
    """What a video network sees in a training step, and what it is to predict.

    Attributes:
        latents: (B, C, P + F, h, w), P clean past frames and F noisy new ones (Eq. 1).
        timesteps: (B,) int64.
        target: (B, C, F, h, w) of the new frames.
        past: P.
    """

    latents: Tensor
    timesteps: Tensor
    target: Tensor
    past: int


def compose(past: Tensor | None, noisy: Tensor) -> Tensor:
    """Past and noisy frames one after another, (B, C, P + F, h, w), as the network takes them.

    Args:
        past: clean latents (B, C, P, h, w), or (1, …) for all of a batch; None for no past.
        noisy: (B, C, F, h, w).

    Raises:
        InputError: frames of different channels or sizes.
    """
    if past is None or not past.shape[2]:
        return noisy
    if past.ndim != 5 or noisy.ndim != 5 or past.shape[1] != noisy.shape[1] or past.shape[3:] != noisy.shape[3:]:
        raise InputError(
            f"past frames {tuple(past.shape)} do not fit new ones {tuple(noisy.shape)}; expected (B, C, frames, h, w) with "
            "equal channels and sizes"
        )
    past = past.to(noisy.device, noisy.dtype)
    return torch.cat([past.expand(len(noisy), -1, -1, -1, -1), noisy], dim=2)


def masked_batch(
    scheduler: Any, latents: Tensor, past: int, *, timesteps: Tensor | None = None, noise: Tensor | None = None
) -> MaskedBatch:
    """Add noise to the frames after the first `past` ones.

    Args:
        scheduler: gives the noise levels and says what is predicted.
        latents: clean, (B, C, P + F, h, w).
        past: P, from 0 to below P + F.
        timesteps: (B,), one for all frames of an item; drawn if None.
        noise: (B, C, F, h, w); drawn if None.

    Raises:
        InputError: no frame would be new.
    """
    if latents.ndim != 5 or not 0 <= past < latents.shape[2]:
        raise InputError(f"{past} past frames leave no new ones in latents {tuple(latents.shape)} (B, C, frames, h, w)")
    noisy = noisy_batch(scheduler, latents[:, :, past:], timesteps=timesteps, noise=noise)
    return MaskedBatch(compose(latents[:, :, :past], noisy.latents), noisy.timesteps, noisy.target, past)


def masked_errors(predicted: Tensor, batch: MaskedBatch) -> Tensor:
    """The mean squared error of the new frames for each item, (B,) (Eq. 2); what is predicted for past frames does not count."""
    return (predicted[:, :, batch.past :] - batch.target).square().mean((1, 2, 3, 4))
