"""Open dlib's networks in the user's files, with one-line errors, and find faces for them.

Nothing is downloaded. No extra package is needed until a file is opened.
"""

from __future__ import annotations

import importlib
import math
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import MissingDependencyError
from ..weights import WeightsError
from ..weights.torchscript import check_file, short
from .crop import CropBox, choose_face, square_box
from .detector import FaceDetector, open_detector

__all__ = ["DlibFaces", "import_dlib", "load_dlib"]

DLIB_SCALE, DLIB_SHIFT = 0.79, 0.07
"""Ratio of the side of dlib's face box to that of MTCNN's squared box, and the downward shift of its centre in units of that side:
measured on 26 frames of two people, where the means were 0.76 to 0.81 and 0.04 to 0.08."""


def import_dlib(purpose: str) -> Any:
    """Import dlib. Raises MissingDependencyError, with `purpose` as the subject of the message."""
    try:
        return importlib.import_module("dlib")
    except ImportError as error:
        raise MissingDependencyError(
            f"{purpose} needs the package dlib ({short(error)}); install it with: pip install dlib-bin"
        ) from error


def load_dlib(kind: str, path: str | PathLike[str], what: str) -> Any:
    """`dlib.<kind>(path)`.

    Raises:
        MissingDependencyError: dlib is not installed.
        WeightsError: the file is missing, truncated, or another dlib file.
    """
    path = check_file(path, what)
    dlib = import_dlib(path.name)
    try:
        return getattr(dlib, kind)(str(path))
    except (RuntimeError, ValueError, MemoryError) as error:
        raise WeightsError(f"{path}: does not hold {what}, or is truncated; download it again") from error


class DlibFaces:
    """Finds face boxes like those that dlib's landmark predictors were trained on.

    dlib's own detector is tried first (upright frontal faces of 40 pixels or more). If it finds none, the largest face of
    `detector` is used, with its box made square, smaller and lower, like dlib's. Measured on 26 frames of 128 x 128, in pixels of
    256: the predictor's coordinates differ by 0.4 between the two boxes on average, about as much as with a little added noise
    (0.3); with MTCNN's box only made square, they differ by 0.6 to 1.0.

    Args:
        detector: detector for faces that dlib's detector misses; None opens visionzoo's default.
    """

    def __init__(self, detector: FaceDetector | None = None) -> None:
        self._dlib = import_dlib("finding faces for a dlib network")
        self._find = self._dlib.get_frontal_face_detector()
        self._other = detector or open_detector()

    def __call__(self, image: NDArray[np.uint8]) -> CropBox | None:
        """The box of the largest face of `image`, (H, W, 3) uint8 RGB; None if there is none."""
        found = self._find(np.ascontiguousarray(image), 1)  # 1: upsampled once by 2
        if found:
            box = max(found, key=lambda box: box.area())
            return CropBox(float(box.left()), float(box.top()), float(box.width()))
        face = None if self._other is None else choose_face(self._other(image), min_size_px=0)
        if face is None:
            return None
        box = square_box(face.box, DLIB_SCALE)
        return box._replace(top=box.top + DLIB_SHIFT * max(face.width, face.height))

    def points(
        self, predictor: Any, image: NDArray[np.uint8], box: CropBox, shortest: int = 512
    ) -> tuple[NDArray[np.uint8], Any, int]:
        """Run `predictor` on the face in `box`, in a copy of the image enlarged by an integer factor.

        The predictor rounds to whole pixels, which at 128 x 128 is as large as the differences to measure. Enlarged four
        times, its coordinates change by 0.3 instead of 0.5 pixels of 256 when a little noise is added.

        Args:
            shortest: minimum length of the shorter side of the enlarged image in pixels.

        Returns:
            The enlarged image, dlib's points in its pixels, and the enlargement factor.
        """
        factor = math.ceil(shortest / min(image.shape[:2]))
        large = np.ascontiguousarray(image)
        if factor > 1:
            size = (image.shape[1] * factor, image.shape[0] * factor)
            large = np.asarray(Image.fromarray(large).resize(size, Image.Resampling.BILINEAR))
        left, top, right, bottom = (round(value * factor) for value in (*box[:2], box.right, box.bottom))
        return large, predictor(large, self._dlib.rectangle(left, top, right - 1, bottom - 1)), factor
