"""Callbacks for people who watch a training: progress lines if there is no terminal, and a stop that saves a checkpoint."""

from __future__ import annotations

import math
import signal
import threading
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from visionzoo.console import note


class ProgressLines(Callback):
    """Prints an occasional line on standard error if there is no terminal for a progress bar.

    Args:
        every_s: minimum number of seconds between two lines.
    """

    def __init__(self, every_s: float = 15.0):
        self.every_s = every_s

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = self._last = time.monotonic()
        self._first = trainer.fit_loop.epoch_loop.batch_progress.total.ready

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now - self._last >= self.every_s and trainer.is_global_zero:
            self._last = now
            note(self.line(trainer, now - self._start))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self._is_last_epoch(trainer):
            note(self.line(trainer, time.monotonic() - self._start))

    def line(self, trainer: Trainer, passed_s: float) -> str:
        """The line, e.g. "epoch 3 of 40, batch 17 of 120: train/loss 1.204; 12 min left"."""
        loop = trainer.fit_loop.epoch_loop
        done, per_epoch = loop.batch_progress.total.ready, trainer.num_training_batches
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
        text = f"epoch {trainer.current_epoch + 1}{f' of {epochs}' if epochs else ''}"
        text += f", batch {loop.batch_progress.current.ready} of {per_epoch}"
        measured = trainer.progress_bar_metrics
        shown = [f"{name} {value:.4g}" for name, value in measured.items() if isinstance(value, float)]
        text = f"{text}: {', '.join(shown)}" if shown else text
        left = self._batches_left(trainer, done)
        if left and math.isfinite(left) and done > self._first:
            text += f"; {_duration(passed_s / (done - self._first) * left)} left"
        return text

    def _batches_left(self, trainer: Trainer, done: int) -> float:
        ends = [math.inf]
        if trainer.max_epochs and trainer.max_epochs > 0:
            ends.append(trainer.max_epochs * trainer.num_training_batches)
        if trainer.max_steps and trainer.max_steps > 0 and trainer.global_step:
            ends.append(trainer.max_steps * done / trainer.global_step)
        return max(0, min(ends) - done)

    def _is_last_epoch(self, trainer: Trainer) -> bool:
        """Whether this is the last epoch of a training that is too short for any other line."""
        return (
            self._last == self._start
            and self._batches_left(trainer, trainer.fit_loop.epoch_loop.batch_progress.total.ready) < 1
        )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class StopWithCheckpoint(Callback):
    """On Ctrl-C, finish the step, save `last.ckpt` and stop; a second Ctrl-C stops at once.

    Attributes:
        saved: the checkpoint that was written.
    """

    def __init__(self) -> None:
        self.saved: Path | None = None
        self._asked = False
        self._before: Any = None

    @property
    def is_asked(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self._asked

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._must_stop(trainer):
            self._save(trainer)
            raise KeyboardInterrupt

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        if not trainer.sanity_checking and self._must_stop(trainer):
            self._save(trainer)
            raise KeyboardInterrupt

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore()

    def _ask(self, *_: Any) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        note("stopping after this step; press Ctrl-C again to stop at once")

    def _must_stop(self, trainer: Trainer) -> bool:
        if trainer.world_size == 1:
            return self._asked
        return bool(
            trainer.strategy.reduce_boolean_decision(self._asked, all=False)
        )  # all processes stop at the same step

    def _save(self, trainer: Trainer) -> None:
        folder = getattr(trainer.checkpoint_callback, "dirpath", None) or Path(trainer.default_root_dir) / "checkpoints"
        path = Path(folder) / "last.ckpt"
        trainer.save_checkpoint(path)
        self.saved = path

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None


__all__ = ["ProgressLines", "StopWithCheckpoint"]
