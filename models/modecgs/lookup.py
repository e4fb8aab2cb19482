"""Features of a HexPlane on a CPU, by compiled loops instead of `grid_sample`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from visionzoo.splatting.cpu_projection import numba_is_installed

VECTOR = 8
"""The loops read so many channels at a time."""


@cache
def _kernels() -> ModuleType:
    from . import lookup_kernels

    return lookup_kernels


def can_read(places: Tensor, space: Tensor) -> bool:
    """Whether the loops can read planes (3, C, R, R) at `places`: float32 on a CPU, and a cube."""
    return (
        places.device.type == "cpu"
        and places.dtype == space.dtype == torch.float32
        and space.shape[0] == 3
        and space.shape[2] == space.shape[3]
        and numba_is_installed()
    )


def read_levels(places: Tensor, space: Sequence[Tensor], rows: Sequence[Tensor]) -> Tensor:
    """Features (n, C * L) at `places` (n, 3) in [-1, 1].

    Args:
        space: per level, the planes (x, y), (x, z), (y, z): (3, C, R, R).
        rows: per level, the planes over time at the time asked for: (3, C, R).
    """
    levels, channels = len(space), space[0].shape[1]
    tables = [*space, *rows]
    missing = -channels % VECTOR
    if missing:
        tables = [F.pad(table.movedim(1, -1), (0, missing)).movedim(-1, 1) for table in tables]
    found = _Read.apply(places, levels, *tables)
    return found if not missing else found.view(-1, levels, channels + missing)[..., :channels].flatten(1)


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, places: Tensor, levels: int, *tables: Tensor) -> Tensor:
        arrays = [_channels_last(table) for table in tables]
        where = np.ascontiguousarray(places.detach().numpy())
        channels = tables[0].shape[1]
        out = np.empty((len(where), levels * channels), np.float32)
        for level in range(levels):
            _kernels().read(where, arrays[level], arrays[levels + level], out, level * channels)
        ctx.where, ctx.arrays, ctx.levels = where, arrays, levels
        ctx.save_for_backward(places, *tables)  # so that a change in place in between is an error
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert len(ctx.saved_tensors) == 1 + len(ctx.arrays)
        given = gradient.contiguous().numpy()
        to_places = np.zeros_like(ctx.where)
        found = [np.zeros_like(array) for array in ctx.arrays]
        for level in range(ctx.levels):
            space, rows = level, ctx.levels + level
            channels = ctx.arrays[space].shape[-1]
            _kernels().read_backward(
                ctx.where,
                ctx.arrays[space],
                ctx.arrays[rows],
                given,
                level * channels,
                to_places,
                found[space],
                found[rows],
            )
        return (torch.from_numpy(to_places), None, *(torch.from_numpy(array).movedim(-1, 1) for array in found))


def _channels_last(table: Tensor) -> np.ndarray:
    """(3, C, …) as an array (3, …, C); without a copy where memory has that order already."""
    return table.detach().movedim(1, -1).contiguous().numpy()


__all__ = ["can_read", "read_levels"]
