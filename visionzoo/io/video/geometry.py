"""Display geometry: rotation and mirroring by the display matrix, and pixels that are not square."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDEST = 8
"""A more extreme pixel aspect ratio than this is taken for a damaged header."""


@dataclass(frozen=True)
class Turn:
    """Operations on rows and columns, applied in this order."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, C) as stored -> as shown, contiguous."""
        if self.transpose:
            pixels = pixels.swapaxes(0, 1)
        if self.flip_rows:
            pixels = pixels[::-1]
        if self.flip_columns:
            pixels = pixels[:, ::-1]
        return np.ascontiguousarray(pixels)


def turn_of(matrix: bytes | None) -> Turn:
    """The rotation, in quarter turns, and the mirroring (negative determinant) of a display matrix.

    Args:
        matrix: nine int32 in native byte order (a b u, c d v, x y w; FFmpeg's AV_FRAME_DATA_DISPLAYMATRIX): the pixel
            (x, y) is shown at (a x + c y, b x + d y). None: as stored.
    """
    if matrix is None or len(matrix) < 36:
        return Turn()
    a, b, _, c, d = struct.unpack("=9i", matrix[:36])[:5]
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Turn(True, b < 0, c < 0)
    return Turn(False, d < 0, a < 0)


def frame_turn(frame: Any) -> Turn:
    """The `Turn` of a PyAV frame. Its `rotation` cannot express mirroring, so the matrix itself is read."""
    for data in frame.side_data:
        if getattr(data.type, "name", "") == "DISPLAYMATRIX":
            return turn_of(bytes(data))
    return Turn()


def square_size(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """Width and height of a frame with square pixels: the shorter side is enlarged, so that no detail is lost.

    Args:
        width, height: as stored.
        aspect: pixel aspect ratio, width / height; None or 0: square.
    """
    if not aspect or not Fraction(1, WIDEST) <= aspect <= WIDEST:
        return width, height
    if aspect > 1:
        return _longer(width, aspect), height
    return width, _longer(height, 1 / aspect)


def _longer(side: int, factor: Fraction) -> int:
    """`side * factor`, rounded; an even side stays even, which codecs and players prefer."""
    unit = 1 if side % 2 else 2
    return max(side, unit * round(side * factor / unit))


def within(width: int, height: int, longest: int | None) -> tuple[int, int]:
    """The size, scaled down proportionally so that its longer side is at most `longest`."""
    if longest is None or max(width, height) <= longest:
        return width, height
    factor = longest / max(width, height)
    return max(1, round(width * factor)), max(1, round(height * factor))
