"""What the training modules of all systems share: weights written when training ends, averages of weights, rates, checks."""

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
    """A registered network with what trains it.

    A system's module sets the attributes below and adds data, losses and measures. Hyper-parameters with these names mean the
    same everywhere: `checkpoint` and `pretrained`, the weights to start from; `export`, whether weights are written when
    training ends; `export_half`, in half precision.

    Attributes:
        name: registered name of the network.
        overrides: fields of its configuration that were changed.
        model: the network; a system's module says of which class.
        average: a running average of its weights, or None; see `keep_average`.
        try_with: the command that takes the written weights; `{name}` and `{file}` are filled in.
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
        """Average the weights of `model` from now on, after every step; None for no average.

        Args:
            buffers: average the statistics of batch norms, too; otherwise they stay those of the start.
        """
        if decay:
            average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=buffers)
            self.average = average.requires_grad_(False)  # data-parallel training would wait for its gradients

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.update_average()  # before any callback saves a checkpoint of this step

    def update_average(self) -> None:
        """Take the weights of this step into the average. A module with manual optimisation calls this after each step."""
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
        """Let all random numbers of a step follow from its place, so that a resumed run draws the same ones."""
        stream = stream_of(self._steps_seed or 0, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(stream)
        random.seed(stream)
        np.random.seed(stream % 2**32)  # noqa: NPY002 - timm's augmentations draw from this one

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a pipeline needs to know of the weights, so that a checkpoint serves as a weights file, and what resuming needs."""
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
        """Raise `WeightsError` if a checkpoint does not fit, in one line."""
        problem = misfit(self.state_dict(), checkpoint["state_dict"])
        if problem:
            raise WeightsError(f"{self.resumed_from} does not fit the configuration: {problem}")
        ours = checkpoint.get(LIGHTNING_ENTRY, {})
        self._steps_seed, self._gradients = ours.get("seed"), ours.get("gradients", {})
        _reopen_epoch(checkpoint.get("loops", {}).get("fit_loop", {}))

    @property
    def resumed_from(self) -> str:
        """The checkpoint that a trainer restores; `load_from_checkpoint` has no trainer."""
        return "the checkpoint" if self._trainer is None else str(self._trainer.ckpt_path)

    @property
    def in_fit(self) -> bool:
        """Whether a trainer trains the module."""
        return self._trainer is not None and self._trainer.training

    def _prefix(self, network: nn.Module) -> str:
        """What the names of a network's weights begin with in a checkpoint."""
        return next(f"{name}." for name, module in self.named_modules() if module is network)

    # Rates and losses

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the only optimizer, and log it.

        Called with a function of the epoch, not by a scheduler, which has a state: a run that is resumed with more
        epochs then continues at their rate.
        """
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate
        self.log("train/lr", rate)

    def log_loss(self, loss: Tensor, count: int) -> None:
        """Log the loss of a step on `count` images."""
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=True, sync_dist=True, batch_size=count)

    def check_finite(self, loss: Tensor) -> None:
        """Raise `VisionZooError` if the loss is no number."""
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
        """Raise `InputError` if a test is spread over devices."""
        if self.trainer.world_size > 1:
            raise InputError("a test runs on one device; set trainer.devices=1")

    def of_all_devices(self, numbers: Tensor, *columns: Tensor) -> tuple[Tensor, ...]:
        """Columns (N, …) of measures from all devices, each item once, by the items' numbers (N,).

        A distributed sampler gives some items twice, to make the shares equal.
        """
        if self.trainer.world_size > 1:
            gathered: Any = self.all_gather((numbers, *columns))
            numbers, *columns = (column.flatten(0, 1) for column in gathered)  # pyright: ignore[reportAssignmentType]
        keep = torch.from_numpy(np.unique(numbers.cpu().numpy(), return_index=True)[1]).to(numbers.device)
        return tuple(column[keep] for column in columns)

    # Weights

    def exports(self) -> dict[str, nn.Module]:
        """Names of the files to write when training ends, and the networks whose weights they get."""
        return {"weights.safetensors": self.model}

    def about(self) -> dict[str, Any]:
        """What else a pipeline needs to know of the weights, e.g. {"image_size": 256}; None for what is not known."""
        return {}

    def facts(self) -> dict[str, Any]:
        """What is stored beside the weights; see `visionzoo.stored.Stored`."""
        about = {key: fact for key, fact in self.about().items() if fact is not None}
        return {"model": self.name, "config": self.overrides, **about}

    def export_weights(self, path: str | Path, model: nn.Module | None = None) -> None:
        """Write a network's weights with its name, configuration and `about`; those of `weights.safetensors` if none is given."""
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
    """Let a training that `max_steps` or `max_time` stopped inside an epoch continue there: Lightning takes the epoch for finished."""
    batches, epochs = loop.get("epoch_loop.batch_progress", {}), loop.get("epoch_progress", {})
    if batches.get("current", {}).get("ready") and not batches.get("is_last_batch", True):
        for counts in (epochs["total"], epochs["current"]):
            for stage in ("processed", "completed"):
                counts[stage] = min(counts[stage], counts["ready"] - 1)


def half_cosine(place: float, low: float = 0.0) -> float:
    """From 1 at place 0 down to `low` at place 1 and later."""
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, place)))
