"""Training of an autoencoder of diffusers, for `visionzoo fit`."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from visionzoo.console import note
from visionzoo.diffusion import noise_of
from visionzoo.io.files import make_folder
from visionzoo.registry import create_model
from visionzoo.training.module import TrainingModule
from visionzoo.training.muon import muon
from visionzoo.weights import load_checkpoint

from .reconstruction import ReconstructionReport, reconstruction_report


class AutoencoderTraining(TrainingModule):
    """Trains an AutoencoderKL on images: absolute and squared errors, and a small Kullback-Leibler term.

    The optimiser is Muon (https://kellerjordan.github.io/posts/muon/, timm's implementation), with AdamW for vectors.

    Args:
        name: a registered autoencoder.
        config: fields of its configuration to override.
        checkpoint: start from this file.
        lr: learning rate of the matrices.
        vector_lr: learning rate of biases and norms.
        warmup_steps: steps in which the rates rise; then they fall along half a cosine until the last step of all epochs, or
            trainer.max_steps if epochs are not limited.
        squared: weight of the squared error; that of the absolute error is 0.5.
        kl: weight of the Kullback-Leibler divergence from a normal distribution, per number of the latents.
        clip_norm: maximum norm of the gradient.
        ema_decay: decay of an averaged copy of the weights, which is validated and exported; None for no copy.
        compile: compile the network's passes with torch.compile: it takes one to three minutes at the start and a C++ compiler, and
            steps are about a fifth faster on a CPU.
        export_half: write the weights in half precision.
    """

    try_with = "visionzoo info {name}"

    def __init__(
        self,
        name: str = "toy_vae",
        config: dict[str, Any] | None = None,
        checkpoint: str | None = None,
        lr: float = 3e-3,
        vector_lr: float = 2e-3,
        warmup_steps: int = 100,
        squared: float = 2.0,
        kl: float = 1e-4,
        clip_norm: float = 1.0,
        ema_decay: float | None = 0.998,
        compile: bool = False,
        export_half: bool = True,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.name, self.overrides = name, dict(config or {})
        self.model = create_model(name, **self.overrides)
        if checkpoint is not None:
            load_checkpoint(self.model, checkpoint)
        # Convolutions on a CPU are a quarter faster with channels last
        self.model.train().to(memory_format=torch.channels_last)
        self._pass = torch.compile(self._reconstruct) if compile else self._reconstruct
        self.keep_average(ema_decay)
        self._errors: list[Tensor] = []
        self._latents: list[Tensor] = []
        self.report: ReconstructionReport | None = None

    @property
    def best(self) -> Any:
        """The averaged network if there is one."""
        return self.model if self.average is None else cast(Any, self.average.module)

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct (B, 3, H, W) in [-1, 1]."""
        return self.best(images.contiguous(memory_format=torch.channels_last)).sample.clamp(-1, 1)

    def configure_optimizers(self) -> Any:
        h = self.hparams
        return muon(self, h["lr"], h["vector_lr"], h["warmup_steps"])

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.hparams["clip_norm"])

    def _reconstruct(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructions through latents with noise, and the divergence of each item's latents, per number."""
        posterior = self.model.encode(images).latent_dist
        rebuilt = self.model.decode(posterior.mean + posterior.std * noise).sample
        return rebuilt, posterior.kl() / noise[0].numel()

    def loss(self, images: Tensor, weights: Tensor, streams: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of images, and their errors (B, 3, H, W).

        Args:
            images: (B, 3, H, W) in [-1, 1].
            weights: (B, 1, H, W) of the pixels' errors.
            streams: (B,) numbers for the noise of the latents; see `visionzoo.diffusion.noise_of`.
        """
        h, config = self.hparams, self.model.config
        factor = 2 ** (len(config["block_out_channels"]) - 1)
        shape = (config["latent_channels"], *(side // factor for side in images.shape[-2:]))
        images = images.contiguous(memory_format=torch.channels_last)
        rebuilt, divergence = self._pass(images, noise_of(streams, shape, images.device))
        error = rebuilt - images
        rebuilding = (weights * (0.5 * error.abs() + h["squared"] * error.square())).mean()
        return rebuilding + h["kl"] * divergence.mean(), error

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        images, weights, streams = (part.flatten(0, 1) for part in batch)
        loss, error = self.loss(images, weights, streams)
        self.check_finite(loss)
        self.log_loss(loss, len(images))
        self.log("train/psnr", _decibels(error.detach()), prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._errors, self._latents = [], []
        self.best.eval()

    def on_validation_epoch_end(self) -> None:
        self.log("val/psnr", torch.cat(self._errors).mean(), prog_bar=True, sync_dist=True)
        self.log("val/latent_std", torch.cat(self._latents).std(), sync_dist=True)
        if self.average is None:
            self.model.train()

    def validation_step(self, images: Tensor, batch_idx: int) -> None:
        latents = self.best.encode(images.contiguous(memory_format=torch.channels_last)).latent_dist.mode()
        rebuilt = self.best.decode(latents).sample.clamp(-1, 1)
        self._errors.append(_decibels(rebuilt - images, images=True))
        self._latents.append(latents)

    def on_test_start(self) -> None:
        self.check_trained()
        self.check_one_device()
        self.best.eval()

    def test_step(self, images: Tensor, batch_idx: int) -> None:
        """Nothing per batch: the report draws its own frames, with the truth about them."""

    def on_test_epoch_end(self) -> None:
        data = cast(Any, self.trainer).datamodule
        self.report = reconstruction_report(self.best, frames=data.test_frames, size=data.size)
        self.log("test/psnr", self.report.psnr)
        self.log("test/lowest_hit", self.report.lowest_hit)

    def exports(self) -> dict[str, nn.Module]:
        return {"weights.safetensors": self.best}

    def on_fit_end(self) -> None:
        """Write the weights, and the folder `vae` that diffusers loads, with the scale of its latents."""
        super().on_fit_end()
        trainer = self.trainer
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False) or not self._latents:
            return
        network = self.best
        network.register_to_config(scaling_factor=round(1 / float(torch.cat(self._latents).std()), 5))
        folder = make_folder(f"{trainer.default_root_dir}/vae")
        if self.hparams["export_half"]:
            network = type(network).from_config(network.config)
            network.load_state_dict(self.best.state_dict())
            network = network.half()
        network.save_pretrained(folder)
        note(f"diffusers folder: {folder}")


def _decibels(error: Tensor, images: bool = False) -> Tensor:
    """PSNR of errors of images in [-1, 1]: of all together, or (B,) of each."""
    squares = (error / 2).square()
    return -10 * torch.log10(squares.mean((1, 2, 3)) if images else squares.mean())


__all__ = ["AutoencoderTraining"]
