"""The common face of every memory: write, read, reset, count, move, save, load."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..errors import InputError, writing
from ..io.files import atomic_path, write_json
from ..lazy import resolve

__all__ = ["KINDS", "MemoryBank", "ReadResult"]

CONFIG, TENSORS = "config.json", "memory.safetensors"
FORMAT = 1
SHARD_BYTES = 5 * 10**9

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
    """What a read by attention gives.

    Attributes:
        output: (B, H, L, Dv) weighted values, in the dtype of the query.
        lse: (B, H, L) log-sum-exp of the scores, float32, to merge with other reads (`merge_attention`).
        usage: (N,) the attention that each element got, summed over heads and queries and averaged over the batch, in
            the order of `ids`; None unless it was counted.
        ids: (N,) int64 the elements that were looked at, or None.
    """

    output: Tensor
    lse: Tensor
    usage: Tensor | None = None
    ids: Tensor | None = None


class MemoryBank(ABC):
    """What a system keeps and reads again. Never part of a model's state dict, unless it is learned.

    A bank belongs to one running sequence: the pipeline makes it and hands it to the modules, which do not keep it.

    Attributes:
        kind: the name in `KINDS`.
        supports_query: `read` takes a query.
    """

    kind: ClassVar[str]
    supports_query: ClassVar[bool] = True

    @abstractmethod
    def write(self, *args: Any, **kwargs: Any) -> Any:
        """Take something in."""

    @abstractmethod
    def read(self, *args: Any, **kwargs: Any) -> Any:
        """Give it back."""

    @abstractmethod
    def reset(self) -> None:
        """Forget what was written since the bank was made."""

    @abstractmethod
    def __len__(self) -> int:
        """How many elements it holds."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes that the content takes, wherever it lies."""

    @abstractmethod
    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move the content, in place. Returns the bank."""

    # --- saving: a plain config and plain tensors, which a checkpoint, a folder or a test can carry ---

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What makes an equal empty bank, and counters: only what JSON holds."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The content under flat names. No two share memory."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """An empty bank."""

    @abstractmethod
    def restore(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Take over the content that `config()` and `tensors()` of an equal bank gave.

        Raises:
            InputError: tensors that are missing, or do not fit this bank.
        """

    def state_dict(self) -> dict[str, Any]:
        """`{"kind", "config", "tensors"}`: loads with `torch.load(weights_only=True)`."""
        return {"kind": self.kind, "config": self.config(), "tensors": self.tensors()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()` of an equal bank.

        Raises:
            InputError: the state of another kind of bank, or one that does not fit.
        """
        if state.get("kind") != self.kind:
            raise InputError(f"this is the state of a {state.get('kind')!r} bank; expected {self.kind!r}")
        self.restore(state["config"], state["tensors"])

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write config.json and memory.safetensors (in shards above 5 GB) into `folder`, which is made."""
        from huggingface_hub import split_torch_state_dict_into_shards
        from safetensors.torch import save_file

        path = Path(folder)
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors().items()}
            shards = split_torch_state_dict_into_shards(
                tensors, filename_pattern="memory{suffix}.safetensors", max_shard_size=SHARD_BYTES
            )
            files = shards.filename_to_tensors or {TENSORS: []}
            for file, names in files.items():
                with atomic_path(path / file) as temporary:
                    save_file({name: tensors[name] for name in names}, temporary)
            # last, so that a folder with a config is whole
            write_json(path / CONFIG, {"format": FORMAT, "kind": self.kind, "files": [*files], **self.config()})

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """The bank that `save` wrote; `MemoryBank.load` finds the class by the config.

        Raises:
            InputError: no bank there, another kind, or a damaged one.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = Path(folder)
        config = _read_config(path)
        found = resolve(KINDS[config["kind"]])
        if not issubclass(found, cls):
            raise InputError(f"{path} holds a {config['kind']!r} bank, not a {cls.kind!r} one")
        bank = found.from_config(config)
        tensors: dict[str, Tensor] = {}
        for file in config["files"]:
            try:
                tensors |= load_file(path / file)
            except (OSError, SafetensorError) as error:
                raise InputError(f"{path / file}: cannot be read ({error}); save the bank again") from error
        bank.restore(config, tensors)
        return bank


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{folder} holds no memory bank: there is no {CONFIG}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / CONFIG}: cannot be read ({error}); save the bank again") from error
    if not isinstance(config, dict) or config.get("kind") not in KINDS:
        raise InputError(f"{folder / CONFIG} describes no memory bank; known kinds: {', '.join(KINDS)}")
    if config.get("format") != FORMAT:
        raise InputError(f"{folder / CONFIG} has format {config.get('format')}; this version reads format {FORMAT}")
    files = config.get("files")
    if not isinstance(files, list) or not all(isinstance(f, str) and Path(f).name == f for f in files):
        raise InputError(f"{folder / CONFIG} names files outside its folder, or none; save the bank again")
    return config
