"""Training of a ControlNet, alone or with the UNet and the text encoder that it belongs to, for `visionzoo fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from visionzoo.console import note
from visionzoo.diffusion import noisy_batch
from visionzoo.training.muon import muon
from visionzoo.weights import load_checkpoint

from ..toy_world import noise_schedule, open_text_to_image, open_vae
from .control_folder import control_pipeline, open_controlnet, save_control_pipeline, save_part
from .latent_training import LatentTraining
from .networks import build

__all__ = ["ControlNetTraining", "denoise"]


class ControlNetTraining(LatentTraining):
    """Trains a ControlNet on latents with captions and control images (arXiv 2302.05543).

    After every validation, `samples/` in the run's folder gets an image with three rows: the control images, samples for held-out
    captions, and the true frames as the autoencoder reconstructs them.

    Args:
        base: folder in Stable Diffusion's layout (vae, text_encoder, tokenizer, unet, scheduler), perhaps with a ControlNet to
            start from. None is the toy world's, or with `train` "all", a small network with random weights.
        config: fields of `LOVEConNanoConfig` to override, for the network with random weights.
        controlnet: folder of a ControlNet to start from; None for that of the base, or a copy of its UNet's encoder.
        checkpoint: start from this weights file of an earlier run.
        train: "controlnet", with the base frozen, or "all": UNet, ControlNet and text encoder together.
        optimizer: "adamw", or "muon" for the matrices with AdamW for the vectors.
        lr: learning rate (with "muon", of the matrices).
        vector_lr: with "muon", learning rate of biases, norms and embeddings.
        warmup_steps: steps in which the rates rise; then they fall along half a cosine until the last step.
        clip_norm: maximum norm of the gradient.
        ema_decay: decay of an averaged copy of the trained weights, which is validated and exported; None for no copy.
        emphasis: how much more errors count where the data say that latents show a character.
        guidance: of the samples.
        sample_steps: of the samples; 0 draws none.
        export_half: write the weights in half precision.

    Raises:
        InputError: a folder does not hold what it should.
    """

    try_with = "visionzoo info {name}"
    name = "lovecon_nano"
    model: nn.ModuleDict

    def __init__(
        self,
        base: str | None = None,
        config: dict[str, Any] | None = None,
        controlnet: str | None = None,
        checkpoint: str | None = None,
        train: Literal["controlnet", "all"] = "controlnet",
        optimizer: Literal["adamw", "muon"] = "adamw",
        lr: float = 1e-5,
        vector_lr: float = 2e-3,
        warmup_steps: int = 100,
        clip_norm: float = 1.0,
        ema_decay: float | None = None,
        emphasis: float = 0.0,
        guidance: float = 3.0,
        sample_steps: int = 20,
        export_half: bool = True,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.overrides = dict(config or {})
        self._fresh = base is None and train == "all"
        self.parts = _fresh(self.overrides) if self._fresh else _opened(base)
        if controlnet is not None:
            self.parts["controlnet"] = open_controlnet(controlnet)
        trained = ("unet", "controlnet", "text_encoder") if train == "all" else ("controlnet",)
        for part in self.parts.values():
            if isinstance(part, nn.Module):
                part.eval().requires_grad_(False)
        self.model = nn.ModuleDict({name: self.parts[name] for name in trained}).train().requires_grad_(True)
        if checkpoint is not None:
            load_checkpoint(self.model, checkpoint)
        self.model.to(memory_format=torch.channels_last)  # faster on CPUs
        self.keep_average(ema_decay)

    def configure_optimizers(self) -> Any:
        h = self.hparams
        if h["optimizer"] == "adamw":
            return muon(self, h["lr"], h["lr"], h["warmup_steps"], vectors="")  # every name contains ""
        return muon(self, h["lr"], h["vector_lr"], h["warmup_steps"], vectors="embeddings")

    def loss(
        self, batch: dict[str, Any], trained: nn.Module, times: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """The mean squared error of the prediction for each item, (B,).

        Args:
            batch: as of `Controlled`: "latents" (B, C, h, w), "caption" or "text", "control" (B, 3, H, W), "keep" (B,), and perhaps
                "focus" (B, 1, h, w).
            trained: the networks that are trained, or their average.
            times, noise: see `visionzoo.diffusion.noisy_batch`.
        """
        parts = {**self.parts, **dict(cast(nn.ModuleDict, trained).items())}
        noisy = noisy_batch(parts["scheduler"], batch["latents"], timesteps=times, noise=noise)
        states = batch["text"] if "text" in batch else self._encode(parts["text_encoder"], batch["caption"])
        keep = batch["keep"].to(states.dtype)
        predicted = denoise(
            parts["unet"], parts["controlnet"], noisy.latents, noisy.timesteps, states, batch["control"], keep
        )
        errors = (predicted - noisy.target).square().mean(1, keepdim=True)
        if "focus" in batch and self.hparams["emphasis"]:
            errors = errors * (1 + self.hparams["emphasis"] * batch["focus"])
        return errors.mean((1, 2, 3))

    def _encode(self, encoder: Any, texts: list[str]) -> Tensor:
        """States of texts, with gradients if the encoder is trained."""
        tokenizer = self.parts["tokenizer"]
        limit = tokenizer.model_max_length
        tokens = tokenizer(texts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
        return encoder(tokens.input_ids.to(self.device))[0]

    def pipeline(self) -> Any:
        return control_pipeline({**self.parts, **dict(cast(nn.ModuleDict, self.best).items())})

    def exports(self) -> dict[str, nn.Module]:
        return {"weights.safetensors": self.best}

    def on_fit_end(self) -> None:
        """Write `pipeline/`, or `controlnet/` if the ControlNet alone was trained; for the small network the weights file, too."""
        if self._fresh:
            super().on_fit_end()
        if self.trainer.is_global_zero and not getattr(self.trainer, "fast_dev_run", False):
            note(f"diffusers folder: {self.save(self.trainer.default_root_dir)}")

    def save(self, folder: str | Path) -> Path:
        """Write what was trained into `pipeline/` or `controlnet/` of a folder, as diffusers reads it; return that."""
        half, place, best = self.hparams["export_half"], Path(folder), cast(nn.ModuleDict, self.best)
        if self.hparams["train"] == "controlnet":
            return save_part(best["controlnet"], place / "controlnet", half=half)
        return save_control_pipeline({**self.parts, **dict(best.items())}, place / "pipeline", half=half)


def denoise(
    unet: Any, controlnet: Any, latents: Tensor, timesteps: Tensor, states: Tensor, control: Tensor, keep: Tensor
) -> Tensor:
    """What a UNet with a ControlNet predicts from noisy latents, (B, C, h, w).

    Args:
        latents: (B, C, h, w); timesteps: (B,); states: (B, tokens, width) of the text encoder.
        control: (B, 3, H, W) in [0, 1].
        keep: (B,) factors of what the ControlNet adds: 0 leaves the UNet alone.
    """
    down, middle = controlnet(
        latents, timesteps, encoder_hidden_states=states, controlnet_cond=control, return_dict=False
    )
    share = keep[:, None, None, None]
    return unet(
        latents,
        timesteps,
        states,
        down_block_additional_residuals=[each * share for each in down],
        mid_block_additional_residual=middle * share,
    ).sample


def _fresh(overrides: dict[str, Any]) -> dict[str, Any]:
    """The parts of the small pipeline: networks with random weights, the toy world's autoencoder and schedule."""
    nano: Any = build("lovecon_nano", **overrides)
    own = {name: getattr(nano, name) for name in ("text_encoder", "tokenizer", "unet", "controlnet")}
    return {"vae": open_vae(), **own, "scheduler": noise_schedule()}


def _opened(base: str | None) -> dict[str, Any]:
    """The parts of a folder, with its ControlNet, or one that starts as a copy of the UNet's encoder."""
    pipe = open_text_to_image(base)
    own = {name: getattr(pipe, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    return {**own, "controlnet": open_controlnet(base, pipe.unet)}
