"""LongAnimation's third stage: a colour consistency reward from the memory encoder (section 3.4 of arXiv 2507.01945).

How the published reward is computed is not known: which distance, which denoising steps carry the gradient, and its weight. This is a
proposal: the clean latents that follow from one step at a late timestep are decoded in part, and the memory encoder's mean keys
and values of these frames are pulled towards those of the true frames.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from visionzoo.data.augmented import stream_of
from visionzoo.errors import InputError

from .color_batch import estimate_clean
from .color_training import ColorTraining
from .nano import NANO_PROMPT

__all__ = ["ColorRewardTraining"]

SLICE = 2
"""Latent frames that are decoded: 8 frames."""


class ColorRewardTraining(ColorTraining):
    """`ColorTraining` with the reward added to its loss.

    Args:
        reward: weight of the reward.
        latest: the reward is computed at timesteps up to this share of all of them; the noise above it leaves no colours to compare.
        **settings: those of `ColorTraining`; SketchDiT and DGLM are trained by default.

    Raises:
        InputError: a weight below 0, a share outside (0, 1], or no memory.
    """

    def __init__(
        self,
        reward: float = 0.1,
        latest: float = 0.4,
        train: Any = ("sketch_dit", "memory_fusion"),
        memory_share: float = 1.0,
        **settings: Any,
    ):
        if reward < 0 or not 0 < latest <= 1:
            raise InputError(f"model.reward must be at least 0 and model.latest in (0, 1], got {reward} and {latest}")
        if not memory_share:
            raise InputError("the reward needs the memory encoder; model.memory_share must be above 0")
        super().__init__(train=train, memory_share=memory_share, **settings)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        noise, times = self.noise(batch)
        steps = self.parts["scheduler"].config["num_train_timesteps"]
        times = (times * self.hparams["latest"]).long().clamp(0, steps - 1)
        given = self.prepare(batch, times, noise)
        predicted = self.predict(batch, given, self.model, self.uses_memory(batch)).float()
        missing = given.target.shape[1] - batch["latents"].shape[1]
        loss = (predicted - given.target)[:, missing:].square().mean()
        clean = estimate_clean(self.parts["scheduler"], given.noisy, predicted, times)[:, missing:]
        consistency = self.inconsistency(batch, clean / self.parts["vae"].config.scaling_factor)
        self.log("train/inconsistency", consistency.detach(), prog_bar=True)
        loss = loss + self.hparams["reward"] * consistency
        self.check_finite(loss)
        self.log_loss(loss, len(noise))
        return loss

    def inconsistency(self, batch: dict[str, Any], clean: Tensor) -> Tensor:
        """1 minus the cosine between the memories of decoded frames and of the true ones, from 0 to 2, averaged over the batch.

        Args:
            batch: with the true "latents", and "stream", which chooses the frames.
            clean: latents that the network leads to, (B, T, C, h, w), not multiplied by the autoencoder's factor.
        """
        found = []
        for made, true, stream in zip(clean, batch["latents"], batch["stream"], strict=True):
            start = stream_of(int(stream), 3) % max(1, len(made) - SLICE + 1)
            part = slice(start, start + SLICE)
            frames = checkpoint(self._frames, made[None, part], use_reentrant=False)
            with torch.no_grad():
                wanted = self._mean_memory(self._frames(true[None, part]), detach=True)
            found.append(1 - F.cosine_similarity(self._mean_memory(frames, detach=False), wanted, dim=-1).mean())
        return torch.stack(found).mean()

    def _frames(self, latents: Tensor) -> Tensor:
        """(1, T, C, h, w) -> frames (F, 3, H, W) in [0, 1]."""
        return (self.decode(latents)[0].transpose(0, 1).clamp(-1, 1) + 1) / 2

    def _mean_memory(self, frames: Tensor, detach: bool) -> Tensor:
        """Mean keys and values of each level, (2, levels, width)."""
        encoder = self.parts["memory_encoder"]
        prompt = NANO_PROMPT if encoder.tokenizer is None else encoder.prompt_tokens()
        return encoder.encode(frames, prompt, detach=detach)[0].float().mean(2)
