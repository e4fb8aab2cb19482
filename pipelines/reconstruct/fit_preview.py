"""The live preview of `visionzoo fit`, as a callback of Lightning.

trainer:
  callbacks:
    - class_path: visionzoo.pipelines.reconstruct.LivePreview
      init_args: {port: 8080}
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from visionzoo.console import note
from visionzoo.errors import InputError
from visionzoo.training.watching import StopWithCheckpoint

from ...models.modecgs import MoDecGSTraining
from ...models.modecgs.facts import facts_of
from .preview import Preview
from .scene import Scene


class LivePreview(Callback):
    """Shows the scene that MoDec-GS is training in the browser.

    Args:
        port, host: address to listen at.

    Raises:
        InputError: another model is trained, or nothing can listen at the address.
    """

    def __init__(self, port: int = 8080, host: str = "127.0.0.1"):
        self.port, self.host = port, host
        self.preview: Preview | None = None
        self._history: list[tuple[int, float]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, MoDecGSTraining):
            raise InputError(f"LivePreview shows MoDecGSTraining, got {type(pl_module).__name__}; remove the callback")
        if trainer.is_global_zero:
            was_training = pl_module.model.training
            self.preview = Preview(_scene(pl_module), port=self.port, host=self.host)
            pl_module.model.train(was_training)
            note(f"the training can be watched at {self.preview.viewer.address}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.preview is None:
            return
        assert isinstance(pl_module, MoDecGSTraining)
        assert pl_module.fit is not None
        if "train/psnr" in trainer.callback_metrics:
            self._history.append((pl_module.fit.iteration, float(trainer.callback_metrics["train/psnr"])))
        steps = pl_module.recipe.steps
        if trainer.max_steps > 0:
            steps = min(steps, trainer.max_steps)
        was_training = pl_module.model.training
        self.preview.show(
            lambda: _scene(pl_module), pl_module.fit.iteration, steps, self._history, lambda: _is_stopping(trainer)
        )
        pl_module.model.train(was_training)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """After the training, whether it has ended, failed or been interrupted."""
        if self.preview is not None:
            self.preview.close()
            self.preview = None


def _scene(module: MoDecGSTraining) -> Scene:
    """The scene in its current state."""
    facts = facts_of(module.data.capture, white_background=module.recipe.white_background, rules=module.recipe.rules)
    scene = Scene.of(module.model, facts, module.device)
    at_rest = module.fit is not None and module.fit.iteration <= module.recipe.coarse_steps
    scene.is_static = scene.is_static or at_rest
    return scene


def _is_stopping(trainer: Trainer) -> bool:
    """Whether Ctrl-C was pressed, so that a paused training has to end."""
    return any(isinstance(each, StopWithCheckpoint) and each.is_asked for each in trainer.callbacks)  # pyright: ignore[reportAttributeAccessIssue]


__all__ = ["LivePreview"]
