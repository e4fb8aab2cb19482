"""Saves episodic memory with Lightning's checkpoints. Experimental: no system uses it yet."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import InputError, require, writing
from .bank import KINDS, MemoryBank
from .files import read_state, write_state
from .folder import check_names

require("lightning", extra="train", purpose="MemoryCallback")
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO  # noqa: E402
from lightning.pytorch import Callback, LightningModule, Trainer  # noqa: E402

__all__ = ["MemoryCallback"]

KEY = "visionzoo_memory"  # marks this callback's state in a checkpoint
Banks = Mapping[str, MemoryBank]


class MemoryCallback(Callback):
    """Saves memory banks with every checkpoint and restores them on resume; they are not part of the module's state dict.

    A bank is stored in the checkpoint, readable with `torch.load(weights_only=True)`. A bank above `max_bytes` is stored in
    a folder next to it, `CHECKPOINT.memory/NAME/` with config.json and safetensors, which is deleted when Lightning deletes
    the checkpoint. (Strategies that write checkpoints in parts, and remote checkpoints, keep every bank inside.)

    Each process has its own banks, and each rank gets back its own. A Trainer may have several of these callbacks, for
    memories that are reset at different times; the names of their banks must differ.

    Args:
        banks: banks by name; or a function of the LightningModule that returns them, or the name of an attribute of the
            module that holds them. Validation during a fit sees the banks in the state that training left them in; use
            separate banks if it should not. A checkpoint identifies this callback by the names of the banks (or by the
            name of the function or attribute).
        reset_on: "epoch" resets all banks when a training epoch or a validation, test or prediction run begins;
            "never" resets them only in `reset()`.
        max_bytes: the largest bank that is stored inside a checkpoint.

    Raises:
        MissingDependencyError: Lightning is not installed (extra "train").
    """

    def __init__(
        self,
        banks: Banks | Callable[[Any], Banks] | str,
        reset_on: Literal["epoch", "never"] = "epoch",
        max_bytes: int = 64 * 2**20,
    ) -> None:
        if reset_on not in ("epoch", "never"):
            raise InputError(f"reset_on must be epoch or never, got {reset_on!r}")
        self.reset_on, self.max_bytes = reset_on, max_bytes
        self._given = banks
        self._banks: dict[str, MemoryBank] | None = None
        self._epoch: int | None = None  # the training epoch for which the banks were last reset
        if isinstance(banks, Mapping):
            self._banks = _checked(banks)

    @property
    def banks(self) -> dict[str, MemoryBank]:
        """The banks by name."""
        if self._banks is None:
            raise InputError(
                "the banks come from the LightningModule, which is not attached yet; start the Trainer first"
            )
        return self._banks

    @property
    def state_key(self) -> str:
        """Name of this callback's state in a checkpoint. Lightning asks for it before the module is attached."""
        if isinstance(self._given, Mapping):
            return self._generate_state_key(banks=sorted(self._given))
        if isinstance(self._given, str):
            return self._generate_state_key(banks=self._given)
        return self._generate_state_key(banks=getattr(self._given, "__qualname__", type(self._given).__qualname__))

    def reset(self) -> None:
        """Reset all banks, e.g. between two episodes or clips."""
        for bank in self.banks.values():
            bank.reset()

    # --- Lightning's hooks ---

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(self._given, Mapping):
            found = getattr(pl_module, self._given, None) if isinstance(self._given, str) else self._given(pl_module)
            found = found() if isinstance(self._given, str) and callable(found) else found
            if not isinstance(found, Mapping):
                raise InputError(
                    f"{type(pl_module).__name__}: expected memory banks by name from {self._given!r}, got {found!r}"
                )
            self._banks = _checked(found)
        for other in _others(self, trainer):
            if shared := sorted((other._banks or {}).keys() & self.banks.keys()):
                raise InputError(
                    f"two MemoryCallbacks hold a memory named {', '.join(shared)}; a checkpoint needs each name once: rename one"
                )
        self._epoch = None  # forget the epoch of an earlier fit
        if not isinstance(trainer.strategy.checkpoint_io, _BesideCheckpoint):
            trainer.strategy.checkpoint_io = _BesideCheckpoint(trainer.strategy.checkpoint_io)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._enter_epoch(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._enter_epoch(trainer)  # Lightning skips the hook above when it resumes from an epoch's last batch

    def _enter_epoch(self, trainer: Trainer) -> None:
        # The banks are not reset when a run that was interrupted within this epoch resumes.
        if self.reset_on == "epoch" and self._epoch != trainer.current_epoch:
            self.reset()
        self._epoch = trainer.current_epoch

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.reset_on == "epoch" and trainer.state.fn == "validate":
            self.reset()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.reset_on == "epoch":
            self.reset()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.reset_on == "epoch":
            self.reset()

    def state_dict(self) -> dict[str, Any]:
        """Called on every rank when a checkpoint is made; rank 0 gets the states of all ranks."""
        own = {name: bank.state_dict() for name, bank in self.banks.items()}
        ranks: list[Any] = [own]
        if _ranks() > 1:
            ranks = [None] * _ranks()
            dist.all_gather_object(ranks, own)
        return {KEY: self.max_bytes, "epoch": self._epoch, "ranks": ranks}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse memories that no callback of this run would load; Lightning would only warn and continue without them."""
        states = {
            key: state
            for key, state in checkpoint.get("callbacks", {}).items()
            if isinstance(state, dict) and KEY in state
        }
        unclaimed = states.keys() - {self.state_key} - {other.state_key for other in _others(self, trainer)}
        if self.state_key not in states and unclaimed:
            held = sorted(name for key in unclaimed for name in states[key]["ranks"][0])
            raise InputError(f"the checkpoint holds the memories {_listed(held)}, this run has {_listed(self.banks)}")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        ranks = state_dict["ranks"]
        if len(ranks) != _ranks():
            raise InputError(
                f"the checkpoint holds the memories of {len(ranks)} processes, this run has {_ranks()}; "
                "resume with the same number, or omit MemoryCallback to start with empty memories"
            )
        saved = ranks[dist.get_rank() if len(ranks) > 1 else 0]
        if saved.keys() != self.banks.keys():
            raise InputError(f"the checkpoint holds the memories {_listed(saved)}, this run has {_listed(self.banks)}")
        for name, bank in self.banks.items():
            state = saved[name]
            bank.load_state_dict(read_state(state["folder"], KINDS) if "folder" in state else state)
        self._epoch = state_dict["epoch"]


class _BesideCheckpoint(CheckpointIO):
    """Writes banks that are too large for a checkpoint into a folder next to it."""

    def __init__(self, inner: CheckpointIO) -> None:
        self.inner = inner

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        folder = _folder(path)
        if folder is not None:
            with writing(folder):
                # An older checkpoint of this name is overwritten: its folder must not be taken for the new one's.
                shutil.rmtree(folder, ignore_errors=True)
                callbacks = {
                    key: _outside(state, folder) if isinstance(state, dict) and KEY in state else state
                    for key, state in checkpoint.get("callbacks", {}).items()
                }
            checkpoint = {**checkpoint, "callbacks": callbacks} if "callbacks" in checkpoint else checkpoint
        self.inner.save_checkpoint(checkpoint, path, storage_options=storage_options)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        checkpoint = self.inner.load_checkpoint(path, *args, **kwargs)
        folder = _folder(path)
        for state in checkpoint.get("callbacks", {}).values():
            if folder is not None and isinstance(state, dict) and KEY in state:
                for bank in (bank for banks in state["ranks"] for bank in banks.values() if "folder" in bank):
                    bank["folder"] = str(folder / bank["folder"])  # read by the callback when it needs it
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        self.inner.remove_checkpoint(path)
        folder = _folder(path)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def teardown(self) -> None:
        self.inner.teardown()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["inner"], name)


def _outside(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The callback's state, with large banks replaced by the path they were written to, relative to `folder`."""
    ranks = []
    for rank, banks in enumerate(state["ranks"]):
        kept = {}
        for name, bank in banks.items():
            place = Path(name) if len(state["ranks"]) == 1 else Path(f"rank{rank}") / name
            if _size(bank["tensors"]) > state[KEY]:
                write_state(bank, folder / place)
                bank = {"kind": bank["kind"], "folder": place.as_posix()}
            kept[name] = bank
        ranks.append(kept)
    return {**state, "ranks": ranks}


def _folder(path: str | Path) -> Path | None:
    """The folder next to the checkpoint `path`; None if the checkpoint is not on a local disk."""
    text = str(path)
    return None if "://" in text else Path(f"{text}.memory")


def _others(callback: MemoryCallback, trainer: Trainer) -> list[MemoryCallback]:
    return [other for other in trainer.callbacks if isinstance(other, MemoryCallback) and other is not callback]  # pyright: ignore[reportAttributeAccessIssue]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _checked(banks: Banks) -> dict[str, MemoryBank]:
    check_names(banks)
    for name, bank in banks.items():
        if not isinstance(bank, MemoryBank):
            raise InputError(f"{name} is a {type(bank).__name__}, expected a MemoryBank")
        if bank.kind == "learned":
            raise InputError(f"{name} is a learned memory: it is a weight, and in the checkpoint already; omit it")
    return dict(banks)


def _size(tensors: Mapping[str, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in tensors.values())


def _ranks() -> int:
    return dist.get_world_size() if torch.distributed.is_available() and dist.is_initialized() else 1
