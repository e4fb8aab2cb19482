"""What the trainings of latent diffusion networks share: validation with fixed noise, and samples that are drawn after it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from visionzoo.diffusion import decode_latents, encode_text, noise_of
from visionzoo.io.files import atomic_path, make_folder
from visionzoo.io.pixels import to_uint8
from visionzoo.training.module import TrainingModule

__all__ = ["LatentTraining"]

SHOWN = 8
"""Number of images that are drawn after a validation."""


class LatentTraining(TrainingModule, ABC):
    """Trains networks of a latent diffusion pipeline on items with "latents" and "caption" or "text".

    A subclass sets the attributes below, and has the hyper-parameters clip_norm, guidance and sample_steps.

    Attributes:
        parts: vae, text_encoder, tokenizer, unet, scheduler, and perhaps others; networks that are not in `model` are frozen,
            and not part of checkpoints.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[str, Any] = {}
        self._losses: list[Tensor] = []
        self._shown: dict[str, Any] = {}

    @property
    def best(self) -> nn.Module:
        """What is validated and exported: the averaged networks if there are any."""
        return self.model if self.average is None else self.average.module

    @abstractmethod
    def loss(
        self, batch: dict[str, Any], trained: nn.Module, times: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """The mean squared error of the prediction for each item, (B,).

        Args:
            batch: items.
            trained: `model` or `best`.
            times, noise: see `visionzoo.diffusion.noisy_batch`.
        """

    @abstractmethod
    def pipeline(self) -> Any:
        """A pipeline of diffusers with the networks of `best`, for samples."""

    def on_fit_start(self) -> None:
        super().on_fit_start()
        for part in self.parts.values():
            if isinstance(part, nn.Module):
                part.to(self.device)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.hparams["clip_norm"])

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = self.loss(batch, self.model).mean()
        self.check_finite(loss)
        self.log_loss(loss, len(batch["latents"]))
        return loss

    def on_validation_epoch_start(self) -> None:
        self._losses, self._shown = [], {}
        self.best.eval()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        latents = batch["latents"]
        first = batch_idx * 100_000
        noise = noise_of(range(first, first + len(latents)), latents.shape[1:], latents.device)
        times = torch.linspace(0, self.parts["scheduler"].config["num_train_timesteps"] - 1, len(latents)).long()
        self._losses.append(self.loss(batch, self.best, times, noise))
        if not batch_idx:
            self._shown = {key: value[:SHOWN] for key, value in batch.items()}

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", torch.cat(self._losses).mean(), prog_bar=True, sync_dist=True)
        if self.trainer.is_global_zero and not self.trainer.sanity_checking and self.hparams["sample_steps"]:
            self._draw_samples()
        if self.average is None:
            self.model.train()

    def _draw_samples(self) -> None:
        """Draw rows of images, one column for each item: its control image if it has one, a sample, and the true image."""
        shown, h, pipe = self._shown, self.hparams, self.pipeline()
        pipe.set_progress_bar_config(disable=True)
        count, height = len(shown["latents"]), shown["latents"].shape[2] * 8
        if "text" in shown:
            none = encode_text(pipe.tokenizer, pipe.text_encoder, [""] * count)
            asked = {"prompt_embeds": shown["text"], "negative_prompt_embeds": none}
        else:
            asked = {"prompt": shown["caption"]}
        control = {"image": shown["control"]} if "control" in shown else {"height": height, "width": height}
        images = pipe(
            **asked,
            **control,
            num_inference_steps=h["sample_steps"],
            guidance_scale=h["guidance"],
            generator=[torch.Generator().manual_seed(seed) for seed in range(count)],
            output_type="np",
        ).images
        rows = [torch.from_numpy(images).permute(0, 3, 1, 2), decode_latents(pipe.vae, shown["latents"]).cpu()]
        if "control" in shown:
            rows.insert(0, shown["control"].cpu())
        sheet = np.concatenate([np.concatenate(list(to_uint8(row)), axis=1) for row in rows])
        folder = make_folder(f"{self.trainer.default_root_dir}/samples")
        with atomic_path(folder / f"{self.global_step:06d}.png") as path:
            Image.fromarray(sheet).save(path, "PNG")
