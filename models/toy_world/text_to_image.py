"""Training of a latent text-to-image network, for `visionzoo fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from visionzoo.console import note
from visionzoo.diffusion import decode_latents, make_scheduler, noise_and_times, noise_of, noisy_batch
from visionzoo.errors import InputError
from visionzoo.io.files import atomic_path, make_folder
from visionzoo.io.pixels import to_uint8
from visionzoo.registry import create_model
from visionzoo.training.module import TrainingModule
from visionzoo.training.muon import muon
from visionzoo.weights import load_checkpoint

from .folder import open_text_to_image, open_vae, save_text_to_image
from .networks import TextToImage, noise_schedule
from .prompted import PromptReport, prompt_report

SHOWN = 8
"""Number of captions whose samples are drawn while training."""


class TextToImageTraining(TrainingModule):
    """Trains a UNet and its text encoder on latents with captions, with v-prediction (arXiv 2202.00512, appendix D).

    After every validation, samples of held-out captions are written to `samples/` in the run's folder.

    Args:
        name: a registered text-to-image network.
        config: fields of its configuration to override.
        checkpoint: start from this weights file, or from a folder in Stable Diffusion's layout.
        vae: folder of the autoencoder, for samples and the folder that is written at the end; None for the bundled one.
        lr: learning rate of the matrices (Muon).
        vector_lr: learning rate of biases, norms and embeddings (AdamW).
        warmup_steps: steps in which the rates rise; then they fall along half a cosine until the last step of all epochs, or
            trainer.max_steps if epochs are not limited.
        clip_norm: maximum norm of the gradient.
        ema_decay: decay of an averaged copy of the weights, which is validated and exported; None for no copy.
        guidance: of the samples.
        sample_steps: of the samples.
        prompts: number of held-out captions that `visionzoo test` generates; the report is a `PromptReport`.
        prompt_steps: DDIM steps of these images.
        true_frames: number of true frames that are measured beside them.
        export_half: write the weights in half precision.
    """

    try_with = "visionzoo info {name}"
    model: TextToImage

    def __init__(
        self,
        name: str = "toy_text_to_image",
        config: dict[str, Any] | None = None,
        checkpoint: str | None = None,
        vae: str | None = None,
        lr: float = 4e-3,
        vector_lr: float = 2e-3,
        warmup_steps: int = 100,
        clip_norm: float = 1.0,
        ema_decay: float | None = 0.995,
        guidance: float = 3.0,
        sample_steps: int = 20,
        prompts: int = 96,
        prompt_steps: int = 25,
        true_frames: int = 200,
        export_half: bool = True,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.name, self.overrides = name, dict(config or {})
        model = create_model(name, **self.overrides)
        if not isinstance(model, TextToImage):
            raise InputError(f"model.name must be a text-to-image network, e.g. toy_text_to_image, got {name!r}")
        self.model = model.train()
        if checkpoint is not None:
            _start_from(self.model, checkpoint)
        self.keep_average(ema_decay)
        self._schedule = noise_schedule()
        self._losses: list[Tensor] = []
        self._shown: list[str] = []
        self.report: PromptReport | None = None

    @property
    def best(self) -> TextToImage:
        """The averaged network if there is one."""
        return self.model if self.average is None else cast(TextToImage, self.average.module)

    def configure_optimizers(self) -> Any:
        h = self.hparams
        return muon(self, h["lr"], h["vector_lr"], h["warmup_steps"], vectors="embeddings")

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.hparams["clip_norm"])

    def _errors(
        self, network: TextToImage, latents: Tensor, captions: list[str], noise: Tensor, times: Tensor
    ) -> Tensor:
        """The mean squared error of each item's prediction, (B,)."""
        noisy = noisy_batch(self._schedule, latents, timesteps=times, noise=noise)
        predicted = network(noisy.latents, noisy.timesteps, network.encode(captions))
        return (predicted - noisy.target).square().mean((1, 2, 3))

    def loss(self, latents: Tensor, captions: list[str], streams: Tensor) -> Tensor:
        """The mean squared error of the predicted velocity.

        Args:
            latents: (B, C, h, w), scaled.
            captions: of each.
            streams: (B,) numbers for the noise and the timesteps; see `visionzoo.diffusion.noise_and_times`.
        """
        steps = self._schedule.config["num_train_timesteps"]
        noise, times = noise_and_times(streams, latents.shape[1:], steps, latents.device)
        return self._errors(self.model, latents, captions, noise, times).mean()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = self.loss(batch["latents"], batch["caption"], batch["stream"])
        self.check_finite(loss)
        self.log_loss(loss, len(batch["latents"]))
        return loss

    def on_validation_epoch_start(self) -> None:
        self._losses, self._shown = [], []
        self.best.eval()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        latents = batch["latents"]
        noise = noise_of(batch["stream"], latents.shape[1:], latents.device)
        times = torch.linspace(0, self._schedule.config["num_train_timesteps"] - 1, len(latents)).long().to(self.device)
        self._losses.append(self._errors(self.best, latents, batch["caption"], noise, times))
        self._shown += batch["caption"]

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", torch.cat(self._losses).mean(), prog_bar=True, sync_dist=True)
        if self.trainer.is_global_zero and not self.trainer.sanity_checking:
            self._draw_samples(self._shown[:SHOWN])
        if self.average is None:
            self.model.train()

    def _draw_samples(self, captions: list[str]) -> None:
        folder = make_folder(f"{self.trainer.default_root_dir}/samples")
        latents = sample_latents(
            self.best, captions, steps=self.hparams["sample_steps"], guidance=self.hparams["guidance"]
        )
        images = to_uint8(decode_latents(open_vae(self.hparams["vae"]), latents.cpu()))
        with atomic_path(folder / f"{self.global_step:06d}.png") as path:
            Image.fromarray(np.concatenate(list(images), axis=1)).save(path, "PNG")

    def on_test_start(self) -> None:
        self.check_trained()
        self.check_one_device()
        self.best.eval()

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Nothing per batch: the report generates images of its own captions."""

    def on_test_epoch_end(self) -> None:
        h, vae = self.hparams, open_vae(self.hparams["vae"])
        seed = 0

        def sample(captions: list[str]) -> np.ndarray:
            nonlocal seed
            latents = sample_latents(self.best, captions, steps=h["prompt_steps"], guidance=h["guidance"], seed=seed)
            seed += len(captions)
            return to_uint8(decode_latents(vae, latents.cpu()))

        self.report = prompt_report(sample, count=h["prompts"], frames=h["true_frames"], vae=vae)
        self.log("test/hit", self.report.hit)

    def exports(self) -> dict[str, nn.Module]:
        return {"weights.safetensors": self.best}

    def on_fit_end(self) -> None:
        """Write the weights, and the folder `pipeline` that diffusers loads."""
        super().on_fit_end()
        trainer = self.trainer
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            vae = open_vae(self.hparams["vae"])
            half = self.hparams["export_half"]
            folder = save_text_to_image(self.best, vae, f"{trainer.default_root_dir}/pipeline", half=half)
            note(f"diffusers folder: {folder}")


def _start_from(network: TextToImage, checkpoint: str) -> None:
    """Load the weights of a file, or the UNet and the text encoder of a folder."""
    if not Path(checkpoint).is_dir():
        load_checkpoint(network, checkpoint)
        return
    pipe = open_text_to_image(checkpoint)
    for own, other in ((network.unet, pipe.unet), (network.text_encoder, pipe.text_encoder)):
        load_checkpoint(own, other.state_dict())


@torch.no_grad()
def sample_latents(
    network: TextToImage, captions: list[str], *, steps: int = 20, guidance: float = 3.0, seed: int = 0
) -> Tensor:
    """Sample latents (N, C, h, w) for captions with DDIM and classifier-free guidance.

    Args:
        network: in eval mode.
        steps: of DDIM.
        guidance: 1 for none.
        seed: of the starting noise; every caption has its own noise.
    """
    schedule = make_scheduler("ddim", noise_schedule())
    schedule.set_timesteps(steps)
    config, device = network.config, network.unet.device
    shape = (config.latent_channels, config.latent_size, config.latent_size)
    latents = torch.stack([torch.randn(shape, generator=_generator(seed + k)) for k in range(len(captions))]).to(device)
    states = torch.cat([network.encode([""] * len(captions)), network.encode(captions)])
    for time in schedule.timesteps:
        without, with_text = network(latents.repeat(2, 1, 1, 1), time.to(device), states).chunk(2)
        predicted = without + guidance * (with_text - without)
        latents = schedule.step(predicted, time, latents, return_dict=False)[0]
    return latents


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


__all__ = ["TextToImageTraining", "sample_latents"]
