"""Square crops around faces, and the mapping of points between crop and frame.

A crop box can have fractional coordinates and extend beyond the frame; the aspect ratio is kept and the frame's edge is repeated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError
from .face import Face, check_image

__all__ = [
    "STILL_SCALE",
    "UNION_SCALE",
    "CropBox",
    "centre_box",
    "choose_face",
    "concerns",
    "crop_face",
    "face_box",
    "square_box",
]

STILL_SCALE = 1.5
"""Ratio of the crop's side to the longer side of a face box: includes hair and some of the neck, as in VoxCeleb's clips."""
UNION_SCALE = 1.2
"""Ratio to the union of a clip's face boxes: 10 % more on each side, as in first-order-model's crop tool."""


class CropBox(NamedTuple):
    """A square in a frame.

    Attributes:
        left, top: upper left corner in pixels; (0, 0) is the frame's corner, (0.5, 0.5) the centre of its first pixel.
        side: in pixels, above 0.
    """

    left: float
    top: float
    side: float

    @property
    def right(self) -> float:
        return self.left + self.side

    @property
    def bottom(self) -> float:
        return self.top + self.side

    def to_crop(self, points: Any, size: int) -> NDArray[np.float64]:
        """Convert points (…, 2), x and y in pixels of the frame, to pixels of a crop of `size` pixels."""
        return (np.asarray(points, np.float64) - (self.left, self.top)) * (size / self.side)

    def to_frame(self, points: Any, size: int) -> NDArray[np.float64]:
        """Convert points (…, 2), x and y in pixels of a crop of `size` pixels, to pixels of the frame."""
        return np.asarray(points, np.float64) * (self.side / size) + (self.left, self.top)

    def outside(self, height: int, width: int) -> float:
        """Fraction of its area, in [0, 1], outside a frame of this size in pixels."""
        across = max(0.0, min(self.right, width) - max(self.left, 0.0))
        down = max(0.0, min(self.bottom, height) - max(self.top, 0.0))
        return 1 - across * down / self.side**2


def square_box(box: Sequence[float], scale: float) -> CropBox:
    """The square centred on `box` (left, top, right, bottom), `scale` times as wide as its longer side.

    Raises:
        InputError: a box without area, values that are not finite, or a scale that is not above 0.
    """
    left, top, right, bottom = (float(value) for value in box)
    side = scale * max(right - left, bottom - top)
    if not (right > left and bottom > top and 0 < side < math.inf and all(map(math.isfinite, (left, top)))):
        raise InputError(f"the box must have an area and scale must be above 0, got {tuple(box)} and {scale}")
    return CropBox((left + right - side) / 2, (top + bottom - side) / 2, side)


def face_box(face: Face, scale: float = STILL_SCALE, frame: tuple[int, int] | None = None) -> CropBox:
    """The crop for one face of an image.

    Args:
        scale: ratio of the crop's side to the longer side of the face's box.
        frame: height and width of the image in pixels. A crop that would extend beyond it is moved inwards, and shrunk if
            necessary, at most to `UNION_SCALE`.

    Raises:
        InputError: a scale that is not above 0.
    """
    box = square_box(face.box, scale)
    if frame is None:
        return box
    height, width = frame
    smallest = min(box.side, UNION_SCALE * max(face.width, face.height))
    side = max(min(box.side, height, width), smallest)
    shrunk = (box.side - side) / 2
    left, top = (
        min(max(start + shrunk, min(0.0, length - side)), max(0.0, length - side))
        for start, length in ((box.left, width), (box.top, height))
    )
    return CropBox(left, top, side)


def centre_box(height: int, width: int) -> CropBox:
    """The largest centred square of the frame, used if no face is found. Raises InputError if the frame has no pixels."""
    if height < 1 or width < 1:
        raise InputError(f"a frame must have at least one pixel, got {width} x {height}")
    side = min(height, width)
    return CropBox((width - side) / 2, (height - side) / 2, side)


def choose_face(faces: Sequence[Face], which: int | str = "largest", *, min_size_px: float = 24) -> Face | None:
    """Choose one of several faces.

    Args:
        which: "largest", or the number of the face counted from the left (1 = leftmost).
        min_size_px: faces whose longer side is shorter than this are ignored.

    Returns:
        The face; None if `which` is "largest" and there is none.

    Raises:
        InputError: there is no face with that number.
    """
    large = sorted(
        (face for face in faces if max(face.width, face.height) >= min_size_px), key=lambda face: face.centre
    )
    if which == "largest":
        return max(large, key=lambda face: face.width * face.height, default=None)
    if not isinstance(which, int) or isinstance(which, bool):
        raise InputError(f"which must be 'largest' or the number of a face counted from the left, got {which!r}")
    if not 1 <= which <= len(large):
        small = len(faces) - len(large)
        skipped = f" ({small} smaller than {min_size_px:g} pixels skipped)" if small else ""
        raise InputError(f"there is no face number {which}: {len(large)} found{skipped}, counted from the left")
    return large[which - 1]


def concerns(face: Face, box: CropBox, height: int, width: int, *, size: int = 256) -> list[str]:
    """Reasons not to animate this face, each worded for a warning; empty if there are none.

    Args:
        box: crop of the face.
        height, width: size of the frame in pixels.
        size: side of the network's input in pixels.
    """
    found = []
    if box.side < size / 2:
        found.append(
            f"the face is small ({round(face.width)} x {round(face.height)} pixels; its crop is enlarged"
            f" {size / box.side:.1f} times), so the result is soft; use a larger image"
        )
    if (beyond := box.outside(height, width)) > 0.15:
        found.append(
            f"{beyond:.0%} of the crop is outside the image, where its edge is repeated; use an image with more room"
            " around the head"
        )
    if face.points is not None:
        eye, other_eye, nose = face.points[:3].astype(np.float64)
        across = other_eye - eye
        apart = float(np.hypot(*across))
        if apart < 0.2 * face.width or abs(float(across @ (nose - (eye + other_eye) / 2))) > 0.45 * apart**2:
            found.append("the head is turned to the side; a face seen from the front gives a better result")
        elif abs(math.degrees(math.atan2(across[1], across[0]))) > 30:
            found.append("the head is tilted by more than 30 degrees; turn the image upright")
    return found


def crop_face(image: NDArray[np.uint8], box: CropBox, size: int = 256) -> NDArray[np.uint8]:
    """Crop `image`, (H, W, 3) uint8 RGB, to a square and resize it (bicubic, antialiased) to (size, size, 3) uint8.

    Outside the image, its edge is repeated.

    Raises:
        InputError: a wrong shape or type, a box without area or far larger than the image, or a size below 1.
    """
    check_image(image)
    check_box(box)
    height, width = image.shape[:2]
    if size < 1:
        raise InputError(f"the size of a crop must be at least 1 pixel, got {size}")
    if box.side > 16 * max(height, width, size):
        raise InputError(f"a crop of {box.side:.0f} pixels is too large for an image of {width} x {height}")
    margin = math.ceil(2 * max(1.0, box.side / size)) + 1  # radius of the filter
    x = np.arange(math.floor(box.left) - margin, math.ceil(box.right) + margin)
    y = np.arange(math.floor(box.top) - margin, math.ceil(box.bottom) + margin)
    window = image[np.clip(y, 0, height - 1)][:, np.clip(x, 0, width - 1)]
    left, top = box.left - x[0], box.top - y[0]
    resized = Image.fromarray(window).resize(
        (size, size), Image.Resampling.BICUBIC, box=(left, top, left + box.side, top + box.side)
    )
    return np.array(resized)


def check_box(box: CropBox) -> None:
    """Raise InputError for a box without area or with values that are not finite."""
    if not (all(map(math.isfinite, box)) and box.side > 0):
        raise InputError(f"a crop box must be finite and its side above 0, got {tuple(box)}")
