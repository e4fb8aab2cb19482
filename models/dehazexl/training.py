"""Training and testing of DehazeXL, for `visionzoo fit|validate|test`: the published recipe (spread over paper and code)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from visionzoo.errors import InputError
from visionzoo.io.pixels import quantize
from visionzoo.metrics.lpips import Lpips
from visionzoo.metrics.restoration import psnr, ssim
from visionzoo.registry import create_model
from visionzoo.training.module import TrainingModule, half_cosine
from visionzoo.weights import load_checkpoint

from .evaluation import Report, score_file
from .losses import restoration_loss, seam_loss
from .model import DehazeXL
from .placement import StreamOptions
from .streaming import StreamedDehaze

Batch = tuple[Tensor, Tensor]
"""Hazy and clear crops, each (B, 3, H, W) in [0, 1]."""


class DehazeXLTraining(TrainingModule):
    """Trains a DehazeXL. The defaults are the recipe of the published code (AdamW, L1 and Fourier loss).

    Args:
        name: a registered model, e.g. "dehazexl".
        config: fields of its `DehazeXLConfig` to override, e.g. {attention: lsh}.
        checkpoint: start from this file (published or own key names).
        encoder_checkpoint: start the encoder from this file, e.g. timm's swinv2_tiny_window16_256.
        lr: learning rate; the paper has 1e-3 with Adam, the published code 1e-4.
        min_lr: learning rate at which the cosine ends, after all epochs (or at trainer.max_steps, if trainer.max_epochs is -1).
        warmup_steps: number of warm-up steps; the published recipe has none.
        weight_decay: weight decay of AdamW.
        frequency: weight of the Fourier term; 1 is published.
        seam: weight of `seam_loss`; 0 is published.
        seam_every: spacing of the borders it covers: 256 for those of patches, 32 also for those of the decoder's windows.
        clip_norm: maximum norm of the gradient; None for no limit, as published.
        ema_decay: decay of an averaged copy of the weights, which is validated and exported; None for no copy, as published.
        patches_at_once: number of patches that are encoded and decoded together.
        recompute: keep only the activations between the parts and recompute the rest in the backward pass: a third more
            time, and 2048 x 2048 pixels in about 2 GB with patches_at_once=1 instead of 33 GB.
        export_half: write weights.safetensors in half precision.
        benchmark: "8KDehaze", "4KID" or "O-HAZE": the published numbers that a test shows next to its own.
        lpips: backbone weights for LPIPS in tests, torchvision's alexnet-owt-7be5be79.pth; None omits LPIPS.
        blend: tests hide the borders of patches, see `StreamOptions`.
    """

    try_with = "visionzoo dehaze IMAGE -o OUT.png --checkpoint {file}"
    model: DehazeXL

    def __init__(
        self,
        name: str = "dehazexl",
        config: dict[str, Any] | None = None,
        checkpoint: str | None = None,
        encoder_checkpoint: str | None = None,
        lr: float = 1e-4,
        min_lr: float = 1e-6,
        warmup_steps: int = 0,
        weight_decay: float = 0.01,
        frequency: float = 1.0,
        seam: float = 0.0,
        seam_every: int = 256,
        clip_norm: float | None = None,
        ema_decay: float | None = None,
        patches_at_once: int = 16,
        recompute: bool = True,
        export_half: bool = False,
        benchmark: Literal["8KDehaze", "4KID", "O-HAZE"] | None = None,
        lpips: str | None = None,
        blend: bool = False,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.name, self.overrides = name, dict(config or {})
        model = create_model(name, **self.overrides)
        if not isinstance(model, DehazeXL):
            raise InputError(f"model.name must be a DehazeXL, e.g. dehazexl, got {name!r}")
        self.model = model.train()  # Lightning does not change the mode
        if checkpoint is not None:
            load_checkpoint(self.model, checkpoint)
        if encoder_checkpoint is not None:
            load_checkpoint(self.model.encoder, encoder_checkpoint)
        self.keep_average(ema_decay)
        self._scores: list[Tensor] = []
        self.report: Report | None = None
        self._lpips = Lpips("alex", backbone=lpips) if lpips else None

    @property
    def best(self) -> DehazeXL:
        """The averaged network if there is one."""
        return self.model if self.average is None else cast(DehazeXL, self.average.module)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> same, not clamped."""
        return self.best(images, patches_at_once=self.hparams["patches_at_once"])

    def configure_optimizers(self) -> Any:
        h = self.hparams
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=h["lr"], weight_decay=h["weight_decay"])
        steps = self.all_steps()

        def rate(step: int) -> float:
            if step < h["warmup_steps"]:
                return (step + 1) / h["warmup_steps"]
            return half_cosine((step - h["warmup_steps"]) / max(1, steps - h["warmup_steps"]), h["min_lr"] / h["lr"])

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        if self.hparams["clip_norm"]:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.hparams["clip_norm"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        h, (hazy, clear) = self.hparams, batch
        result = self.model(hazy, patches_at_once=h["patches_at_once"], recompute=h["recompute"]).float()
        parts = restoration_loss(result, clear)
        loss = parts.spatial + h["frequency"] * parts.frequency
        if h["seam"]:
            loss = loss + h["seam"] * seam_loss(result, clear, h["seam_every"])
        self.check_finite(loss)
        self.log_loss(loss, len(hazy))
        self.log("train/l1", parts.spatial, on_step=True, on_epoch=True, sync_dist=True, batch_size=len(hazy))
        return loss

    def exports(self) -> dict[str, nn.Module]:
        return {"weights.safetensors": self.best}

    def on_validation_epoch_start(self) -> None:
        self._scores = []
        self.best.eval()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        hazy, clear = batch
        result = quantize(self(hazy).float())
        rows = [(psnr(a, c), ssim(a, c), psnr(b, c)) for a, b, c in zip(result, hazy, clear, strict=True)]
        self._scores.append(torch.tensor(rows))

    def on_validation_epoch_end(self) -> None:
        self.best.train(self.best is self.model)
        if self._scores:
            mean = torch.cat(self._scores).mean(0).to(self.device)
            names = ("val/psnr", "val/ssim", "val/psnr_hazy")
            self.log_dict(dict(zip(names, mean, strict=True)), prog_bar=True, sync_dist=True)
        self._scores = []

    # Testing

    def setup(self, stage: str) -> None:
        if stage == "test":
            self.check_trained()

    def on_test_start(self) -> None:
        self.check_one_device()
        self.report = Report(self.hparams["benchmark"])
        options = StreamOptions(blend=self.hparams["blend"])
        self._stream = StreamedDehaze(self.best.eval().fuse().to(self.device), options)

    def test_step(self, batch: tuple[str, str], batch_idx: int) -> None:
        """Test one image; `batch` holds the names of a hazy file and of its clear one."""
        assert self.report is not None
        self.report.files.append(score_file(self._stream, Path(batch[0]), Path(batch[1]), self._lpips))

    def on_test_epoch_end(self) -> None:
        assert self.report is not None
        for name in ("psnr", "ssim"):
            value = self.report.mean(name)
            if value is not None:
                self.log(f"test/{name}", value)
