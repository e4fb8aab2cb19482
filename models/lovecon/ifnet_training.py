"""Training of `IFNet`, for `visionzoo fit`."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from visionzoo.errors import InputError
from visionzoo.registry import create_model
from visionzoo.training.module import TrainingModule
from visionzoo.training.muon import muon
from visionzoo.weights import load_checkpoint

from .ifnet import IFNet

LEVELS = 4
"""Levels of the Laplacian pyramid."""


class IFNetTraining(TrainingModule):
    """Trains an `IFNet` on three frames of smooth motion, whose middle one it estimates from the others.

    The loss is the mean absolute difference between the Laplacian pyramids of the estimated and the true frame, after every block,
    later blocks counting more. RIFE's training has a teacher, which sees the true frame, for the flow; here the flow of the
    moving photos is known, and its absolute error is a second term.

    Args:
        name: a registered network.
        config: fields of its configuration to override.
        checkpoint: start from this file.
        lr: learning rate of the convolutions (Muon).
        vector_lr: learning rate of the heads, biases and slopes (AdamW).
        warmup_steps: steps in which the rates rise; then they fall along half a cosine until the last step of all epochs, or
            trainer.max_steps if epochs are not limited.
        flow_weight: weight of the flow's error, per pixel of displacement.
        earlier: weight of a block's loss relative to that of the next block.
        clip_norm: maximum norm of the gradient.
        ema_decay: decay of an averaged copy of the weights, which is validated and exported; None for no copy.
        compile: compile the network with torch.compile: it takes one to three minutes at the start and a C++ compiler.
        export_half: write the weights in half precision.
    """

    try_with = "visionzoo interpolate VIDEO --model {name} --checkpoint {file} -o OUT.mp4"
    model: IFNet

    def __init__(
        self,
        name: str = "rife_nano",
        config: dict[str, Any] | None = None,
        checkpoint: str | None = None,
        lr: float = 4e-3,
        vector_lr: float = 2e-3,
        warmup_steps: int = 100,
        flow_weight: float = 0.02,
        earlier: float = 0.6,
        clip_norm: float = 1.0,
        ema_decay: float | None = 0.998,
        compile: bool = False,
        export_half: bool = True,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.name, self.overrides = name, dict(config or {})
        model = create_model(name, **self.overrides)
        if not isinstance(model, IFNet):
            raise InputError(f"model.name must be an IFNet, e.g. rife_nano, got {name!r}")
        self.model = model.train().to(memory_format=torch.channels_last)
        if checkpoint is not None:
            load_checkpoint(self.model, checkpoint)
        self._loss = torch.compile(self._errors) if compile else self._errors
        self.keep_average(ema_decay)
        self._measured: list[Tensor] = []

    @property
    def best(self) -> IFNet:
        """The averaged network if there is one."""
        return self.model if self.average is None else cast(IFNet, self.average.module)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The middle frame of two frames (B, 3, H, W) in [0, 1]."""
        return self.best.middle_frame(first, second)

    def configure_optimizers(self) -> Any:
        h = self.hparams
        return muon(self, h["lr"], h["vector_lr"], h["warmup_steps"], vectors="_head")

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.hparams["clip_norm"])

    def _errors(self, frames: Tensor, flow: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and the error (B, 3, H, W) of the middle frames."""
        first, middle, last = frames.unbind(1)
        stages = self.model(first, last, symmetric=False)
        known = known.view(-1, 1, 1, 1).float()
        total = frames.new_zeros(())
        for stage in stages:
            off = (known * (stage.flow - flow).abs()).mean()
            total = (
                self.hparams["earlier"] * total + pyramid_loss(stage.frame, middle) + self.hparams["flow_weight"] * off
            )
        return total, stages[-1].frame - middle

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        loss, error = self._loss(*batch)
        self.check_finite(loss)
        self.log_loss(loss, len(error))
        self.log("train/psnr", _decibels(error.detach()).mean(), prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._measured = []
        self.best.eval()

    def on_test_epoch_start(self) -> None:
        self.check_trained()
        self.check_one_device()
        self.on_validation_epoch_start()

    def test_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log the same numbers as validation."""
        made, blended = torch.cat(self._measured).mean(0)
        self.log("test/psnr", made)
        self.log("test/gain", made - blended)

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        first, middle, last = batch[0].unbind(1)
        made = self.best.middle_frame(first, last)
        both = [_decibels(frame - middle) for frame in (made, (first + last) / 2)]
        self._measured.append(torch.stack(both, 1))

    def on_validation_epoch_end(self) -> None:
        """Log the PSNR of the network's frames, and how much better it is than that of the mean of both frames."""
        made, blended = torch.cat(self._measured).mean(0)
        self.log("val/psnr", made, prog_bar=True, sync_dist=True)
        self.log("val/gain", made - blended, prog_bar=True, sync_dist=True)
        if self.average is None:
            self.model.train()

    def exports(self) -> dict[str, torch.nn.Module]:
        return {"weights.safetensors": self.best}


def pyramid_loss(made: Tensor, true: Tensor, levels: int = LEVELS) -> Tensor:
    """Mean absolute difference of the Laplacian pyramids of images (B, 3, H, W), summed over the levels.

    Args:
        levels: number of times that the images are halved; the coarsest image is the last level.
    """
    error = made - true
    total = error.new_zeros(())
    for _ in range(levels):
        smaller = F.avg_pool2d(error, 2)
        detail = error - F.interpolate(smaller, size=error.shape[-2:], mode="bilinear", align_corners=False)
        total, error = total + detail.abs().mean(), smaller
    return total + error.abs().mean()


def _decibels(error: Tensor) -> Tensor:
    """PSNR (B,) of errors of images in [0, 1]; at most 80 dB."""
    return -10 * torch.log10(error.square().mean((1, 2, 3)).clamp(min=1e-8))


__all__ = ["IFNetTraining", "pyramid_loss"]
