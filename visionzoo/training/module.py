"""Base of all training modules: export of weights, averaged weights, exact resuming, learning rates, checks."""

from __future__ import annotations

import math
import random
import shlex
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from visionzoo.console import note
from visionzoo.data.augmented import stream_of
from visionzoo.errors import InputError, VisionZooError
from visionzoo.io.files import make_folder
from visionzoo.stored import stored_facts
from visionzoo.weights import LIGHTNING_ENTRY, WeightsError, misfit, save_safetensors


class TrainingModule(LightningModule):
    """A registered network and its training.

    A system's module sets the attributes below and adds losses and metrics. These hyper-parameters have the same meaning in all
    modules: `checkpoint` and `pretrained`, the weights to start from; `export`, whether to write weights when training ends;
    `export_half`, whether to write them in half precision.

    Attributes:
        name: registered name of the network.
        overrides: fields of its configuration that were changed.
        model: the network; a system's module declares its class.
        average: a running average of its weights, or None; see `keep_average`.
        try_with: a command that uses the written weights; `{name}` and `{file}` are filled in.
    """

    name: str
    overrides: dict[str, Any]
    model: Any
    average: AveragedModel | None
    try_with: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.average = None
        self._steps_seed: int | None = None
        self._gradients: dict[str, Tensor] = {}

    # Averages

    def keep_average(self, decay: float | None, *, buffers: bool = False) -> None:
        """Keep an exponential moving average of the weights of `model`, updated after every step; None for no average.

        Args:
            buffers: also average the statistics of batch norms; otherwise they keep their initial values.
        """
        if decay:
            average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=buffers)
            self.average = average.requires_grad_(False)  # otherwise data-parallel training waits for its gradients

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.update_average()  # before any callback saves a checkpoint of this step

    def update_average(self) -> None:
        """Update the average with the current weights. A module with manual optimisation calls this after each step."""
        if self.average is not None:
            self.average.update_parameters(self.model)

    # Resuming

    def on_fit_start(self) -> None:
        if self._steps_seed is None:
            self._steps_seed = self.trainer.strategy.broadcast(torch.initial_seed())

    def on_train_start(self) -> None:
        for name, parameter in self.named_parameters():
            if name in self._gradients:
                parameter.grad = self._gradients[name].to(parameter.device)
        self._gradients = {}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the random numbers of each step from its position, so that a resumed run draws the same ones."""
        stream = stream_of(self._steps_seed or 0, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(stream)
        random.seed(stream)
        np.random.seed(stream % 2**32)  # noqa: NPY002 - timm's augmentations draw from this one

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the metadata that pipelines need, so that a checkpoint serves as a weights file, and the state for resuming."""
        place = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        summing = place % self.trainer.accumulate_grad_batches != 0
        gradients = {name: p.grad for name, p in self.named_parameters() if summing and p.grad is not None}
        checkpoint[LIGHTNING_ENTRY] = {
            "facts": self.facts(),
            "prefix": self._prefix(self.exports()["weights.safetensors"]),
            "seed": self._steps_seed,
            "gradients": gradients,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise a one-line `WeightsError` if a checkpoint does not fit."""
        problem = misfit(self.state_dict(), checkpoint["state_dict"])
        if problem:
            raise WeightsError(f"{self.resumed_from} does not fit the configuration: {problem}")
        ours = checkpoint.get(LIGHTNING_ENTRY, {})
        self._steps_seed, self._gradients = ours.get("seed"), ours.get("gradients", {})
        _reopen_epoch(checkpoint.get("loops", {}).get("fit_loop", {}))

    @property
    def resumed_from(self) -> str:
        """The checkpoint that the trainer restores, for messages; `load_from_checkpoint` has no trainer."""
        return "the checkpoint" if self._trainer is None else str(self._trainer.ckpt_path)

    @property
    def in_fit(self) -> bool:
        """Whether the module is being trained."""
        return self._trainer is not None and self._trainer.training

    def _prefix(self, network: nn.Module) -> str:
        """The prefix of a network's keys in a checkpoint."""
        return next(f"{name}." for name, module in self.named_modules() if module is network)

    # Rates and losses

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the only optimizer, and log it.

        The rate is computed from the epoch and not by a scheduler, which has state: a run that is resumed with more epochs
        then follows their schedule.
        """
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate
        self.log("train/lr", rate)

    def all_steps(self) -> int:
        """Number of steps in all epochs, even if the run stops earlier; trainer.max_steps where epochs are not limited."""
        trainer = self.trainer
        estimated = int(trainer.estimated_stepping_batches)  # this creates the data loader
        epochs = trainer.max_epochs
        if epochs is None or epochs < 0:
            return estimated
        return epochs * math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)

    def log_loss(self, loss: Tensor, count: int) -> None:
        """Log the loss of a step with `count` images."""
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=True, sync_dist=True, batch_size=count)

    def check_finite(self, loss: Tensor) -> None:
        """Raise `VisionZooError` if the loss is NaN or infinite."""
        if not torch.isfinite(loss):
            raise VisionZooError(
                f"the loss is {loss.item()} at step {self.global_step}; lower model.lr or check the data"
            )

    # Checks

    def check_trained(self) -> None:
        """Raise `InputError` if the weights are random, for a subcommand that needs trained ones."""
        h = self.hparams
        if not (h.get("pretrained") or h["checkpoint"] or self.trainer.ckpt_path):
            other = "model.pretrained=true" if "pretrained" in h else "ckpt_path=FILE"
            raise InputError(f"{self.name} has random weights; give model.checkpoint=FILE or {other}")

    def check_one_device(self) -> None:
        """Raise `InputError` if a test runs on several devices."""
        if self.trainer.world_size > 1:
            raise InputError("a test runs on one device; set trainer.devices=1")

    def of_all_devices(self, numbers: Tensor, *columns: Tensor) -> tuple[Tensor, ...]:
        """Gather columns (N, …) of measurements from all devices, each item once, by the items' numbers (N,).

        A distributed sampler repeats some items, to make the shares equal.
        """
        if self.trainer.world_size > 1:
            gathered: Any = self.all_gather((numbers, *columns))
            numbers, *columns = (column.flatten(0, 1) for column in gathered)  # pyright: ignore[reportAssignmentType]
        keep = torch.from_numpy(np.unique(numbers.cpu().numpy(), return_index=True)[1]).to(numbers.device)
        return tuple(column[keep] for column in columns)

    # Weights

    def exports(self) -> dict[str, nn.Module]:
        """Names of the files to write when training ends -> the networks whose weights they get."""
        return {"weights.safetensors": self.model}

    def about(self) -> dict[str, Any]:
        """Further metadata that a pipeline needs, e.g. {"image_size": 256}; None for unknown values."""
        return {}

    def facts(self) -> dict[str, Any]:
        """Metadata to store with the weights; see `visionzoo.stored.Stored`."""
        about = {key: fact for key, fact in self.about().items() if fact is not None}
        return {"model": self.name, "config": self.overrides, **about}

    def export_weights(self, path: str | Path, model: nn.Module | None = None) -> None:
        """Write a network's weights with its name, configuration and `about`; by default the network of `weights.safetensors`."""
        model = model or self.exports()["weights.safetensors"]
        half = self.hparams.get("export_half", False)
        state = {
            key: value.half() if half and value.is_floating_point() else value
            for key, value in model.state_dict().items()
        }
        save_safetensors(state, path, stored_facts(self.facts()))

    def on_fit_end(self) -> None:
        trainer = self.trainer
        if (
            not self.hparams.get("export", True)
            or not trainer.is_global_zero
            or getattr(trainer, "fast_dev_run", False)
        ):
            return
        folder = make_folder(trainer.default_root_dir)
        exports = self.exports()
        for file, model in exports.items():
            self.export_weights(folder / file, model)
        files = [str(folder / file) for file in exports]
        command = self.try_with.format(name=self.name, file=shlex.quote(files[0]))
        note(f"weights: {', '.join(files)}; try them with: {command}")


def _reopen_epoch(loop: dict[str, Any]) -> None:
    """Resume inside an epoch that `max_steps` or `max_time` ended early; Lightning would treat the epoch as finished."""
    batches, epochs = loop.get("epoch_loop.batch_progress", {}), loop.get("epoch_progress", {})
    if batches.get("current", {}).get("ready") and not batches.get("is_last_batch", True):
        for counts in (epochs["total"], epochs["current"]):
            for stage in ("processed", "completed"):
                counts[stage] = min(counts[stage], counts["ready"] - 1)


def half_cosine(place: float, low: float = 0.0) -> float:
    """Half a cosine: 1 at `place` 0, falling to `low` at `place` 1, constant afterwards."""
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, place)))
