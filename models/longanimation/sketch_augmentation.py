"""Changes of line drawings for training, so that a network accepts the hands of many artists."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from visionzoo.errors import InputError

__all__ = ["SketchAugmentation"]


@dataclass(frozen=True)
class SketchAugmentation:
    """Changes the line drawings of a clip: all frames in the same way, except for gaps, which differ between frames.

    Attributes:
        threshold: the brightness above which a pixel is paper.
        jitter: largest change of the threshold; lines become thinner or thicker, as far as they have soft edges.
        thick: chance that lines are dilated by one pixel at a height of 128, and in proportion.
        gaps: share of frames with gaps.
        gap_count, gap_size: largest number of gaps in such a frame, and their largest side as a share of the height.
    """

    threshold: float = 0.78
    jitter: float = 0.12
    thick: float = 0.3
    gaps: float = 0.3
    gap_count: int = 6
    gap_size: float = 0.08

    def __post_init__(self) -> None:
        if not 0 < self.threshold - self.jitter <= self.threshold + self.jitter < 1 or self.jitter < 0:
            raise InputError(
                f"threshold and jitter must leave thresholds in (0, 1), got {self.threshold} and {self.jitter}"
            )
        for name in ("thick", "gaps", "gap_size"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be from 0 to 1, got {getattr(self, name)}")

    def __call__(self, lines: NDArray[np.uint8], seed: int) -> NDArray[np.float32]:
        """Line drawings (F, H, W) uint8, dark on white, to sketches (F, H, W) float32: lines are 1, paper is -1.

        Args:
            seed: the same number changes drawings in the same way.

        Raises:
            InputError: drawings of another shape or dtype.
        """
        if lines.ndim != 3 or lines.dtype != np.uint8 or not lines.size:
            raise InputError(f"line drawings must be (F, H, W) uint8, got {lines.shape} {lines.dtype}")
        chance = np.random.default_rng(seed)
        limit = 255 * (self.threshold + chance.uniform(-self.jitter, self.jitter))
        marked = (lines <= limit).astype(np.uint8)
        height, width = lines.shape[1:]
        if chance.random() < self.thick:
            side = 1 + max(1, round(height / 128))
            kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
            marked = np.stack([cv2.dilate(frame, kernel) for frame in marked])
        largest = max(1, round(self.gap_size * height))
        for frame in marked:
            if chance.random() < self.gaps:
                for _ in range(chance.integers(1, self.gap_count + 1)):
                    top, left = chance.integers(0, height), chance.integers(0, width)
                    side = chance.integers(1, largest + 1)
                    frame[top : top + side, left : left + side] = 0
        return np.where(marked > 0, np.float32(1), np.float32(-1))
