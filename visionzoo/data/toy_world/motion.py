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
        (T - 1, 5, N, 2) float32, for labels 0 to N - 1, where N is at least 256. The homographies between pixels minus the
        identity, [[a, b, c], [d, e, f], [g, h, 0]], as pairs (a, d), (b, e), (c, f), (g, g), (h, h); 0 for labels without a plane.
    """
    move = product(matrices[1:], inverse(matrices[:-1]))
    move /= move[..., 2:, 2:]
    move -= np.eye(3)
    moves = move.reshape(*move.shape[:2], 9)[:, planes][..., [[0, 3], [1, 4], [2, 5], [6, 6], [7, 7]]]
    tables = np.zeros((len(moves), 5, max(256, len(planes) + 1), 2), np.float32)
    tables[:, :, 1 : len(planes) + 1] = moves.transpose(0, 2, 1, 3)
    return tables


class Motion:
    """Computes flow and visibility for frames of one size; buffers are kept from frame to frame.

    x and y of a pixel lie next to each other, as in the flow.

    Args:
        height, width: of the frames, in pixels.
    """

    def __init__(self, height: int, width: int):
        y, x = np.indices((height, width), np.float32)
        self._x, self._y, self._place = (np.stack(pair, axis=-1) for pair in ((x, x), (y, y), (x, y)))
        self._most = np.full((height, width, 2), (width, height), np.float32)
        self._after = {
            kind: np.full((height + 2, width + 2), np.iinfo(kind).max, kind)
            for kind in (np.dtype("u1"), np.dtype("u2"))
        }
        self._temporary = np.empty_like(self._x)
        self._row = np.empty((height, width), np.float32)
        self._index = np.empty((height, width), np.intp)

    def flow(self, canvas: Canvas, table: np.ndarray, floor: int) -> np.ndarray:
        """The motion of every pixel, (H, W, 2) float32.

        Args:
            canvas: a drawn frame.
            table: (5, labels, 2) of `plane_motion`.
            floor: the first row that may show a plane in perspective.
        """
        labels = canvas.small()
        flow = _pairs(canvas, table[0], labels)
        flow *= self._x
        flow += np.multiply(_pairs(canvas, table[1], labels), self._y, out=self._temporary)
        flow += _pairs(canvas, table[2], labels)
        if table[3:].any() and floor < len(labels):
            # The divisor is 1 + more; written so that small motions keep their digits
            below = np.s_[floor:]
            part, temporary = flow[below], self._temporary[below]
            more = _pairs(canvas, table[3], labels[below])
            more *= self._x[below]
            more += np.multiply(_pairs(canvas, table[4], labels[below]), self._y[below], out=temporary)
            part -= np.multiply(self._place[below], more, out=temporary)
            more += 1
            part /= more
        flow += 0.0  # -0 becomes 0
        return flow

    def still_visible(self, now: Canvas, after: Canvas, flow: np.ndarray) -> np.ndarray:
        """Whether each pixel's point lies inside the next frame and is not covered there, (H, W) bool.

        Args:
            now, after: this frame and the next, drawn with the same labels.
            flow: from `flow`.
        """
        labels = now.small()
        framed = self._after[labels.dtype]
        framed[1:-1, 1:-1] = after.small()  # around it is the largest number, which is no label
        place, row = self._temporary, self._row
        np.add(self._place, flow, out=place)
        np.rint(place, out=place)
        np.maximum(place, -1, out=place)
        np.minimum(place, self._most, out=place)
        # Whole numbers below 2 ** 24, which float32 holds exactly
        np.add(place[..., 1], 1, out=row)
        row *= framed.shape[1]
        row += place[..., 0]
        row += 1
        self._index[:] = row
        return framed.ravel().take(self._index) == labels


def _pairs(canvas: Canvas, table: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The entries (labels, 2) float32 of a table for (H, W) labels; a pair is looked up as one number of 64 bits."""
    return canvas.look_up(table.view(np.float64)[:, 0], labels).view(np.float32).reshape(*labels.shape, 2)


__all__ = ["Motion", "plane_motion"]
