"""The motion of every pixel from one frame to the next, and whether its point is still visible there."""

from __future__ import annotations

import numpy as np

from .camera import inverse, product
from .drawing import Canvas

NOTHING = np.iinfo(np.uint16).max
"""Stands for what is outside of a frame."""


def plane_motion(matrices: np.ndarray) -> np.ndarray:
    """How planes move in the image from each moment to the next.

    Args:
        matrices: (T, M, 3, 3) from each plane to pixels.

    Returns:
        (T - 1, M, 8) float32: homographies between pixels, row by row, minus the identity; their last entry is 1.
    """
    move = product(matrices[1:], inverse(matrices[:-1]))
    move /= move[..., 2:, 2:]
    move -= np.eye(3)
    return move.reshape(*move.shape[:2], 9)[..., :8].astype(np.float32)


class Motion:
    """Computes flow and visibility for frames of one size; buffers are kept from frame to frame.

    Args:
        height, width: of the frames, in pixels.
    """

    def __init__(self, height: int, width: int):
        self._y, self._x = (np.ascontiguousarray(grid, np.float32) for grid in np.indices((height, width)))
        self._shape = height, width
        self._after = np.full((height + 2, width + 2), NOTHING, np.uint16)
        self._a, self._b = np.empty_like(self._x), np.empty_like(self._x)
        self._index = np.empty(self._x.shape, np.intp)

    def flow(self, canvas: Canvas, planes: np.ndarray, floor: int) -> tuple[np.ndarray, np.ndarray]:
        """The motion in x and in y of every pixel, (H, W) float32 each.

        Args:
            canvas: a drawn frame.
            planes: (labels, 8) the motion of the plane of each label but 0, from `plane_motion`.
            floor: the first row that may show a plane in perspective.
        """
        labels, x, y, temporary = canvas.small(), self._x, self._y, self._a
        table = np.zeros((8, max(256, len(planes) + 1)), np.float32)
        table[:, 1 : len(planes) + 1] = planes.T
        found = []
        for a, b, c in (table[:3], table[3:6]):
            along = canvas.look_up(a, labels)
            along *= x
            along += np.multiply(canvas.look_up(b, labels), y, out=temporary)
            along += canvas.look_up(c, labels)
            found.append(along)
        if table[6:].any() and floor < len(labels):
            # The divisor is 1 + more; written so that small motions keep their digits
            below, x, y = labels[floor:], x[floor:], y[floor:]
            more = canvas.look_up(table[6], below)
            more *= x
            more += np.multiply(canvas.look_up(table[7], below), y, out=temporary[floor:])
            for along, place in zip(found, (x, y), strict=True):
                along[floor:] -= np.multiply(place, more, out=temporary[floor:])
            more += 1
            for along in found:
                along[floor:] /= more
        for along in found:
            along += 0.0  # -0 becomes 0
        return found[0], found[1]

    def still_visible(self, now: np.ndarray, after: np.ndarray, flow: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Whether each pixel's point lies inside the next frame and is not covered there, (H, W) bool.

        Args:
            now, after: (H, W) uint16 what each pixel shows in this frame and in the next.
            flow: the motion in x and in y.
        """
        height, width = self._shape
        self._after[1:-1, 1:-1] = after
        column, row = self._a, self._b
        for place, along, grid, most in ((column, flow[0], self._x, width), (row, flow[1], self._y, height)):
            np.add(grid, along, out=place)
            np.rint(place, out=place)
            np.maximum(place, -1, out=place)
            np.minimum(place, most, out=place)
        # Whole numbers below 2 ** 24, which float32 holds exactly
        row += 1
        row *= width + 2
        row += column
        row += 1
        self._index[:] = row
        return self._after.ravel().take(self._index) == now


__all__ = ["Motion", "plane_motion"]
