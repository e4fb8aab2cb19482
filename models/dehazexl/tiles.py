"""An image as tiles: the grids of patches, where images are read from and written to, and the weights that blend two grids."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .encoder import PATCH
from .model import TOKEN

SIDE = PATCH // TOKEN
"""Tokens along a side of a patch."""
SHIFT = PATCH // 2 + 16
"""Offset of the second grid for blending: its decoder's windows (32 pixels and more) do not end where patches of the first do."""


class Source(Protocol):
    """A hazy image that is read by windows."""

    height: int
    width: int

    def read(self, top: int, left: int, height: int, width: int) -> Tensor | None:
        """(3, height, width) float32 in [0, 1] of a window inside the image; None where the source has no data."""
        ...


class Sink(Protocol):
    """Receives the clear image in windows, each once (with `blend`, twice: it is then read before the second write)."""

    def write(self, top: int, left: int, pixels: Tensor) -> None:
        """(3, h, w) float32, not clamped, on the CPU."""
        ...

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """(3, height, width) float32 as written."""
        ...

    def keep(self, top: int, left: int, height: int, width: int) -> None:
        """The source has no data in this window: its values are kept."""
        ...


@dataclass(frozen=True)
class Grid:
    """Patches over an image, beginning `offset` pixels before its upper left corner."""

    height: int
    width: int
    offset: int = 0

    @property
    def rows(self) -> int:
        return -(-(self.height + self.offset) // PATCH)

    @property
    def columns(self) -> int:
        return -(-(self.width + self.offset) // PATCH)

    @property
    def count(self) -> int:
        return self.rows * self.columns

    def corner(self, number: int) -> tuple[int, int]:
        """Row and column of the first pixel of a patch; negative where it begins outside the image."""
        row, column = divmod(number, self.columns)
        return row * PATCH - self.offset, column * PATCH - self.offset

    def inside(self, number: int) -> tuple[slice, slice]:
        """The part of a patch that is in the image, in the patch's own rows and columns."""
        top, left = self.corner(number)
        return (
            slice(max(0, -top), min(PATCH, self.height - top)),
            slice(max(0, -left), min(PATCH, self.width - left)),
        )

    def window(self, number: int) -> tuple[slice, slice, slice]:
        """The index of a patch's visible part in the image: all colours, rows, columns."""
        (rows, columns), (top, left) = self.inside(number), self.corner(number)
        return slice(None), slice(top + rows.start, top + rows.stop), slice(left + columns.start, left + columns.stop)


def mirrored(start: int, size: int) -> np.ndarray:
    """Indices, (256,), of an image's `size` rows that are used for the rows from `start` on, as `pad_to_patches` pads.

    Outside, the image is mirrored without repeating its border; if it is smaller than the missing part, the border is repeated.
    """
    place = np.arange(start, start + PATCH)
    if max(start + PATCH - size, -start) < size:
        place = np.where(place < 0, -place, place)
        place = np.where(place >= size, 2 * (size - 1) - place, place)
    return np.clip(place, 0, size - 1)


def read_patch(source: Source, grid: Grid, number: int) -> Tensor | None:
    """(3, 256, 256) in [0, 1], mirrored beyond the image's edges; None where the image has no data."""
    top, left = grid.corner(number)
    rows, columns = mirrored(top, grid.height), mirrored(left, grid.width)
    first, start = int(rows.min()), int(columns.min())
    window = source.read(first, start, int(rows.max()) - first + 1, int(columns.max()) - start + 1)
    inside = top >= 0 and left >= 0 and top + PATCH <= grid.height and left + PATCH <= grid.width
    if window is None or inside:
        return window
    return window[:, torch.from_numpy(rows - first)][:, :, torch.from_numpy(columns - start)]


class Held:
    """An image in memory as source and sink: (3, H, W) float32 in [0, 1] in, `out` of the same shape out."""

    def __init__(self, image: Tensor):
        self.image, self.out = image, torch.empty_like(image)
        self.height, self.width = image.shape[1:]

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        return self.image[:, top : top + height, left : left + width]

    @property
    def sink(self) -> HeldResult:
        return HeldResult(self.out)


class HeldResult:
    """Writes into a `Held` image."""

    def __init__(self, out: Tensor):
        self.out = out

    def write(self, top: int, left: int, pixels: Tensor) -> None:
        self.out[:, top : top + pixels.shape[1], left : left + pixels.shape[2]] = pixels

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        return self.out[:, top : top + height, left : left + width]

    def keep(self, top: int, left: int, height: int, width: int) -> None:
        raise AssertionError("an image in memory has no missing parts")


@cache
@torch.inference_mode(False)  # the cached tensor may be used with gradients later
def shifted_weight() -> Tensor:
    """Weight of the shifted grid's patch, (256, 256): 0 at its own border and 1 at the borders of the other grid's patches."""
    place = torch.arange(PATCH, dtype=torch.float32) + 0.5
    own = torch.minimum(place, PATCH - place)  # distance to the border of this grid's patch
    other = (place - SHIFT).abs()  # and to the other grid's
    other = torch.minimum(other, PATCH - other)
    mine = torch.minimum(own[:, None], own[None])
    theirs = torch.minimum(other[:, None], other[None])
    return torch.sin(torch.pi / 2 * mine / (mine + theirs)).square()
