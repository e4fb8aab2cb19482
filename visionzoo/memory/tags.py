"""What is known about each element of a memory beside its key and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Elements", "Tags"]


@dataclass
class Tags:
    """Arrays of one length N, on the host.

    Attributes:
        ids: int64, given in the order of writing, never twice in one bank.
        times: float64, in the caller's unit.
        uses: float64, the attention that each element got in counted reads (mean over the batch).
        lives: int64, the counted reads that it took part in.
        weights: float64, how many originals it stands for, where elements were merged.
        permanent: bool.
    """

    ids: NDArray[np.int64]
    times: NDArray[np.float64]
    uses: NDArray[np.float64]
    lives: NDArray[np.int64]
    weights: NDArray[np.float64]
    permanent: NDArray[np.bool_]

    @classmethod
    def empty(cls, count: int = 0) -> Self:
        """`count` places: no use, no life, weight 1."""
        return cls(
            np.zeros(count, np.int64),
            np.zeros(count),
            np.zeros(count),
            np.zeros(count, np.int64),
            np.ones(count),
            np.zeros(count, bool),
        )

    @classmethod
    def join(cls, parts: Sequence[Tags]) -> Self:
        if len(parts) == 1:
            return cls(*parts[0].arrays())
        columns = zip(*(part.arrays() for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: slice | NDArray[Any]) -> Tags:
        """A view for a slice, a copy for an array of indices or booleans."""
        return Tags(*(array[index] for array in self.arrays()))

    def put(self, places: slice | NDArray[np.int64], other: Tags) -> None:
        """Take over `other` at these places."""
        self.ids[places] = other.ids
        self.times[places] = other.times
        self.uses[places] = other.uses
        self.lives[places] = other.lives
        self.weights[places] = other.weights
        self.permanent[places] = other.permanent

    def arrays(self) -> tuple[NDArray[Any], ...]:
        return self.ids, self.times, self.uses, self.lives, self.weights, self.permanent

    def tensors(self) -> dict[str, Tensor]:
        """Copies, under the names that a saved bank uses."""
        return {name: torch.from_numpy(getattr(self, field).copy()) for field, name in _SAVED.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        return cls(*(tensors[_SAVED[field.name]].cpu().numpy().copy() for field in fields(cls)))


_SAVED = {
    "ids": "id",
    "times": "time",
    "uses": "use",
    "lives": "life",
    "weights": "weight",
    "permanent": "permanent",
}


@dataclass(frozen=True)
class Elements:
    """Elements of a memory with what is known about them.

    Attributes:
        keys: (B, H, N, Dk).
        values: name -> (B, H, N, Dv).
        ids, times, uses, lives, weights: (N,) on the CPU, see `Tags`.
        group: the group that all of them are from, or None.
    """

    keys: Tensor
    values: dict[str, Tensor]
    ids: Tensor
    times: Tensor
    uses: Tensor
    lives: Tensor
    weights: Tensor
    group: int | str | None = None

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def value(self) -> Tensor:
        """The values, where there is one kind of them."""
        (value,) = self.values.values()
        return value

    def tags(self) -> Tags:
        """The tags as arrays; none is permanent."""
        return Tags(
            self.ids.numpy(),
            self.times.numpy(),
            self.uses.numpy(),
            self.lives.numpy(),
            self.weights.numpy(),
            np.zeros(len(self), bool),
        )
