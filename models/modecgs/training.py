"""Training of MoDec-GS with Lightning (arXiv 2501.03714). What one iteration does is in `optimize.py`."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from visionzoo.console import note
from visionzoo.errors import InputError
from visionzoo.metrics.masked import masked_psnr, masked_ssim
from visionzoo.metrics.restoration import psnr, ssim
from visionzoo.registry import create_model
from visionzoo.training.module import TrainingModule
from visionzoo.weights import load_checkpoint

from .compact import write_scene
from .data import SceneData
from .model import MoDecGS
from .optimize import Fit, Frame, Recipe, draw


class MoDecGSTraining(TrainingModule):
    """A dynamic scene from posed frames, with manual optimisation.

    A scene is a model: the anchors come from the scene's points. A step whose loss or gradients are not finite changes nothing, and is
    reported. Every checkpoint resumes bit for bit, also between two adjustments of the anchors.

    Args:
        name: registered name of the network.
        config: fields of `MoDecGSConfig` to override.
        checkpoint: weights to start from, instead of the scene's points.
        recipe: fields of `Recipe` to override. Its `batch_size` and `seed` are those of the data module.
        export: write weights.safetensors and scene.vzgs when training ends.
    """

    try_with = "visionzoo test --config modecgs/tiny data.root=SCENE model.checkpoint={file}"
    model: MoDecGS

    def __init__(
        self,
        name: str = "modecgs",
        config: dict[str, Any] | None = None,
        checkpoint: str | None = None,
        recipe: dict[str, Any] | None = None,
        export: bool = True,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.name, self.overrides = name, dict(config or {})
        unknown = set(recipe or {}) - {field.name for field in fields(Recipe)}
        if unknown:
            raise InputError(
                f"model.recipe has no field {min(unknown)!r}; it has {', '.join(f.name for f in fields(Recipe))}"
            )
        self.recipe = Recipe(**(recipe or {}))
        model = create_model(name, **self.overrides)
        if not isinstance(model, MoDecGS):
            raise InputError(f"model.name must be a MoDec-GS, e.g. modecgs, got {name!r}")
        self.model = model.train()
        if checkpoint is not None:
            load_checkpoint(self.model, checkpoint)
        self.automatic_optimization = False
        self.fit: Fit | None = None
        self._saved: dict[str, Any] | None = None
        self._scores: dict[str, list[float]] = defaultdict(list)

    @property
    def data(self) -> SceneData:
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, SceneData):
            raise InputError("MoDecGSTraining needs its own data module, SceneData")
        return data

    def setup(self, stage: str) -> None:
        capture = self.data.capture
        if stage == "fit":
            note(capture.describe())
            for line in capture.notes:
                note(line)
        if not self.model.anchors.rows and self.hparams["checkpoint"] is None:
            self.model.initialize(capture.points.positions.astype(np.float32))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        self.fit = Fit(self.model, self.recipe, self.data.capture.extent)
        if self._saved is not None:
            self.fit.load_state_dict(self._saved)
            self._saved = None
        return self.fit.optimizer

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        assert self.fit is not None
        wrapped: Any = self.optimizers()
        frames = [self.data.train_frames.frame(number).to(self.device) for number in batch.tolist()]
        done = self.fit.step(frames, wrapped.step)
        if done.skipped:
            note(f"iteration {done.iteration} was skipped: its loss or gradients were not finite")
            return
        self.log_loss(torch.tensor(done.loss), len(frames))
        self.log("train/psnr", done.psnr, prog_bar=True, batch_size=len(frames))
        self.log("anchors", float(done.anchors), prog_bar=True, batch_size=len(frames))

    # Evaluation

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self._measure(batch)

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self._measure(batch)

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        self._report("test")

    @torch.no_grad()
    def image(self, frame: Frame) -> Tensor:
        """(3, H, W) in [0, 1]: the model's image of a frame; in the coarse stage, of the scene at rest."""
        at_rest = self.fit is not None and self.fit.iteration <= self.recipe.coarse_steps and not self._is_static
        time = None if at_rest or self._is_static else frame.time
        height, width = frame.image.shape[1:]
        drawn = draw(
            self.model(frame.center, time), frame.viewmat, frame.K, width, height,
            white=self.recipe.white_background, rules=self.recipe.rules,
        )  # fmt: skip
        return drawn.colors[0].permute(2, 0, 1).clamp(0, 1)

    @property
    def _is_static(self) -> bool:
        return self.model.global_deformation is None and self.model.local_deformation is None

    def _measure(self, batch: Tensor) -> None:
        for number in batch.tolist():
            frame = self.data.test_frames.frame(number).to(self.device)
            image = self.image(frame)
            image = torch.round(image * 255) / 255  # as files of 8 bits are measured
            self._scores["psnr"].append(psnr(image, frame.image))
            if min(frame.image.shape[1:]) >= 11:
                self._scores["ssim"].append(ssim(image, frame.image))
            if frame.weight is not None and bool(frame.weight.any()):
                self._scores["masked_psnr"].append(masked_psnr(image, frame.image, frame.weight[0]))
                self._scores["masked_ssim"].append(masked_ssim(image, frame.image, frame.weight[0]))

    def _report(self, stage: str) -> None:
        for name, values in self._scores.items():
            self.log(f"{stage}/{name}", float(np.mean(values)), prog_bar=name == "psnr")
        self._scores.clear()

    # Saving

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.fit is not None:
            checkpoint["fit"] = self.fit.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        prefix = "model."
        self.model.resize_for(
            {name.removeprefix(prefix): v for name, v in checkpoint["state_dict"].items() if name.startswith(prefix)}
        )
        super().on_load_checkpoint(checkpoint)
        self._saved = checkpoint.get("fit")

    def exports(self) -> dict[str, nn.Module]:
        return {"weights.safetensors": self.model}

    def on_fit_end(self) -> None:
        super().on_fit_end()
        if self.hparams["export"] and self.trainer.is_global_zero and not getattr(self.trainer, "fast_dev_run", False):
            path = Path(self.trainer.default_root_dir) / "scene.vzgs"
            size = write_scene(self.model, path)
            note(f"compact scene: {path} ({size / 1e6:.2f} MB)")


__all__ = ["MoDecGSTraining"]
