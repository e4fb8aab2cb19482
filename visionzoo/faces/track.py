"""One face through a clip, and the crop boxes for it: one that stays, or one that moves with the head."""

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
"""Overlap (intersection over union) with the last box from which a box is the same face; first-order-model's value."""
LOST_AFTER = 25
"""Searches without the face after which another may be taken: it left, or the scene changed."""


@dataclass(frozen=True)
class FaceTrack:
    """Where one face is in the frames of a clip.

    Attributes:
        times: (T,) seconds.
        boxes: (T, 4) left, top, right, bottom in pixels; NaN where it was not found.
        first: the face as it was found first, or None.
    """

    times: NDArray[np.float64]
    boxes: NDArray[np.float64]
    first: Face | None

    @property
    def found(self) -> NDArray[np.bool_]:
        """(T,) whether the face was found in the frame."""
        return ~np.isnan(self.boxes[:, 0])


def follow_face(
    frames: Iterable[tuple[float, NDArray[np.uint8]]],
    detector: FaceDetector,
    which: int | str = "largest",
    *,
    every: int = 1,
    min_size_px: float = 24,
) -> FaceTrack:
    """Look for one face in the frames of a clip, one frame in memory at a time.

    Args:
        frames: when each frame is shown, in seconds (`Frame.time_s`, not its number by the rate), and its (H, W, 3) uint8 RGB.
        which: "largest", or the number from the left, from 1, in the first frame that has a face.
        every: search every so many frames; the frames between count as not found.
        min_size_px: smaller faces are ignored.

    Raises:
        InputError: `every` below 1, no frames, or fewer faces than `which` says.
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
        raise InputError("a clip has at least one frame, got none")
    return FaceTrack(np.array(times), np.array(boxes), first)


def fixed_box(track: FaceTrack, scale: float = UNION_SCALE) -> CropBox:
    """One crop for the whole clip, which shows how the head moves: around the union of the face boxes.

    Of each side the outermost 2 % are left out, so that a false face here and there changes nothing.

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
    """A crop for every frame, which keeps the face in its middle: head movement across the frame is taken out.

    Frames without the face get a box between those around them. Centre and side are smoothed by a one-euro filter,
    both in units of the median side, forwards in time.

    Args:
        min_cutoff: Hz at rest.
        beta: Hz of cutoff per side a second.

    Raises:
        InputError: the face was found in no frame, times that do not rise, or a scale that is not above 0.
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
    """Intersection over union of N boxes (left, top, right, bottom) with another one: (N,), 0 … 1."""
    these = torch.tensor(boxes, dtype=torch.float64).view(-1, 4)
    return box_iou(these, torch.tensor([other], dtype=torch.float64))[:, 0].nan_to_num().numpy()


def _found_boxes(track: FaceTrack) -> NDArray[np.float64]:
    boxes = track.boxes[track.found]
    if not len(boxes):
        raise InputError(
            f"no face was found in {len(track.times)} frames; choose the crop by hand, or use a clip that shows the face"
            " larger and from the front"
        )
    return boxes
