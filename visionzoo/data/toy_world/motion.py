"""The motion of every pixel from one frame to the next, and whether its point is still visible there."""

from __future__ import annotations

import numpy as np

from .camera import inverse, product
from .drawing import Canvas


def plane_motion(matrices: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """How the plane of each label moves in the image from each moment to the next.

    Args:
        matrices: (T, M, 3, 3) from each plane to pixels.
        planes: (labels,) the plane of each label from 1 on.

    Returns:
        (T - 1, 8, N) float32: homographies between pixels, row by row, minus the identity, for labels 0 to N - 1, where N is at
        least 256; their last entry is 1, and those that belong to no plane do not move.
    """
    move = product(matrices[1:], inverse(matrices[:-1]))
    move /= move[..., 2:, 2:]
    move -= np.eye(3)
    moves = move.reshape(*move.shape[:2], 9)[:, planes, :8]
    tables = np.zeros((len(moves), 8, max(256, len(planes) + 1)), np.float32)
    tables[..., 1 : len(planes) + 1] = moves.transpose(0, 2, 1)
    return tables


class Motion:
    """Computes flow and visibility for frames of one size; buffers are kept from frame to frame.

    Args:
        height, width: of the frames, in pixels.
    """

    def __init__(self, height: int, width: int):
        self._y, self._x = (np.ascontiguousarray(grid, np.float32) for grid in np.indices((height, width)))
        self._after = {
            kind: np.full((height + 2, width + 2), np.iinfo(kind).max, kind)
            for kind in (np.dtype("u1"), np.dtype("u2"))
        }
        self._a, self._b = np.empty_like(self._x), np.empty_like(self._x)
        self._index = np.empty(self._x.shape, np.intp)

    def flow(self, canvas: Canvas, table: np.ndarray, floor: int) -> tuple[np.ndarray, np.ndarray]:
        """The motion in x and in y of every pixel, (H, W) float32 each.

        Args:
            canvas: a drawn frame.
            table: (8, labels) of `plane_motion`.
            floor: the first row that may show a plane in perspective.
        """
        labels, x, y, temporary = canvas.small(), self._x, self._y, self._a
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

    def still_visible(self, now: Canvas, after: Canvas, flow: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Whether each pixel's point lies inside the next frame and is not covered there, (H, W) bool.

        Args:
            now, after: this frame and the next, drawn with the same labels.
            flow: the motion in x and in y.
        """
        labels = now.small()
        (height, width), framed = labels.shape, self._after[labels.dtype]
        framed[1:-1, 1:-1] = after.small()  # around it is the largest number, which is no label
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
        return framed.ravel().take(self._index) == labels


__all__ = ["Motion", "plane_motion"]
