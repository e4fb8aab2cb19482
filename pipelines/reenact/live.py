"""Reenactment frame by frame, for a webcam."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from visionzoo.faces import CropBox, FaceDetector, choose_face, face_box

from ...models.mcnet import Keypoints, transfer_motion
from .motion import whole
from .options import Mode

Pixels = NDArray[np.uint8]


class Animator(Protocol):
    """The part of `ReenactPipeline` that is used here (it imports this module)."""

    model: Any

    @property
    def detector(self) -> FaceDetector: ...

    def cut(self, frame: Pixels, box: CropBox | None) -> Pixels: ...

    def tensor(self, crops: list[Pixels]) -> torch.Tensor: ...

    def animate(self, portrait: Any, keypoints: Keypoints) -> Iterator[Pixels]: ...


class Live:
    """A driver that is seen frame by frame. The pose of the first frame is taken to be the source's, until `reset`."""

    def __init__(self, pipe: Animator, portrait: Any, *, mode: Mode, adapt_scale: bool):
        self.pipe, self.portrait, self.adapt_scale = pipe, portrait, adapt_scale
        self.mode: Mode = mode
        self._box: CropBox | None = None
        self._initial: Keypoints | None = None
        self._last = portrait.crop

    def reset(self) -> None:
        """Take the next frame's pose to be the source's, and search for the face again."""
        self._box = self._initial = None

    def __call__(self, frame: Pixels) -> Pixels:
        """(H, W, 3) uint8 RGB -> (S, S, 3) uint8. Returns the last result if no face is in view."""
        if self._box is None:
            face = choose_face(self.pipe.detector(frame))
            if face is None:
                return self._last
            self._box = face_box(face, frame=frame.shape[:2])
        with torch.inference_mode():
            driving = self.pipe.model.detect(self.pipe.tensor([self.pipe.cut(frame, self._box)]))
            if self._initial is None:
                self._initial = driving
            source = self.portrait.cache.keypoints
            moved = transfer_motion(source, driving, self._initial, mode=self.mode, adapt_scale=self.adapt_scale)
            if bool(whole(moved).all()):
                self._last = next(self.pipe.animate(self.portrait, moved))
        return self._last


__all__ = ["Live"]
