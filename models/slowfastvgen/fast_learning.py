"""Fast learning: what TEMP-LORA is trained on after each chunk (Eq. 3 of arXiv 2410.23277), and the variants of its ablation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from visionzoo.errors import InputError

from .adapters import TempLoRA
from .masked import masked_batch, masked_errors

__all__ = ["Draw", "FastBatch", "draw_step", "fast_batch", "fast_loss"]


@dataclass(frozen=True)
class Draw:
    """The random numbers of a step: timesteps (K,) int64 and noise (K, C, F, h, w), of all frames."""

    timesteps: Tensor
    noise: Tensor


@dataclass(frozen=True)
class FastBatch:
    """What one call of fast learning trains on.

    Attributes:
        latents: (1, C, F, h, w), clean.
        clean: number of frames at the start that get no noise and do not count.
        text: (1, tokens, width).
    """

    latents: Tensor
    clean: int
    text: Tensor


def fast_batch(
    config: TempLoRA,
    past: Tensor | None,
    made: Tensor,
    *,
    no_text: Tensor,
    text: Tensor | None = None,
    episode: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> FastBatch:
    """Put together what the variant in `config` trains on after a chunk.

    Args:
        past: latents of the chunk's input (1, C, P, h, w), or None.
        made: its output (1, C, F, h, w).
        no_text: states of the empty prompt (1, tokens, width).
        text: states of the action, for the variant "original".
        episode: all latents of the episode (1, C, N, h, w), for the variant "global", which trains on P + F of them in their order.
        generator: draws these.

    Raises:
        InputError: shapes that do not fit, or what the variant needs is missing.
    """
    if made.ndim != 5 or len(made) != 1 or not made.shape[2]:
        raise InputError(f"a chunk must be latents (1, C, frames, h, w), got {tuple(made.shape)}")
    if past is not None and (past.ndim != 5 or past.shape[:2] != made.shape[:2] or past.shape[3:] != made.shape[3:]):
        raise InputError(f"past latents {tuple(past.shape)} do not fit those of the chunk, {tuple(made.shape)}")
    without = torch.zeros_like(no_text) if config.no_text == "zeros" else _own(no_text)
    past = made[:, :, :0] if past is None else past.to(made)
    text = None if text is None else _own(text)
    if config.variant == "single_frame":
        past = past[:, :, -1:]
    latents = torch.cat(
        [past, made], dim=2
    )  # of tensors from inference mode, if it is not active here, an ordinary one
    if config.variant == "original":
        if text is None:
            raise InputError('the variant "original" learns with the text of the action; give text=…')
        return FastBatch(latents, past.shape[2], text)
    if config.variant == "global":
        if episode is None:
            raise InputError('the variant "global" learns from all frames of the episode; give episode=…')
        chosen = torch.randperm(episode.shape[2], generator=generator)[: latents.shape[2]].sort().values
        latents = episode[:, :, chosen.to(episode.device)].to(made)
    return FastBatch(latents, 0, without)


def _own(text: Tensor) -> Tensor:
    """Text that the backward pass may keep."""
    return text.clone() if text.is_inference() else text


def draw_step(config: TempLoRA, batch: FastBatch, steps: int, generator: torch.Generator) -> Draw:
    """Draw the timesteps and the noise of a step on the CPU, so that all devices get the same.

    With K = `config.batch` timesteps, one comes from each of K equal parts of the schedule.

    Args:
        steps: of the noise schedule.
    """
    count = config.batch
    parts = torch.arange(count, dtype=torch.float64)
    timesteps = ((parts + torch.rand(count, dtype=torch.float64, generator=generator)) * steps / count).long()
    noise = torch.randn(count, *batch.latents.shape[1:], generator=generator)
    return Draw(timesteps.clamp_max(steps - 1), noise)


def fast_loss(unet: nn.Module, scheduler: Any, batch: FastBatch, drawn: Draw) -> Tensor:
    """The mean squared error of what the network predicts for the frames with noise: for the variant "local", Eq. 3 of the paper.

    Gradients reach whatever is trainable in the network. Call it in eval mode: the network's dropout would change the memory.

    Args:
        scheduler: gives the noise levels and says what is predicted.
    """
    weights = next(unet.parameters())
    exact = torch.promote_types(weights.dtype, torch.float32)  # half precision is for the network only
    given = batch.latents.to(weights.device, exact).expand(len(drawn.timesteps), -1, -1, -1, -1)
    noise = drawn.noise[:, :, batch.clean :].to(given)
    masked = masked_batch(scheduler, given, batch.clean, timesteps=drawn.timesteps, noise=noise)
    text = batch.text.to(weights).expand(len(given), -1, -1)
    predicted = unet(masked.latents.to(weights.dtype), masked.timesteps, text).sample
    return masked_errors(predicted.to(exact), masked).mean()
