"""Training of `PartNet`, for `visionzoo fit|test`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from visionzoo.errors import InputError
from visionzoo.registry import create_model
from visionzoo.training.module import TrainingModule
from visionzoo.training.muon import muon
from visionzoo.weights import load_checkpoint

from .parts import CLASSES, PartNet


@dataclass(frozen=True)
class PartAccuracy:
    """How well a network finds one class of pixels.

    Attributes:
        part: one of `CLASSES`.
        share: of all pixels.
        iou: intersection over union of the true and the found pixels.
        recall: share of the true pixels that are found.
        precision: share of the found pixels that are true.
    """

    part: str
    share: float
    iou: float
    recall: float
    precision: float


@dataclass(frozen=True)
class PartsReport:
    """Accuracy by class; `str` is a table.

    Attributes:
        pixels: number of pixels.
        accuracy: share of pixels with the right class.
        parts: for each class.
    """

    pixels: int
    accuracy: float
    parts: tuple[PartAccuracy, ...]

    @classmethod
    def of(cls, confusion: Tensor) -> PartsReport:
        """From counts (classes, classes) of pixels by true class and found class."""
        counts = confusion.double().numpy()
        right, true, found = counts.diagonal(), counts.sum(1), counts.sum(0)
        with np.errstate(invalid="ignore"):  # a class without pixels gives NaN
            columns = (true / counts.sum(), right / (true + found - right), right / true, right / found)
        rows = zip(CLASSES, *columns, strict=True)
        parts = tuple(PartAccuracy(part, *map(float, numbers)) for part, *numbers in rows)
        return cls(int(counts.sum()), float(right.sum() / counts.sum()), parts)

    @property
    def mean_iou(self) -> float:
        """Over the classes that occur."""
        return float(np.nanmean([each.iou for each in self.parts]))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{self.accuracy:.2%} of {self.pixels} pixels are right; mean IoU {self.mean_iou:.3f}",
            "",
            "| part | share of pixels | IoU | recall | precision |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {each.part} | {each.share:.2%} | {each.iou:.3f} | {each.recall:.1%} | {each.precision:.1%} |"
            for each in self.parts
        ]
        return "\n".join(lines)


class PartsTraining(TrainingModule):
    """Trains a `PartNet` with cross entropy; the optimiser is Muon.

    Args:
        name: a registered network.
        config: fields of its configuration to override.
        checkpoint: start from this file.
        lr: learning rate of the convolutions (Muon).
        vector_lr: learning rate of biases and norms (AdamW).
        warmup_steps: steps in which the rates rise; then they fall along half a cosine.
        clip_norm: maximum norm of the gradient.
        export_half: write the weights in half precision.
    """

    try_with = "visionzoo info {name}"
    model: PartNet

    def __init__(
        self,
        name: str = "toy_parts",
        config: dict[str, Any] | None = None,
        checkpoint: str | None = None,
        lr: float = 5e-3,
        vector_lr: float = 2e-3,
        warmup_steps: int = 50,
        clip_norm: float = 1.0,
        export_half: bool = True,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.name, self.overrides = name, dict(config or {})
        model = create_model(name, **self.overrides)
        if not isinstance(model, PartNet):
            raise InputError(f"model.name must be a network that finds parts, e.g. toy_parts, got {name!r}")
        self.model = model.train().to(memory_format=torch.channels_last)
        if checkpoint is not None:
            load_checkpoint(self.model, checkpoint)
        self._confusion = torch.zeros(len(CLASSES), len(CLASSES), dtype=torch.long)
        self.report: PartsReport | None = None

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> logits (B, classes, H, W)."""
        return self.model(images)

    def configure_optimizers(self) -> Any:
        h = self.hparams
        return muon(self, h["lr"], h["vector_lr"], h["warmup_steps"])

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.hparams["clip_norm"])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, classes = (part.flatten(0, 1) for part in batch)
        loss = F.cross_entropy(self.model(images.contiguous(memory_format=torch.channels_last)), classes)
        self.check_finite(loss)
        self.log_loss(loss, len(images))
        return loss

    def _start_counting(self) -> None:
        self._confusion = torch.zeros_like(self._confusion)
        self.model.eval()

    def _count(self, batch: tuple[Tensor, Tensor]) -> None:
        images, classes = (part.flatten(0, 1) for part in batch)
        found = self.model(images.contiguous(memory_format=torch.channels_last)).argmax(1)
        pairs = (classes * len(CLASSES) + found).flatten().cpu()
        self._confusion += torch.bincount(pairs, minlength=self._confusion.numel()).view_as(self._confusion)

    def on_validation_epoch_start(self) -> None:
        self._start_counting()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._count(batch)

    def on_validation_epoch_end(self) -> None:
        self.log("val/mean_iou", PartsReport.of(self._confusion).mean_iou, prog_bar=True, sync_dist=True)
        self.model.train()

    def on_test_start(self) -> None:
        self.check_trained()
        self.check_one_device()
        self._start_counting()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._count(batch)

    def on_test_epoch_end(self) -> None:
        self.report = PartsReport.of(self._confusion)
        self.log("test/mean_iou", self.report.mean_iou)
        self.log("test/accuracy", self.report.accuracy)


__all__ = ["PartAccuracy", "PartsReport", "PartsTraining"]
