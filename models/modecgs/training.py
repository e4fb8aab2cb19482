"""Training of MoDec-GS with Lightning (arXiv 2501.03714). What one iteration does is in `optimize.py`."""

from __future__ import annotations

import shlex
from collections import defaultdict
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from visionzoo.console import note
from visionzoo.errors import InputError
from visionzoo.io.pixels import quantize
from visionzoo.metrics.lpips import Lpips
from visionzoo.metrics.masked import masked_psnr, masked_ssim
from visionzoo.metrics.restoration import WINDOW, psnr, ssim
from visionzoo.registry import create_model
from visionzoo.training.module import TrainingModule
from visionzoo.weights import load_checkpoint

from .compact import read_scene, write_scene
from .data import SceneData
from .evaluation import BACKBONES, Measures, Report, evaluate_scene, is_static, view_image
from .facts import facts_of
from .fourdgs import FourDGaussians
from .model import MoDecGS
from .optimize import Fit, Frame, Recipe
from .published import read_published

SCENE = "{scene}"
"""Where a checkpoint's path has the name of the scene."""


class MoDecGSTraining(TrainingModule):
    """A dynamic scene from posed frames, with manual optimisation.

    A scene is a model: the anchors come from the scene's points. A step whose loss or gradients are not finite changes nothing, and is
    reported. Every checkpoint resumes bit for bit, also between two adjustments of the anchors.

    Args:
        name: registered name of the network.
        config: fields of `MoDecGSConfig` to override.
        checkpoint: weights to start from, instead of the scene's points; or, to test, a `.vzgs` file or a published output
            folder. With several scenes in `data.scenes`, `{scene}` in it is replaced by the name of the scene.
        recipe: fields of `Recipe` to override. Its `batch_size` and `seed` are those of the data module.
        export: write weights.safetensors and scene.vzgs when training ends.
        lpips_vgg, lpips_alex: files with the backbone of LPIPS for tests: torchvision's vgg16-397923af.pth and
            alexnet-owt-7be5be79.pth.
    """

    try_with = "visionzoo reconstruct SCENE -o OUT.vzgs --checkpoint {file}"
    model: MoDecGS

    def __init__(
        self,
        name: str = "modecgs",
        config: dict[str, Any] | None = None,
        checkpoint: str | None = None,
        recipe: dict[str, Any] | None = None,
        export: bool = True,
        lpips_vgg: str | None = None,
        lpips_alex: str | None = None,
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
        if checkpoint is not None and SCENE not in checkpoint and not _is_scene(checkpoint):
            load_checkpoint(self.model, checkpoint)
        self.report: Report | None = None
        self._measures = Measures()
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
        if stage == "test":
            self._check_test()
            return
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
        for number in batch.tolist():
            frame = self.data.test_frames.frame(number).to(self.device)
            image = quantize(self.image(frame))
            self._scores["psnr"].append(psnr(image, frame.image))
            if min(frame.image.shape[1:]) >= WINDOW:
                self._scores["ssim"].append(ssim(image, frame.image))
            if frame.weight is not None and bool(frame.weight.any()):
                self._scores["masked_psnr"].append(masked_psnr(image, frame.image, frame.weight[0]))
                self._scores["masked_ssim"].append(masked_ssim(image, frame.image, frame.weight[0]))

    def on_validation_epoch_end(self) -> None:
        for name, values in self._scores.items():
            self.log(f"val/{name}", float(np.mean(values)), prog_bar=name == "psnr")
        self._scores.clear()

    def image(self, frame: Frame) -> Tensor:
        """(3, H, W) in [0, 1]: the model's image of a frame; in the coarse stage, of the scene at rest."""
        coarse = self.fit is not None and self.fit.iteration <= self.recipe.coarse_steps
        moving = not coarse and not is_static(self.model)
        return view_image(self.model, frame, white=self.recipe.white_background, rules=self.recipe.rules, moving=moving)

    def on_test_start(self) -> None:
        self.check_one_device()
        self._measures = self._open_measures().to(self.device)
        self.report = Report(device=str(self.device), lpips=tuple(self._measures.networks))

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        """Measure whole scenes; `batch` has their numbers."""
        assert self.report is not None
        for number in batch.tolist():
            name, capture = self.data.scene(number)
            score = evaluate_scene(
                self._model_of(name), name, capture.layout, capture.test, self._measures,
                white=self.recipe.white_background, rules=self.recipe.rules,
            )  # fmt: skip
            self.report.scenes.append(score)

    def on_test_epoch_end(self) -> None:
        assert self.report is not None
        self.log_dict({f"test/{name}": value for name, value in self.report.means().items()})

    def _check_test(self) -> None:
        """Raise `InputError` unless there are trained weights for each scene."""
        self.check_trained()
        names = self.data.scene_names
        checkpoint = self.hparams["checkpoint"]
        if len(names) > 1 and (checkpoint is None or SCENE not in checkpoint):
            raise InputError(
                f"data.scenes lists {len(names)} scenes, and each has weights of its own; give model.checkpoint with {SCENE} in it, "
                f"e.g. model.checkpoint=outputs/{SCENE}/scene.vzgs"
            )
        self._open_measures()  # missing files are reported before the work

    def _open_measures(self) -> Measures:
        return Measures(
            **{
                name: Lpips(name, backbone=self.hparams[f"lpips_{name}"])
                for name in BACKBONES
                if self.hparams[f"lpips_{name}"]
            }
        )

    def _model_of(self, scene: str) -> MoDecGS | FourDGaussians:
        """The trained model of a scene in eval mode, on the device."""
        checkpoint = self.hparams["checkpoint"]
        if checkpoint is None or not (SCENE in checkpoint or _is_scene(checkpoint)):
            return self.model.eval()
        path = checkpoint.replace(SCENE, scene)
        if _is_scene(path):
            model = read_published(path) if Path(path).is_dir() else read_scene(path).model
        else:
            model = create_model(self.name, **self.overrides)
            load_checkpoint(model, path)
        return cast("MoDecGS | FourDGaussians", model.to(self.device).eval())

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
            about = facts_of(self.data.capture, white_background=self.recipe.white_background, rules=self.recipe.rules)
            size = write_scene(self.model, path, facts=about.to_dict())
            note(
                f"compact scene: {path} ({size / 1e6:.2f} MB); look at it with: visionzoo render {shlex.quote(str(path))} -o OUT.mp4"
            )


def _is_scene(path: str) -> bool:
    """Whether a checkpoint is a `.vzgs` file or a published output folder, which hold a whole model."""
    return path.endswith(".vzgs") or Path(path).is_dir()


__all__ = ["MoDecGSTraining"]
