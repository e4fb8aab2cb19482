"""The interface of all memory banks: write, read, reset, count, move, save, load."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..errors import InputError
from ..lazy import resolve
from .files import read_config, read_state, write_state

__all__ = ["KINDS", "MemoryBank", "ReadResult"]

KINDS = {
    "tensor": "visionzoo.memory.tensor_bank:TensorBank",
    "tiered": "visionzoo.memory.tiered:TieredBank",
    "index": "visionzoo.memory.index_bank:IndexBank",
    "learned": "visionzoo.memory.learned:LearnedBank",
    "parametric": "visionzoo.memory.parametric:ParametricBank",
}
"""`MemoryBank.kind` -> class, as named in config.json."""


@dataclass(frozen=True)
class ReadResult:
    """The result of a read by attention.

    Attributes:
        output: (B, H, L, Dv) weighted values, in the dtype of the query.
        lse: (B, H, L) log-sum-exp of the scores, float32, to merge with other reads (`merge_attention`).
        usage: (N,) attention that each element received, summed over heads and queries and averaged over the batch, in
            the order of `ids`; None unless it was counted.
        ids: (N,) int64 ids of the elements that were read, or None.
    """

    output: Tensor
    lse: Tensor
    usage: Tensor | None = None
    ids: Tensor | None = None


class MemoryBank(ABC):
    """A memory that a system writes and reads. It is not part of a model's state dict, unless it is learned.

    A bank belongs to one running sequence: the pipeline creates it and passes it to the modules, which do not keep it.

    Attributes:
        kind: the name in `KINDS`.
        supports_query: whether `read` accepts a query.
    """

    kind: ClassVar[str]
    supports_query: ClassVar[bool] = True

    @abstractmethod
    def write(self, *args: Any, **kwargs: Any) -> Any:
        """Store new content."""

    @abstractmethod
    def read(self, *args: Any, **kwargs: Any) -> Any:
        """Return the content that matches a query."""

    @abstractmethod
    def reset(self) -> None:
        """Forget everything written since the bank was created. A learned bank raises an error."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of elements."""

    def __bool__(self) -> bool:
        return True  # so that `memory or default` keeps an empty bank

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Size of the content in bytes, wherever it is stored."""

    @abstractmethod
    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move the content in place and return the bank. Parameters of a model move with the model."""

    # --- saving: a plain config and plain tensors, which fit into a checkpoint, a folder or a test ---

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Options that recreate an empty bank of the same kind, and counters, as JSON values."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The content as tensors under flat names; no two of them share memory."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Create an empty bank."""

    @abstractmethod
    def take_over(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Continue from the content that `config()` and `tensors()` of a bank with equal options returned.

        Raises:
            InputError: tensors are missing or do not fit this bank.
        """

    def state_dict(self) -> dict[str, Any]:
        """`{"kind", "config", "tensors"}`: loads with `torch.load(weights_only=True)`."""
        return {"kind": self.kind, "config": self.config(), "tensors": self.tensors()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the `state_dict()` of a bank with equal options.

        Raises:
            InputError: the state belongs to another kind of bank, or does not fit.
        """
        if state.get("kind") != self.kind:
            raise InputError(f"this is the state of a {state.get('kind')!r} bank; expected {self.kind!r}")
        self.take_over(state["config"], state["tensors"])

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write config.json and memory.safetensors (in shards above 5 GB) into `folder`, which is created."""
        write_state(self.state_dict(), folder)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Load the bank that `save` wrote; `MemoryBank.load` finds the class from the config.

        A memory that lives in a model's weights requires the model: `ParametricBank.load(folder, module=…)`.

        Raises:
            InputError: the folder holds no bank, another kind of bank, or a damaged one.
        """
        found = resolve(KINDS[cls._saved_config(folder)["kind"]])
        if found.load.__func__ is not MemoryBank.load.__func__:  # the class stores its content in its own format
            return found.load(folder)
        state = read_state(folder, KINDS)
        bank = found.from_config(state["config"])
        bank.take_over(state["config"], state["tensors"])
        return bank

    @classmethod
    def _saved_config(cls, folder: str | os.PathLike[str]) -> dict[str, Any]:
        """config.json of a saved bank of this class; errors as for `load`."""
        config = read_config(Path(folder), KINDS)
        if not issubclass(resolve(KINDS[config["kind"]]), cls):
            raise InputError(f"{folder} holds a {config['kind']!r} bank, not a {cls.kind!r} one")
        return config
