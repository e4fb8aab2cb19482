"""The 68 landmarks of a face (jaw, brows, nose, eyes, mouth, in the order of iBUG 300-W), from networks in the user's files."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..errors import MissingDependencyError
from ..io.pixels import to_float
from ..weights import WeightsError
from ..weights.torchscript import load_torchscript, short
from .crop import CropBox, choose_face
from .detector import FaceDetector, open_detector
from .face import check_image
from .network_files import DlibFaces, load_dlib

__all__ = ["DlibLandmarks", "FanLandmarks", "LandmarkFinder", "heatmap_peaks", "open_landmarks"]

POINTS = 68
CROP, MAP = 256, 64
"""Sides in pixels of FAN's input and of its heatmaps."""
SIDE = 200 / 195
"""Ratio of the side of FAN's crop to the sum of the box's sides."""
RAISE = 0.12
"""Upward shift of the centre of FAN's crop, as a fraction of the box's height."""


class LandmarkFinder(Protocol):
    """Finds the landmarks of the largest face of an image."""

    name: str

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """(68, 2) x and y in pixels of `image`, (H, W, 3) uint8 RGB; None if no face is found.

        (0, 0) is the upper left corner of the image, (0.5, 0.5) the centre of its first pixel. Raises InputError for another
        shape or type.
        """
        ...


class DlibLandmarks:
    """A dlib shape predictor with 68 points (Kazemi and Sullivan, CVPR 2014): shape_predictor_68_face_landmarks.dat.

    Args:
        path: the unpacked file.
        detector: detector for faces that dlib's own detector misses; see `DlibFaces`.

    Raises:
        MissingDependencyError: the package dlib is not installed.
        WeightsError: the file is missing, truncated, or has a wrong number of points.
    """

    def __init__(self, path: str | PathLike[str], detector: FaceDetector | None = None) -> None:
        self._predict = load_dlib("shape_predictor", path, "a dlib shape predictor")
        self._faces = DlibFaces(detector)
        self.name = f"dlib, {Path(path).name}"
        _, found, _ = self._faces.points(self._predict, np.zeros((64, 64, 3), np.uint8), CropBox(0, 0, 64), 64)
        if found.num_parts != POINTS:
            raise WeightsError(
                f"{path}: predicts {found.num_parts} points, expected {POINTS}; "
                "use shape_predictor_68_face_landmarks.dat"
            )

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        box = self._faces(check_image(image))
        if box is None:
            return None
        _, found, factor = self._faces.points(self._predict, image, box)
        points = np.array([(point.x, point.y) for point in found.parts()], np.float32)
        return (points + np.float32(0.5)) / np.float32(factor)  # dlib's coordinates refer to pixel centres


class FanLandmarks:
    """FAN (Bulat and Tzimiropoulos, ICCV 2017), in the TorchScript file of the package face-alignment, 2DFAN4-cd938726ad.zip.

    Crop and decoding of heatmaps are those of face-alignment, but points are not truncated to whole pixels, and faces are
    detected by MTCNN instead of S3FD; its boxes are similar. The published file has not been tested.

    Args:
        path: the file as downloaded.
        detector: None opens visionzoo's default detector.
        device: where the network runs.

    Raises:
        WeightsError: the file is missing, truncated, not TorchScript, or not such a network.
        MissingDependencyError: there is no face detector.
    """

    def __init__(
        self, path: str | PathLike[str], detector: FaceDetector | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self._network = load_torchscript(path, "face-alignment's FAN, 2DFAN4-cd938726ad.zip", device)
        found = detector or open_detector()
        if found is None:
            raise MissingDependencyError("landmarks need a face detector, but none is available; see visionzoo doctor")
        self._detector, self._device = found, torch.device(device)
        self.name = f"FAN, {Path(path).name}"
        try:
            shape = tuple(self._heatmaps(torch.zeros(1, 3, CROP, CROP)).shape)
        except (RuntimeError, TypeError, AttributeError, IndexError) as error:
            raise WeightsError(
                f"{path}: fails on an image (1, 3, {CROP}, {CROP}) ({short(error)}); expected face-alignment's FAN"
            ) from error
        if shape != (1, POINTS, MAP, MAP):
            raise WeightsError(f"{path}: gives {shape}, expected heatmaps (1, {POINTS}, {MAP}, {MAP}) as FAN does")

    @torch.inference_mode()
    def _heatmaps(self, image: Tensor) -> Tensor:
        found: Any = self._network(image.to(self._device))
        return (found[-1] if isinstance(found, list | tuple) else found).float().cpu()  # the output of the last stage

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        face = choose_face(self._detector(check_image(image)), min_size_px=0)
        if face is None:
            return None
        x, y = face.centre
        y -= RAISE * face.height
        side = SIDE * (face.width + face.height)
        points = heatmap_peaks(self._heatmaps(_fan_crop(image, x, y, side))[0])
        return ((points / MAP - 0.5) * side + (x, y)).astype(np.float32)


def _fan_crop(image: NDArray[np.uint8], x: float, y: float, side: float) -> Tensor:
    """Crop the square around (x, y), in whole pixels and black outside the image, to (1, 3, 256, 256) in [0, 1]."""
    left, top = int(x - side / 2 + side / CROP), int(y - side / 2 + side / CROP)
    right, bottom = max(int(x + side / 2), left + 1), max(int(y + side / 2), top + 1)
    window = np.zeros((bottom - top, right - left, 3), np.uint8)
    seen = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    window[max(-top, 0) :, max(-left, 0) :][: seen.shape[0], : seen.shape[1]] = seen
    pixels = to_float(window)[None].contiguous()
    return F.interpolate(pixels, (CROP, CROP), mode="bilinear", align_corners=False)


def heatmap_peaks(heatmaps: Tensor) -> NDArray[np.float64]:
    """Positions of the maxima of heatmaps (N, H, W): (N, 2) x and y in pixels, (0.5, 0.5) being the centre of the first pixel.

    If a maximum is not at the border, it is moved by a quarter of a pixel towards the higher neighbour along each axis, as
    published with stacked hourglass networks.
    """
    maps = heatmaps.numpy()
    height, width = maps.shape[1:]
    found = np.empty((len(maps), 2))
    for number, values in enumerate(maps):
        y, x = divmod(int(values.argmax()), width)
        found[number] = x + 0.5, y + 0.5
        if 0 < x < width - 1 and 0 < y < height - 1:
            found[number] += 0.25 * np.sign((values[y, x + 1] - values[y, x - 1], values[y + 1, x] - values[y - 1, x]))
    return found


def open_landmarks(
    path: str | PathLike[str], *, detector: FaceDetector | None = None, device: torch.device | str = "cpu"
) -> LandmarkFinder:
    """Open the landmark network in a file: dlib's for the extension `.dat`, else FAN as TorchScript.

    Args:
        path: shape_predictor_68_face_landmarks.dat of dlib, or 2DFAN4-cd938726ad.zip of face-alignment. A TorchScript file is a
            program: open only files whose author you trust.
        detector: face detector; None opens visionzoo's default (for dlib's network, dlib's own detector is tried first).
        device: where FAN runs; dlib runs on the CPU.

    Raises:
        WeightsError: the file is missing, truncated, or holds something else.
        MissingDependencyError: dlib is not installed (`.dat` only), or there is no face detector.
    """
    if Path(path).suffix.lower() == ".dat":
        return DlibLandmarks(path, detector)
    return FanLandmarks(path, detector, device)
