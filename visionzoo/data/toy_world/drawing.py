"""Drawing of one frame: polygons with labels, then colours and lines from the labels.

Shapes are filled with whole-number labels in an enlarged image. Lines lie where two labels meet, so they are equally wide everywhere,
and what is covered has none. Averaging down to the frame's size makes edges soft. Only fills, comparisons, minima and maxima, and
averages over whole blocks are used, which give the same bytes in OpenCV 4 and 5 and on all machines.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from types import ModuleType

import numpy as np

from visionzoo.errors import require

SHIFT = 4
"""Binary digits after the point of corners."""

_TWO, _THREE = np.ones((2, 2), np.uint8), np.ones((3, 3), np.uint8)
_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


@cache
def opencv() -> ModuleType:
    """OpenCV's module. Raises `MissingDependencyError` if it is not installed."""
    return require("cv2", extra="toy", purpose="drawing the toy world")


class Canvas:
    """An enlarged image of labels.

    Args:
        height, width: of the frame, in pixels.
        factor: how many times larger to draw.
        labels: the largest label; 0 is for what nothing covers.
    """

    def __init__(self, height: int, width: int, factor: int, labels: int):
        self.cv2 = opencv()
        self.factor = factor
        self.labels = np.zeros((height * factor, width * factor), np.uint8 if labels < 255 else np.uint16)
        self._small: np.ndarray | None = None

    def fill(self, polygons: Iterable[tuple[np.ndarray, int, bool]]) -> None:
        """Fill polygons, the last one in front.

        Args:
            polygons: corners (N, 2) int32, in the pixels of the enlarged image times 2 ** SHIFT; label; whether it is convex.
        """
        image, fill_convex, fill = self.labels, self.cv2.fillConvexPoly, self.cv2.fillPoly
        for points, label, is_convex in polygons:
            if is_convex:
                fill_convex(image, points, label, 8, SHIFT)
            else:
                fill(image, [points], label, 8, SHIFT)

    def small(self) -> np.ndarray:
        """The labels at the pixels of the frame, (H, W)."""
        if self._small is None:
            middle = self.factor // 2
            self._small = self.labels[middle :: self.factor, middle :: self.factor].copy()
        return self._small

    def areas(self, labels: int) -> np.ndarray:
        """How many pixels of the frame show each label below `labels`."""
        small = self.small()
        if small.dtype != np.uint8:
            return np.bincount(small.ravel(), minlength=labels)
        return self.cv2.calcHist([small], [0], None, [256], [0, 256]).ravel()[:labels]  # (256, 1) in OpenCV 4

    def finish(self, colors: np.ndarray, inked: np.ndarray, line_width: float) -> tuple[np.ndarray, np.ndarray]:
        """The frame in colour, (H, W, 3) uint8, and its lines, dark on white, (H, W) uint8; label 0 becomes ink.

        Args:
            colors: (labels + 1, 3) uint8, that of ink first.
            inked: (labels + 1,) bool, which labels are drawn with ink.
            line_width: in pixels of the frame.
        """
        lines = self._lines(max(1, round(line_width * self.factor)))
        if inked[1:].any():
            lines |= self.look_up(np.where(inked, 255, 0).astype(np.uint8), self.labels)
        if self.labels.dtype == np.uint8:  # 0 is the label of ink
            self.cv2.subtract(self.labels, lines, dst=self.labels)
        else:
            self.labels[lines != 0] = 0
        return self._reduced(self._colored(colors)), self.cv2.bitwise_not(self._reduced(lines))

    def look_up(self, table: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The entries (labels + 1,) of a table for an image of labels."""
        if labels.dtype != np.uint8:
            return np.take(table, labels)
        if len(table) == 256:
            return self.cv2.LUT(labels, table)
        full = np.zeros(256, table.dtype)
        full[: len(table)] = table
        return self.cv2.LUT(labels, full)

    def _colored(self, colors: np.ndarray) -> np.ndarray:
        if self.labels.dtype != np.uint8:
            return np.take(colors, self.labels, axis=0)
        full = np.zeros((256, 1, 3), np.uint8)
        full[: len(colors), 0] = colors
        return self.cv2.applyColorMap(self.labels, full)

    def _lines(self, width: int) -> np.ndarray:
        """255 within a line of this width, in pixels of the enlarged image, where labels meet; else 0."""
        cv2 = self.cv2
        edges = cv2.morphologyEx(self.labels, cv2.MORPH_GRADIENT, _TWO, borderType=cv2.BORDER_REPLICATE)
        lines = cv2.compare(edges, 0, cv2.CMP_NE)
        if width % 2 == 0:
            lines = cv2.dilate(lines, _TWO)
        for step in range((width - 1) // 2):
            lines = cv2.dilate(lines, _THREE if step % 2 == 0 else _CROSS)
        return lines

    def _reduced(self, image: np.ndarray) -> np.ndarray:
        if self.factor == 1:
            return image
        height, width = image.shape[0] // self.factor, image.shape[1] // self.factor
        return self.cv2.resize(image, (width, height), interpolation=self.cv2.INTER_AREA)


__all__ = ["SHIFT", "Canvas", "opencv"]
