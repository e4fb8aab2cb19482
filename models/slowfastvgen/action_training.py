"""Training of `InverseDynamics`, for `visionzoo fit|test`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from visionzoo.errors import InputError
from visionzoo.registry import create_model
from visionzoo.training.module import TrainingModule
from visionzoo.training.muon import muon
from visionzoo.weights import load_checkpoint

from .inverse_dynamics import InverseDynamics


@dataclass(frozen=True)
class ActionReport:
    """How often the right action is read; `str` is a table.

    Attributes:
        actions: in the order of the rows and columns.
        counts: of pairs, by true action (rows) and read action (columns).
    """

    actions: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @property
    def pairs(self) -> int:
        return sum(map(sum, self.counts))

    @property
    def accuracy(self) -> float:
        """Share of the pairs whose action is read rightly."""
        return sum(row[index] for index, row in enumerate(self.counts)) / self.pairs

    def as_dict(self) -> dict[str, Any]:
        return {"accuracy": self.accuracy, "pairs": self.pairs, **asdict(self)}

    def __str__(self) -> str:
        lines = [
            f"{self.accuracy:.2%} of {self.pairs} actions are right",
            "",
            f"| action | right | {' | '.join(self.actions)} |",
            f"|---|---{'|---' * len(self.actions)}|",
        ]
        for index, (action, row) in enumerate(zip(self.actions, self.counts, strict=True)):
            right = f"{row[index] / sum(row):.1%}" if sum(row) else ""
            lines.append(f"| {action} | {right} | {' | '.join(map(str, row))} |")
        return "\n".join(lines)


class ActionTraining(TrainingModule):
    """Trains an `InverseDynamics` with cross entropy; the optimiser is Muon.

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
    model: InverseDynamics

    def __init__(
        self,
        name: str = "toy_actions",
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
        if not isinstance(model, InverseDynamics):
            raise InputError(f"model.name must be a network that reads actions, e.g. toy_actions, got {name!r}")
        self.model = model.train()
        if checkpoint is not None:
            load_checkpoint(self.model, checkpoint)
        count = len(model.config.actions)
        self._counts = torch.zeros(count, count, dtype=torch.long)
        self.report: ActionReport | None = None

    def forward(self, pairs: Tensor) -> Tensor:
        """(B, 2, 3, H, W) in [-1, 1] -> logits (B, actions)."""
        return self.model(pairs)

    def configure_optimizers(self) -> Any:
        h = self.hparams
        return muon(self, h["lr"], h["vector_lr"], h["warmup_steps"])

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.hparams["clip_norm"])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        pairs, actions = (part.flatten(0, 1) for part in batch)
        loss = F.cross_entropy(self.model(pairs), actions)
        self.check_finite(loss)
        self.log_loss(loss, len(pairs))
        return loss

    def _start_counting(self) -> None:
        self._counts = torch.zeros_like(self._counts)
        self.model.eval()

    def _count(self, batch: tuple[Tensor, Tensor]) -> None:
        pairs, actions = (part.flatten(0, 1) for part in batch)
        places = (actions * len(self._counts) + self.model(pairs).argmax(1)).cpu()
        self._counts += torch.bincount(places, minlength=self._counts.numel()).view_as(self._counts)

    def _report(self) -> ActionReport:
        return ActionReport(self.model.config.actions, tuple(map(tuple, self._counts.tolist())))

    def on_validation_epoch_start(self) -> None:
        self._start_counting()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._count(batch)

    def on_validation_epoch_end(self) -> None:
        self.log("val/accuracy", self._report().accuracy, prog_bar=True, sync_dist=True)
        self.model.train()

    def on_test_start(self) -> None:
        self.check_trained()
        self.check_one_device()
        self._start_counting()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._count(batch)

    def on_test_epoch_end(self) -> None:
        self.report = self._report()
        self.log("test/accuracy", self.report.accuracy)


__all__ = ["ActionReport", "ActionTraining"]
