"""Sampling of one chunk: new frames are denoised beside clean past ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from visionzoo.diffusion import scheduler_step

from .adapters import folded_adapter
from .layers import TextCache
from .masked import compose
from .unet import SlowFastUNet

__all__ = ["sample_chunk"]


@torch.no_grad()
def sample_chunk(
    unet: Any,
    scheduler: Any,
    noise: Tensor,
    past: Tensor | None,
    text: Tensor,
    no_text: Tensor | None = None,
    *,
    guidance: float = 1.0,
    on_step: Callable[[int, Tensor], Tensor | None] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample the latents (B, C, F, h, w) of a chunk, float32 (section 3.2 of arXiv 2410.23277).

    The past enters every call of the network unchanged: it takes part neither in guidance nor in the scheduler's steps.

    Args:
        unet: predicts from latents (B, C, P + F, h, w), timesteps and the states of a text.
        scheduler: with its timesteps set.
        noise: (B, C, F, h, w), standard normal, in the precision and on the device of the network; steps are taken in float32.
        past: clean latents (B or 1, C, P, h, w), or None.
        text: states (B or 1, tokens, width) of the action.
        no_text: those of no text; needed with guidance.
        guidance: scale of classifier-free guidance; 1 is none, and halves the time.
        on_step: called after every step with its number, from 0, and the latents; it may return others.
        generator: for schedulers that add noise.
    """
    latents, batch = noise.float() * scheduler.init_noise_sigma, len(noise)
    guided = guidance != 1.0 and no_text is not None
    states = text.expand(batch, -1, -1)
    if guided:
        assert no_text is not None
        states = torch.cat([no_text.expand(batch, -1, -1), states])
    states = states.to(noise)
    with folded_adapter(
        unet
    ):  # its weights stay during a chunk, so the memory is added to them, and the text projected, once
        ours = isinstance(unet, SlowFastUNet)
        options = {"text_cache": TextCache(states), "equal_halves": guided} if ours else {}
        for number, time in enumerate(scheduler.timesteps):
            seen = compose(past, scheduler.scale_model_input(latents, time)).to(noise.dtype)
            given = torch.cat([seen, seen]) if guided else seen
            predicted = unet(given, time.to(given.device), states, **options).sample[:, :, -latents.shape[2] :].float()
            if guided:
                without, with_text = predicted.chunk(2)
                predicted = without + guidance * (with_text - without)
            latents = scheduler_step(scheduler, predicted, time, latents, generator=generator)
            if on_step is not None and (changed := on_step(number, latents)) is not None:
                latents = changed
    return latents
