"""Track one face through a clip, and compute its crop: fixed, or moving with the head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..boxes import box_iou
from ..errors import InputError
from .crop import STILL_SCALE, UNION_SCALE, CropBox, choose_face, square_box
from .detector import FaceDetector
from .face import Face
from .smoothing import OneEuroFilter

__all__ = ["FaceTrack", "fixed_box", "follow_face", "moving_boxes", "overlap"]

SAME_FACE = 0.25
"""Minimum overlap (intersection over union) with the last box for the same face; the value of first-order-model."""
LOST_AFTER = 25
"""Number of searches without the face after which another face may be followed, as it left or the scene changed."""


@dataclass(frozen=True)
class FaceTrack:
    """The positions of one face in the frames of a clip.

    Attributes:
        times: (T,) seconds.
        boxes: (T, 4) left, top, right, bottom in pixels; NaN if it was not found.
        first: the first detection of the face, or None.
    """

    times: NDArray[np.float64]
    boxes: NDArray[np.float64]
    first: Face | None

    @property
    def found(self) -> NDArray[np.bool_]:
        """(T,) bool: whether the face was found in each frame."""
        return ~np.isnan(self.boxes[:, 0])


def follow_face(
    frames: Iterable[tuple[float, NDArray[np.uint8]]],
    detector: FaceDetector,
    which: int | str = "largest",
    *,
    every: int = 1,
    min_size_px: float = 24,
) -> FaceTrack:
    """Track one face through the frames of a clip, with one frame in memory at a time.

    Args:
        frames: (display time in seconds, (H, W, 3) uint8 RGB) of each frame; use `Frame.time_s`, not number / rate.
        which: "largest", or the number from the left (1 = leftmost), in the first frame that has a face.
        every: interval in frames between searches; frames between them count as not found.
        min_size_px: faces whose longer side is shorter than this are ignored.

    Raises:
        InputError: `every` is below 1, there are no frames, or fewer faces than `which`.
    """
    if every < 1:
        raise InputError(f"every must be at least 1, got {every}")
    times: list[float] = []
    boxes: list[tuple[float, ...]] = []
    first: Face | None = None
    last: Face | None = None
    missed = 0
    for number, (time_s, image) in enumerate(frames):
        face = None
        if number % every == 0:
            faces = [face for face in detector(image) if max(face.width, face.height) >= min_size_px]
            if last is not None and missed < LOST_AFTER:
                shares = overlap([face.box for face in faces], last.box)
                nearest = int(shares.argmax()) if faces else 0
                face = faces[nearest] if faces and shares[nearest] >= SAME_FACE else None
            elif faces:
                face = choose_face(faces, which if first is None else "largest")
            missed = 0 if face is not None else missed + 1
        last, first = face or last, first or face
        times.append(time_s)
        boxes.append(face.box if face is not None else (np.nan,) * 4)
    if not times:
        raise InputError("a clip must have at least one frame, got none")
    return FaceTrack(np.array(times), np.array(boxes), first)


def fixed_box(track: FaceTrack, scale: float = UNION_SCALE) -> CropBox:
    """A fixed crop for the whole clip, around the union of the face boxes, so that head motion stays visible.

    The outermost 2 % on each side are ignored, so that single false detections have no effect.

    Raises:
        InputError: the face was found in no frame, or a scale that is not above 0.
    """
    boxes = _found_boxes(track)
    left, top = np.quantile(boxes[:, :2], 0.02, axis=0, method="nearest")
    right, bottom = np.quantile(boxes[:, 2:], 0.98, axis=0, method="nearest")
    return square_box((left, top, right, bottom), scale)


def moving_boxes(
    track: FaceTrack, scale: float = STILL_SCALE, *, min_cutoff: float = 0.5, beta: float = 2.0
) -> list[CropBox]:
    """A crop for each frame, centred on the face, which removes head motion across the frame.

    Frames without the face get an interpolated box. Centre and side, in units of the median side, are smoothed by a one-euro
    filter forwards in time.

    Args:
        min_cutoff: cutoff in Hz at rest.
        beta: Hz of cutoff per unit of speed, in sides per second.

    Raises:
        InputError: the face was found in no frame, times do not increase, or a scale that is not above 0.
    """
    known = [square_box(box, scale) for box in _found_boxes(track)]
    unit = float(np.median([box.side for box in known]))
    seen = np.array([(box.left + box.side / 2, box.top + box.side / 2, box.side) for box in known])
    steady = np.stack([np.interp(track.times, track.times[track.found], column) for column in seen.T], 1)
    smooth = OneEuroFilter(min_cutoff, beta)
    boxes = []
    for values, time_s in zip(steady / unit, track.times, strict=True):
        x, y, side = smooth.filter(values, float(time_s)) * unit
        boxes.append(CropBox(float(x - side / 2), float(y - side / 2), float(side)))
    return boxes


def overlap(boxes: Sequence[tuple[float, ...]], other: tuple[float, ...]) -> NDArray[np.float64]:
    """Intersection over union of N boxes (left, top, right, bottom) with another box: (N,), in [0, 1]."""
    these = torch.tensor(boxes, dtype=torch.float64).view(-1, 4)
    return box_iou(these, torch.tensor([other], dtype=torch.float64))[:, 0].nan_to_num().numpy()


def _found_boxes(track: FaceTrack) -> NDArray[np.float64]:
    boxes = track.boxes[track.found]
    if not len(boxes):
        raise InputError(
            f"no face was found in {len(track.times)} frames; set the crop manually, or use a clip that shows the face"
            " larger and from the front"
        )
    return boxes
