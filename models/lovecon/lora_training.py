"""Training of a LoRA for the UNet of a Stable Diffusion folder, for `visionzoo fit`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from visionzoo.console import note
from visionzoo.diffusion import noisy_batch, save_lora
from visionzoo.errors import InputError, require
from visionzoo.stored import CUSTOM
from visionzoo.training.muon import muon

from ..toy_world import open_text_to_image
from .latent_training import LatentTraining

__all__ = ["LoraTraining"]

NAME = "default"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""The layers of self- and cross-attention."""


class LoraTraining(LatentTraining):
    """Trains low-rank updates of all attention layers of a UNet (LoRA, arXiv 2106.09685); everything else is frozen.

    When training ends, `lora/pytorch_lora_weights.safetensors` in the run's folder is a file that `load_lora_weights` of diffusers
    and `visionzoo.diffusion.load_lora` read. Checkpoints hold the updates only.

    Args:
        base: folder in Stable Diffusion's layout; None for the toy world's.
        rank: of the updates.
        alpha: numerator of their scale, alpha / rank; None for the rank.
        lr: learning rate (AdamW).
        warmup_steps: steps in which the rate rises; then it falls along half a cosine until the last step.
        clip_norm: maximum norm of the gradient.
        guidance: of the samples that are drawn after each validation, with the true images below them.
        sample_steps: of the samples; 0 draws none.

    Raises:
        InputError: the folder holds no such pipeline, or the rank is below 1.
        MissingDependencyError: peft is not installed.
    """

    name = CUSTOM
    model: nn.ModuleDict

    def __init__(
        self,
        base: str | None = None,
        rank: int = 8,
        alpha: float | None = None,
        lr: float = 1e-4,
        warmup_steps: int = 20,
        clip_norm: float = 1.0,
        guidance: float = 5.0,
        sample_steps: int = 20,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.overrides = {}
        if rank < 1:
            raise InputError(f"model.rank must be at least 1, got {rank}")
        peft = require("peft", extra="diffusion", purpose="LoRA")
        self._pipe = open_text_to_image(base)
        self.parts = {name: getattr(self._pipe, name) for name in ("vae", "text_encoder", "unet", "scheduler")}
        for part in self.parts.values():
            if isinstance(part, nn.Module):
                part.eval().requires_grad_(False)
        config = peft.LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=list(ATTENTION))
        peft.inject_adapter_in_model(config, self._pipe.unet, adapter_name=NAME)
        # the updates alone, so that checkpoints and averages do not hold the UNet
        self.model = nn.ModuleDict(
            {
                key.replace(".", "/"): nn.ModuleList([layer.lora_A[NAME], layer.lora_B[NAME]])
                for key, layer in self._pipe.unet.named_modules()
                if hasattr(layer, "lora_A")
            }
        ).requires_grad_(True)

    def configure_optimizers(self) -> Any:
        h = self.hparams
        return muon(self, h["lr"], h["lr"], h["warmup_steps"], vectors="")  # AdamW for all: every name contains ""

    def loss(
        self, batch: dict[str, Any], trained: nn.Module, times: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """The mean squared error of the prediction for each item, (B,); "text" is needed. `trained` is `model`, inside the UNet."""
        noisy = noisy_batch(self.parts["scheduler"], batch["latents"], timesteps=times, noise=noise)
        predicted = self.parts["unet"](noisy.latents, noisy.timesteps, batch["text"]).sample
        return (predicted - noisy.target).square().mean((1, 2, 3))

    def pipeline(self) -> Any:
        return self._pipe

    def exports(self) -> dict[str, nn.Module]:
        return {"weights.safetensors": self.model}

    def on_fit_end(self) -> None:
        """Write `lora/`."""
        trainer = self.trainer
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            note(f"LoRA: {self.save(trainer.default_root_dir)}")

    def save(self, folder: str | Path) -> Path:
        """Write the updates into `lora/` of a folder; return the file."""
        return save_lora(SimpleNamespace(components={"unet": self._pipe.unet}), Path(folder) / "lora", NAME)
