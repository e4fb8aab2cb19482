"""A face in an image, and the check of a detector's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

__all__ = ["Face", "check_image"]


@dataclass(frozen=True)
class Face:
    """A face in an image.

    Attributes:
        box: left, top, right, bottom in pixels; (0, 0) is the upper left corner of the image. It may extend beyond the image.
        score: confidence of the detector, in [0, 1].
        points: (5, 2) x and y in pixels of the eye on the left of the image, the eye on the right, the nose, and the
            left and right corners of the mouth; None if the detector does not give them.
    """

    box: tuple[float, float, float, float]
    score: float
    points: NDArray[np.float32] | None = None

    @property
    def width(self) -> float:
        return self.box[2] - self.box[0]

    @property
    def height(self) -> float:
        return self.box[3] - self.box[1]

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the box, x and y in pixels."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


def check_image(image: Any) -> NDArray[np.uint8]:
    """Return `image` if it is (H, W, 3) uint8 with at least one pixel; raise InputError if not."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        kind = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(
            f"expected an image as (H, W, 3) uint8 RGB, got {kind}; visionzoo.io.image.load_image returns one"
        )
    if 0 in image.shape:
        raise InputError(f"the image has no pixels: its shape is {image.shape}")
    return image
