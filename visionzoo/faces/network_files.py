"""Networks of others in files that the user has: dlib's `.dat` and TorchScript, opened or refused in one line.

Nothing is downloaded. Needs no package of its own until a dlib file is opened.
"""

from __future__ import annotations

import importlib
import math
import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..errors import MissingDependencyError
from ..io.head import read_head
from ..weights import WeightsError
from .crop import CropBox, choose_face, square_box
from .detector import FaceDetector, open_detector

__all__ = ["DlibFaces", "check_file", "import_dlib", "load_dlib", "load_torchscript", "short"]

DLIB_SCALE, DLIB_SHIFT = 0.79, 0.07
"""Side of dlib's face box to MTCNN's squared one, and how far its centre lies lower in that one's sides: measured on 26 frames of two
people, where the means were 0.76 to 0.81 and 0.04 to 0.08."""


def check_file(path: str | PathLike[str], what: str) -> Path:
    """`path`, if it is a file that may hold a network: see `read_head`.

    Args:
        what: the network that is expected in it, for the message.

    Raises:
        WeightsError: it is not, or it is still packed.
    """
    path = Path(path)
    expected = f"the file with {what}"
    head = read_head(
        path, f"{expected} (a .zip as downloaded, not unpacked)" if path.is_dir() else expected, WeightsError
    )
    if head.startswith(b"BZh"):
        raise WeightsError(f"{path}: is still packed; unpack it with bunzip2")
    return path


def short(error: BaseException) -> str:
    """What an error says, in at most 120 characters: its first line; of TorchScript's its last, after the trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if "TorchScript" in lines[0] else 0].removeprefix("RuntimeError: ")[:120]


# TorchScript


def load_torchscript(path: str | PathLike[str], what: str, device: torch.device | str = "cpu") -> Any:
    """The TorchScript network in a file, for inference. Such a file is a program: open only one whose author you trust.

    Raises:
        WeightsError: no such file, truncated, or something other than TorchScript.
    """
    path = check_file(path, what)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # torch advises its users to write other files; this one exists
            return torch.jit.load(str(path), map_location=torch.device(device)).eval()
    except (RuntimeError, ValueError) as error:
        if "constants.pkl" in str(error):
            raise WeightsError(
                f"{path}: is not a TorchScript file (perhaps weights alone, or torch.export's form), expected {what}; "
                "write the whole network with torch.jit.trace(network, image).save(FILE)"
            ) from error
        raise WeightsError(
            f"{path}: not a TorchScript file, or truncated ({short(error)}), expected {what}; download it again"
        ) from error


# dlib


def import_dlib(purpose: str) -> Any:
    """The package dlib. Raises MissingDependencyError, with `purpose` as the subject of the message."""
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
        WeightsError: no such file, truncated, or something else of dlib's.
    """
    path = check_file(path, what)
    dlib = import_dlib(path.name)
    try:
        return getattr(dlib, kind)(str(path))
    except (RuntimeError, ValueError, MemoryError) as error:
        raise WeightsError(f"{path}: does not hold {what}, or is truncated; download it again") from error


class DlibFaces:
    """Boxes as dlib's predictors of landmarks were trained on.

    dlib's own detector decides (upright faces from the front, 40 pixels or more); where it finds none, the largest face of
    `detector` with its box made square, smaller and lower, as dlib's are. Measured on 26 frames of 128 x 128, in pixels of 256:
    the predictor's coordinates differ by 0.4 between the two boxes on average, as they do when the image gets a little noise
    (0.3); with MTCNN's box merely made square they differ by 0.6 to 1.0.

    Args:
        detector: finds the faces that dlib's does not; None opens visionzoo's first choice.
    """

    def __init__(self, detector: FaceDetector | None = None) -> None:
        self._dlib = import_dlib("finding faces for a network of dlib's")
        self._find = self._dlib.get_frontal_face_detector()
        self._other = detector or open_detector()

    def __call__(self, image: NDArray[np.uint8]) -> CropBox | None:
        """The box of the largest face of `image`, (H, W, 3) uint8 RGB, or None where there is none."""
        found = self._find(np.ascontiguousarray(image), 1)  # 1: once doubled in size
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
        """What `predictor` says of the face in `box`, in a copy of the image that is enlarged by a whole number.

        The predictor rounds to whole pixels, which at 128 x 128 is as much as what is to be measured; enlarged four times, its
        coordinates move by 0.3 and not 0.5 pixels of 256 when the image gets a little noise.

        Args:
            shortest: the shorter side of the image in pixels, at least.

        Returns:
            The enlarged image, dlib's points in its pixels, and how often it was enlarged.
        """
        factor = math.ceil(shortest / min(image.shape[:2]))
        large = np.ascontiguousarray(image)
        if factor > 1:
            size = (image.shape[1] * factor, image.shape[0] * factor)
            large = np.asarray(Image.fromarray(large).resize(size, Image.Resampling.BILINEAR))
        left, top, right, bottom = (round(value * factor) for value in (*box[:2], box.right, box.bottom))
        return large, predictor(large, self._dlib.rectangle(left, top, right - 1, bottom - 1)), factor
