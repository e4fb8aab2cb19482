"""What an episode consists of: the state of its memory in weights, its last latents and its counts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from visionzoo.errors import InputError
from visionzoo.memory import TensorBank

from .adapters import ADAPTER

__all__ = ["KEPT_FRAMES", "Episode"]

KEPT_FRAMES = 32
"""Frames of latents that an episode keeps: the longest context of the paper."""


@dataclasses.dataclass
class Episode:
    """An episode of an `EpisodeMemory`.

    Attributes:
        rank: of its adapter.
        bank: `state_dict()` of its `ParametricBank`, without the start; None before it was learned, or while it is in the network.
        frames: latents at its end, one element for each frame; None before the first chunk.
        size: (C, h, w) of these.
        chunks: chunks written.
        skipped: steps that were left out because the loss was not finite.
    """

    rank: int
    bank: dict[str, Any] | None = None
    frames: TensorBank | None = None
    size: tuple[int, ...] = ()
    chunks: int = 0
    skipped: int = 0

    def copy(self) -> Episode:
        bank = self.bank
        if bank is not None:
            bank = {**bank, "tensors": {name: value.clone() for name, value in bank["tensors"].items()}}
        return dataclasses.replace(self, bank=bank, frames=None if self.frames is None else _copied(self.frames))

    @property
    def nbytes(self) -> int:
        """Size in bytes, without what is in the network."""
        tensors = {} if self.bank is None else self.bank["tensors"]
        learned = sum(value.numel() * value.element_size() for value in tensors.values())
        return learned + (0 if self.frames is None else self.frames.nbytes)

    def check_size(self, past: Tensor | None, made: Tensor) -> None:
        """Raise `InputError` unless a chunk and its input are latents of this episode's size."""
        if made.ndim != 5 or len(made) != 1:
            raise InputError(f"a chunk must be latents (1, C, frames, h, w), got {tuple(made.shape)}")
        size = (made.shape[1], *made.shape[3:])
        if self.size and size != self.size:
            old, new = (f"{one[0]} channels of {one[1]} x {one[2]}" for one in (self.size, size))
            raise InputError(f"this episode has latents with {old}, got {new}; begin a new episode")
        if past is not None and (past.shape[1], *past.shape[3:]) != size:
            raise InputError(f"past latents {tuple(past.shape)} do not fit those of the chunk, {tuple(made.shape)}")

    def remember(self, past: Tensor | None, made: Tensor, capacity: int | None) -> None:
        """Add the latents of a chunk, and those of the first chunk's input.

        Args:
            capacity: how many frames to keep; None for all.
        """
        if self.frames is None:
            self.size = (made.shape[1], *made.shape[3:])
            self.frames = TensorBank(1, math.prod(self.size), capacity=capacity, dtype=made.dtype)
            made = made if past is None else torch.cat([past, made], dim=2)
        rows = made.transpose(1, 2).flatten(2).cpu()
        numbers = torch.arange(rows.shape[1], dtype=rows.dtype).view(1, -1, 1)
        self.frames.write(numbers, rows)

    def last_latents(self, frames: int | None = None) -> Tensor | None:
        """The last `frames` of the latents that are kept, or all of them, (1, C, N, h, w)."""
        if self.frames is None:
            return None
        rows = self.frames.view(copy=True).value[:, 0]
        rows = rows if frames is None else rows[:, max(0, rows.shape[1] - frames) :]
        return rows.unflatten(2, self.size).transpose(1, 2)

    def to_file(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """JSON values and tensors from which `from_file` makes the episode, except for the adapter's tensors."""
        settings = {field: getattr(self, field) for field in ("rank", "chunks", "skipped", "size")}
        state: dict[str, Tensor] = {}
        if self.bank is not None:
            settings["bank"] = self.bank["config"]
            kept = {key: value for key, value in self.bank["tensors"].items() if not key.startswith("now.")}
            state |= {f"bank.{key}": value for key, value in kept.items()}
        if self.frames is not None:
            settings["latents"] = self.frames.config()
            state |= {f"latents.{key}": value for key, value in self.frames.tensors().items()}
        return settings, state

    @classmethod
    def from_file(
        cls, settings: Mapping[str, Any], adapter: Mapping[str, Tensor], state: Mapping[str, Tensor], lr: float
    ) -> Episode:
        """The episode of a file.

        Args:
            settings, state: what `to_file` returned.
            adapter: "LAYER.lora_A.weight", … -> tensors.
            lr: learning rate to continue with.

        Raises:
            KeyError, TypeError, InputError: the file is damaged.
        """
        episode = cls(int(settings["rank"]), size=tuple(settings["size"]))
        episode.chunks, episode.skipped = int(settings["chunks"]), int(settings["skipped"])
        if adapter:
            tensors = {key.removeprefix("bank."): value for key, value in state.items() if key.startswith("bank.")}
            for key, value in adapter.items():
                layer, side, rest = key.rpartition(".lora_")
                tensors[f"now.{layer}{side}{rest[0]}.{ADAPTER}{rest[1:]}"] = value
            config = dict(settings["bank"])
            if config["optimizer"] is not None:
                groups = [{**group, "lr": lr} for group in config["optimizer"]["groups"]]
                config["optimizer"] = {**config["optimizer"], "groups": groups}
            episode.bank = {"kind": "parametric", "config": config, "tensors": tensors}
        if "latents" in settings:
            content = {key.removeprefix("latents."): v for key, v in state.items() if key.startswith("latents.")}
            episode.frames = TensorBank.from_config(settings["latents"])
            episode.frames.take_over(settings["latents"], content)
        return episode


def _copied(bank: TensorBank) -> TensorBank:
    state = bank.state_dict()
    copy = TensorBank.from_config(state["config"])
    copy.take_over(state["config"], state["tensors"])
    return copy
