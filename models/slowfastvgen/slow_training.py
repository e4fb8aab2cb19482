"""Slow learning, the training of the video network itself, for `visionzoo fit`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from visionzoo.console import note
from visionzoo.diffusion import decode_latents, make_scheduler, noise_and_times, noise_of
from visionzoo.errors import InputError
from visionzoo.io.files import atomic_path, bundled, make_folder
from visionzoo.io.pixels import to_uint8
from visionzoo.training.module import TrainingModule
from visionzoo.training.muon import muon
from visionzoo.weights import load_checkpoint, read_checkpoint

from ..toy_world import noise_schedule, open_vae
from .folder import open_parts, save_video_folder
from .masked import masked_batch, masked_errors
from .networks import FILES, build, start_from_images
from .sampling import sample_chunk

__all__ = ["SlowLearning"]

SHOWN = 6
"""Number of chunks that are drawn after a validation."""

KNOWN = 1024
"""Number of texts whose states are kept if the text encoder is frozen."""


class SlowLearning(TrainingModule):
    """Trains a video UNet to predict new frames from clean past ones and an action (section 3.1 of arXiv 2410.23277).

    After every validation, `samples/` in the run's folder gets an image with two rows for each of some held-out chunks: the true
    frames, and the same past with new frames that were sampled.

    Args:
        base: folder with unet, vae, text_encoder, tokenizer and scheduler to start from, e.g. ModelScope's; None is the toy
            world's autoencoder and schedule with a small network with random weights.
        config: fields of `SlowFastNanoConfig` to override, for the network with random weights.
        images: folder of an image pipeline whose UNet (UNet2DConditionModel) gives the video UNet its first weights, in layers of
            equal names and shapes; or "lovecon_nano" for the bundled one.
        checkpoint: start from this weights file of an earlier run.
        train_text: also train the text encoder; the paper does not.
        optimizer: "adam" as in the paper, or "muon" for the matrices with AdamW for the vectors.
        lr: learning rate (with "muon", of the matrices).
        vector_lr: with "muon", learning rate of biases, norms and embeddings.
        warmup_steps: steps in which the rates rise; then they fall along half a cosine until the last step.
        clip_norm: maximum norm of the gradient.
        ema_decay: decay of an averaged copy of the trained weights, which is validated and exported; None for no copy.
        past_noise: standard deviation of noise that is added to past frames, so that the network bears with its own mistakes when
            it continues its own frames; 0 as in the paper.
        gradient_checkpointing: compute activations twice instead of keeping them, for less memory.
        guidance: of the samples.
        sample_steps: of the samples; 0 draws none.
        settings: values to record in the folder that is written, which the pipeline takes from there: window, frames_per_chunk,
            past_frames, steps, guidance, fps, actions.
        export_half: write the weights in half precision.

    Raises:
        InputError: a folder does not hold what it should.
    """

    try_with = "visionzoo info {name}"
    name = "slowfastvgen_nano"
    model: nn.ModuleDict

    def __init__(
        self,
        base: str | None = None,
        config: dict[str, Any] | None = None,
        images: str | None = None,
        checkpoint: str | None = None,
        train_text: bool = False,
        optimizer: Literal["adam", "muon"] = "adam",
        lr: float = 5e-6,
        vector_lr: float = 2e-3,
        warmup_steps: int = 100,
        clip_norm: float = 1.0,
        ema_decay: float | None = None,
        past_noise: float = 0.0,
        gradient_checkpointing: bool = False,
        guidance: float = 2.0,
        sample_steps: int = 20,
        settings: dict[str, Any] | None = None,
        export_half: bool = True,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.overrides = dict(config or {})
        self._fresh = base is None
        self.parts = _fresh_parts(self.overrides) if base is None else open_parts(base)
        if images is not None:
            place = bundled("weights", "lovecon") if images == "lovecon_nano" else Path(images)
            start_from_images(self.parts["unet"], read_checkpoint(place / "unet" / FILES["unet"]))
        for part in self.parts.values():
            if isinstance(part, nn.Module):
                part.eval().requires_grad_(False)
        trained = ("unet", "text_encoder") if train_text else ("unet",)
        self.model = nn.ModuleDict({name: self.parts[name] for name in trained}).train().requires_grad_(True)
        if checkpoint is not None:
            load_checkpoint(self.model, checkpoint)
        if gradient_checkpointing:
            self.model["unet"].enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue]
        self.keep_average(ema_decay)
        self._losses: list[Tensor] = []
        self._shown: dict[str, Any] = {}
        self._known: dict[str, Tensor] = {}

    @property
    def best(self) -> nn.ModuleDict:
        """What is validated and exported: the averaged networks if there are any."""
        found: Any = self.model if self.average is None else self.average.module
        return found

    def configure_optimizers(self) -> Any:
        h = self.hparams
        if h["optimizer"] == "adam":
            return muon(self, h["lr"], h["lr"], h["warmup_steps"], vectors="")  # every name contains ""
        return muon(self, h["lr"], h["vector_lr"], h["warmup_steps"], vectors="embeddings")

    def on_fit_start(self) -> None:
        super().on_fit_start()
        for part in self.parts.values():
            if isinstance(part, nn.Module):
                part.to(self.device)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        sharded = getattr(
            self.trainer.strategy.model, "clip_grad_norm_", None
        )  # FSDP: each process has a part of the gradient
        if sharded is not None:
            sharded(self.hparams["clip_norm"])
        else:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.hparams["clip_norm"])

    def encode(self, networks: nn.ModuleDict, texts: Sequence[str]) -> Tensor:
        """States (B, tokens, width) of texts, with gradients if the text encoder is trained, and otherwise kept for later steps."""
        if "text_encoder" in networks:
            return self._states(networks["text_encoder"], texts)
        for text in texts:
            if text not in self._known:
                if len(self._known) >= KNOWN:
                    self._known.pop(next(iter(self._known)))
                with torch.no_grad():
                    self._known[text] = self._states(self.parts["text_encoder"], [text])
        return torch.cat([self._known[text] for text in texts]).to(self.device)

    def _states(self, encoder: Any, texts: Sequence[str]) -> Tensor:
        tokenizer = self.parts["tokenizer"]
        limit = tokenizer.model_max_length
        tokens = tokenizer(list(texts), padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
        return encoder(tokens.input_ids.to(encoder.device))[0]

    def loss(
        self,
        batch: dict[str, Any],
        networks: nn.ModuleDict,
        times: Tensor | None = None,
        noise: Tensor | None = None,
        past_noise: Tensor | None = None,
    ) -> Tensor:
        """The mean squared error of the new frames for each item, (B,) (Eq. 2).

        Args:
            batch: as of `Chunks`: "latents" (B, C, P + F, h, w), "past" (B,) with equal P, "action", and "stream".
            networks: those that are trained, or their average.
            times, noise: see `masked_batch`.
            past_noise: added to the past, (B, C, P, h, w).
        """
        latents, past = batch["latents"], int(batch["past"][0])
        noisy = masked_batch(self.parts["scheduler"], latents, past, timesteps=times, noise=noise)
        seen = noisy.latents
        if past_noise is not None and past:
            seen = torch.cat([seen[:, :, :past] + past_noise, seen[:, :, past:]], dim=2)
        predicted: Tensor = networks["unet"](seen, noisy.timesteps, self.encode(networks, batch["action"])).sample
        return masked_errors(predicted, noisy)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        latents, past = batch["latents"], int(batch["past"][0])
        steps = self.parts["scheduler"].config["num_train_timesteps"]
        shape = list(latents.shape[1:])
        noise, times = noise_and_times(batch["stream"], shape, steps, latents.device)
        spread = self.hparams["past_noise"]
        blur = (
            spread * noise[:, :, :past] if spread else None
        )  # of all frames' noise, the part that is not used otherwise
        loss = self.loss(batch, self.model, times, noise[:, :, past:], blur).mean()
        self.check_finite(loss)
        self.log_loss(loss, len(latents))
        return loss

    def on_validation_epoch_start(self) -> None:
        self._losses, self._shown = [], {}
        self.best.eval()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        latents, past = batch["latents"], int(batch["past"][0])
        noise = noise_of(batch["stream"], latents.shape[1:], latents.device)[:, :, past:]
        steps = self.parts["scheduler"].config["num_train_timesteps"]
        times = (torch.arange(len(latents)) * steps // len(latents) + steps // (2 * len(latents))).to(latents.device)
        self._losses.append(self.loss(batch, self.best, times, noise))
        if batch_idx % max(1, self.trainer.num_val_batches[0] // SHOWN) == 0:  # of different episodes
            for key in ("latents", "action", "past"):
                self._shown.setdefault(key, []).append(batch[key][0])

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", torch.cat(self._losses).mean(), prog_bar=True, sync_dist=True)
        if self.trainer.is_global_zero and not self.trainer.sanity_checking and self.hparams["sample_steps"]:
            self._draw_samples()
        if self.average is None:
            self.model.train()

    @torch.no_grad()
    def _draw_samples(self) -> None:
        """Draw two rows for each chunk: the true frames, and those that were sampled, after every second past frame."""
        h, networks = self.hparams, self.best
        scheduler = make_scheduler("ddim", self.parts["scheduler"])
        latents, past = torch.stack(self._shown["latents"][:SHOWN]), int(self._shown["past"][0])
        scheduler.set_timesteps(h["sample_steps"])
        noise = torch.randn(latents[:, :, past:].shape, generator=torch.Generator().manual_seed(0)).to(latents.device)
        text, none = (self.encode(networks, texts) for texts in (self._shown["action"][:SHOWN], [""] * len(latents)))
        made = sample_chunk(
            networks["unet"], scheduler, noise, latents[:, :, :past], text, none, guidance=h["guidance"]
        )
        vae, rows = self.parts["vae"], []
        for true, sampled in zip(latents, made, strict=True):
            for new in (true[:, past:], sampled):
                shown = torch.cat([true[:, max(0, past - 4) : past : 2], new[:, ::2]], dim=1).transpose(0, 1)
                rows.append(np.concatenate(list(to_uint8(decode_latents(vae, shown.cpu()))), axis=1))
        folder = make_folder(f"{self.trainer.default_root_dir}/samples")
        with atomic_path(folder / f"{self.global_step:06d}.png") as path:
            Image.fromarray(np.concatenate(rows)).save(path, "PNG")

    def exports(self) -> dict[str, nn.Module]:
        return {"weights.safetensors": self.best}

    def on_fit_end(self) -> None:
        """Write `pipeline/`, and for the small network the weights file, too."""
        if self._fresh:
            super().on_fit_end()
        if self.trainer.is_global_zero and not getattr(self.trainer, "fast_dev_run", False):
            note(f"diffusers folder: {self.save(self.trainer.default_root_dir)}")

    def save(self, folder: str | Path) -> Path:
        """Write all parts, with the trained networks, into `pipeline/` of a folder; return that."""
        parts = {**self.parts, **dict(self.best.items())}
        h = self.hparams
        return save_video_folder(parts, Path(folder) / "pipeline", half=h["export_half"], settings=h["settings"])


def _fresh_parts(overrides: dict[str, Any]) -> dict[str, Any]:
    """The parts of the small pipeline: networks with random weights, the toy world's autoencoder and schedule."""
    if unknown := [key for key in overrides if key == "latent_channels"]:
        raise InputError(f"model.config.{unknown[0]} is that of the toy world's autoencoder; leave it out")
    nano: Any = build("slowfastvgen_nano", **overrides)
    own = {name: getattr(nano, name) for name in ("text_encoder", "tokenizer", "unet")}
    return {"vae": open_vae(), **own, "scheduler": noise_schedule()}
