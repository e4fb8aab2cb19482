"""A table of parameters with one row per anchor or Gaussian, which grows and shrinks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Table(nn.ParameterDict):
    """Columns by name, all with the same number of rows. Loading a state dict with another number of rows resizes it.

    Args:
        rows: number of rows, all zeros at first.
        columns: name -> shape of one row.
    """

    def __init__(self, rows: int, columns: Mapping[str, tuple[int, ...]]):
        super().__init__({name: torch.zeros(rows, *shape) for name, shape in columns.items()})

    @property
    def rows(self) -> int:
        return len(next(iter(self.values())))

    def resize(self, rows: int) -> None:
        """Make it a table of that many rows of zeros, unless it has as many. The parameters stay the same objects."""
        if rows != self.rows:
            for value in self.values():
                value.grad = None
                value.data = value.data.new_zeros(rows, *value.shape[1:])

    def resize_for(self, state: Mapping[str, Any], prefix: str = "") -> None:
        """Resize to the rows that `state`, a state dict with names after `prefix`, has."""
        name = next(iter(self.keys()))
        first = state.get(prefix + name)
        if isinstance(first, Tensor) and first.ndim == self[name].ndim:
            self.resize(len(first))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        self.resize_for(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


__all__ = ["Table"]
