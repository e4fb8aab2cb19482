"""Training of the toy world's video autoencoder, for `visionzoo fit`."""

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

from ..toy_world import open_vae
from .toy_clips import KINDS
from .vae_report import VideoReconstructionReport, video_reconstruction_report
from .video_vae import inflate

__all__ = ["VideoAutoencoderTraining"]


class VideoAutoencoderTraining(TrainingModule):
    """Trains an AutoencoderKLCogVideoX on clips: absolute and squared errors, and a small Kullback-Leibler term.

    It begins with the weights of an image autoencoder (`inflate`), so that it only has to learn motion. The optimiser is Muon,
    with AdamW for vectors.

    Args:
        name: a registered video autoencoder.
        config: fields of its configuration to override.
        checkpoint: start from this file, instead of an image autoencoder.
        image_vae: folder of an AutoencoderKL with the same sizes; None is the bundled one of the toy world.
        inflated: whether to start from `image_vae`; otherwise the weights are random.
        lr: learning rate of the matrices.
        vector_lr: learning rate of biases and norms.
        warmup_steps: steps in which the rates rise; then they fall along half a cosine until the last step of all epochs, or
            trainer.max_steps if epochs are not limited.
        squared: weight of the squared error; that of the absolute error is 0.5.
        kl: weight of the Kullback-Leibler divergence from a normal distribution, per number of the latents.
        clip_norm: maximum norm of the gradient.
        ema_decay: decay of an averaged copy of the weights, which is validated and exported; None for no copy.
        export_half: write the weights in half precision.
    """

    try_with = "visionzoo info {name}"

    def __init__(
        self,
        name: str = "longanimation_nano_vae",
        config: dict[str, Any] | None = None,
        checkpoint: str | None = None,
        image_vae: str | None = None,
        inflated: bool = True,
        lr: float = 1.5e-3,
        vector_lr: float = 1e-3,
        warmup_steps: int = 30,
        squared: float = 2.0,
        kl: float = 1e-4,
        clip_norm: float = 1.0,
        ema_decay: float | None = 0.99,
        export_half: bool = True,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.name, self.overrides = name, dict(config or {})
        self.model = create_model(name, **self.overrides)
        if checkpoint is not None:
            load_checkpoint(self.model, checkpoint)
        elif inflated:
            inflate(self.model, open_vae(image_vae))
        self.model.train()
        self.keep_average(ema_decay)
        self._errors: dict[str, list[Tensor]] = {}
        self._latents: list[Tensor] = []
        self.report: VideoReconstructionReport | None = None

    @property
    def best(self) -> Any:
        """The averaged network if there is one."""
        return self.model if self.average is None else cast(Any, self.average.module)

    def forward(self, clips: Tensor) -> Tensor:
        """Reconstruct (B, 3, F, H, W) in [-1, 1]."""
        return self.best(clips).sample.clamp(-1, 1)

    def configure_optimizers(self) -> Any:
        h = self.hparams
        return muon(self, h["lr"], h["vector_lr"], h["warmup_steps"])

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.hparams["clip_norm"])

    def loss(self, clips: Tensor, weights: Tensor, streams: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of clips, and their errors (B, 3, F, H, W).

        Args:
            clips: (B, 3, F, H, W) in [-1, 1].
            weights: (B, 1, F, H, W) of the pixels' errors.
            streams: (B,) numbers for the noise of the latents; see `visionzoo.diffusion.noise_of`.
        """
        h = self.hparams
        posterior = self.model.encode(clips).latent_dist
        noise = noise_of(streams, posterior.mean.shape[1:], clips.device)
        rebuilt = self.model.decode(posterior.mean + posterior.std * noise).sample
        error = rebuilt - clips
        rebuilding = (weights * (0.5 * error.abs() + h["squared"] * error.square())).mean()
        divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        return rebuilding + h["kl"] * divergence, error

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        clips, weights, streams = batch
        loss, error = self.loss(clips, weights, streams)
        self.check_finite(loss)
        self.log_loss(loss, len(clips))
        self.log("train/psnr", _decibels(error.detach()), prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._errors, self._latents = {}, []
        self.best.eval()

    def on_validation_epoch_end(self) -> None:
        for kind, errors in self._errors.items():
            self.log(f"val/psnr_{kind}", torch.stack(errors).mean(), prog_bar=True, sync_dist=True)
        self.log("val/latent_std", torch.cat(self._latents).std(), sync_dist=True)
        if self.average is None:
            self.model.train()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        clips, kinds = batch
        latents = self.best.encode(clips).latent_dist.mode()
        rebuilt = self.best.decode(latents).sample.clamp(-1, 1)
        kind = KINDS[int(kinds[0])]
        self._errors.setdefault(kind, []).append(_decibels(rebuilt - clips))
        if kind == "colour":  # the latents that a diffusion model predicts
            self._latents.append(latents.flatten())

    def on_test_start(self) -> None:
        self.check_one_device()
        self.best.eval()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Nothing per batch: the report draws its own clips, with the truth about them."""

    def on_test_epoch_end(self) -> None:
        data = cast(Any, self.trainer).datamodule
        self.report = video_reconstruction_report(
            self.best, clips=data.test_clips, frames=data.test_frames, size=data.size
        )
        note(str(self.report))
        self.log("test/psnr", self.report.psnr)
        self.log("test/sketch_psnr", self.report.sketch_psnr)
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


def _decibels(error: Tensor) -> Tensor:
    """PSNR of errors of images in [-1, 1]."""
    return -10 * torch.log10((error / 2).square().mean())
