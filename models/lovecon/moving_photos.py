"""Three frames of moving photos, with the true flow from the middle frame to the other two: training data for `IFNet`.

A background and up to three pieces of other photos move, turn and grow at constant rates, each in its own way, and cover one another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Array = NDArray[np.float32]

MOST_PIECES = 3
FASTEST = 12.0
"""Largest speed of a layer by default, in pixels per frame."""


@dataclass(frozen=True)
class MovingPhotos:
    """Three frames and the truth about the middle one.

    Attributes:
        frames: (3, S, S, 3) float32 in [0, 1].
        flow: (S, S, 4) float32: x and y to the point's place in the first frame, then x and y to that in the last frame, in pixels.
    """

    frames: Array
    flow: Array


@dataclass(frozen=True)
class _Motion:
    """A similarity whose logarithm is linear in time, about a centre that moves at a constant speed."""

    center: Array
    velocity: Array
    turn: float
    growth: float

    def at(self, time: float) -> NDArray[np.float64]:
        """(3, 3), from places in the middle frame to places at `time`: -1 for the first frame, 1 for the last."""
        cosine, sine = np.cos(self.turn * time), np.sin(self.turn * time)
        linear = np.exp(self.growth * time) * np.array([[cosine, -sine], [sine, cosine]])
        matrix = np.eye(3)
        matrix[:2, :2] = linear
        matrix[:2, 2] = self.center + self.velocity * time - linear @ self.center
        return matrix


def moving_photos(
    load: Callable[[int], Pixels], count: int, side: int, rng: np.random.Generator, fastest: float = FASTEST
) -> MovingPhotos:
    """Draw random motion of random photos.

    Args:
        load: index -> photo (H, W, 3) uint8.
        count: number of photos.
        side: S, of the frames in pixels.
        rng: of everything that is random.
        fastest: largest speed of a layer, in pixels per frame.
    """
    times = (-1.0, 0.0, 1.0)
    pace = np.exp(rng.uniform(np.log(0.2), np.log(fastest)))
    motion = _random_motion(side, pace, rng)
    texture, place = _placed(load(int(rng.integers(count))), side, rng)
    frames = [_warped(texture, motion.at(time) @ place, side) for time in times]
    flow = _flow(motion, side)
    for _ in range(rng.integers(MOST_PIECES + 1)):
        motion = _random_motion(side, pace, rng)
        texture, place = _placed(load(int(rng.integers(count))), side, rng)
        outline = _outline(side, rng)
        for index, time in enumerate(times):
            cover = _warped(outline, motion.at(time), side, cv2.BORDER_CONSTANT)[..., None]
            frames[index] += cover * (_warped(texture, motion.at(time) @ place, side) - frames[index])
        flow = np.where(outline[..., None] > 0.5, _flow(motion, side), flow)
    shown = np.clip(np.stack(frames), 0, 1)
    if rng.random() < 0.3:  # light that changes, or noise of a camera
        gains = 1 + rng.normal(0, 0.03) * np.array(times, np.float32)
        noise = rng.normal(0, rng.uniform(0, 0.012), shown.shape).astype(np.float32)
        shown = np.clip(shown * gains[:, None, None, None].astype(np.float32) + noise, 0, 1)
    return MovingPhotos(shown, flow)


def _random_motion(side: int, pace: float, rng: np.random.Generator) -> _Motion:
    angle, speed = rng.uniform(0, 2 * np.pi), pace * rng.uniform(0, 1)
    velocity = speed * np.array([np.cos(angle), np.sin(angle)], np.float32)
    turning = min(0.12, 2 * pace / side)  # radians per frame, so that borders move about as fast as the centre
    return _Motion(
        rng.uniform(0, side, 2).astype(np.float32),
        velocity,
        float(rng.normal(0, turning / 2)),
        float(rng.normal(0, turning / 2)),
    )


def _placed(photo: Pixels, side: int, rng: np.random.Generator) -> tuple[Array, NDArray[np.float64]]:
    """A random part of a photo as floats, larger than a frame, and the matrix that places it around the middle frame."""
    size = round(1.5 * side)
    shortest = min(photo.shape[:2])
    length = round(np.exp(rng.uniform(np.log(min(0.7 * size, shortest)), np.log(shortest))))
    top, left = (int(rng.integers(extent - length + 1)) for extent in photo.shape[:2])
    part = photo[top : top + length, left : left + length]
    part = cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA if length > size else cv2.INTER_CUBIC)
    if rng.random() < 0.5:
        part = part[:, ::-1]
    place = np.eye(3)
    place[:2, 2] = -rng.uniform(0, size - side, 2)
    return np.ascontiguousarray(part, np.float32) / np.float32(255), place


def _outline(side: int, rng: np.random.Generator) -> Array:
    """A blob with soft edges in the middle frame, (S, S) float32 in [0, 1]."""
    corners = int(rng.integers(3, 13))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = side * rng.uniform(0.06, 0.35) * rng.uniform(0.5, 1.2, corners)
    points = rng.uniform(0.1, 0.9, 2) * side + np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]
    mask = np.zeros((side, side), np.float32)
    cv2.fillPoly(mask, [np.rint(points * 16).astype(np.int32)], 1.0, cv2.LINE_8, 4)
    blur = float(rng.choice([0.7, 0.7, 0.7, 6.0]))
    smooth = cv2.GaussianBlur(mask, (0, 0), blur)
    return cv2.GaussianBlur((smooth > 0.5).astype(np.float32), (0, 0), 0.7) if blur > 1 else smooth  # pyright: ignore[reportReturnType]


def _warped(image: Array, matrix: NDArray[np.float64], side: int, border: int = cv2.BORDER_REFLECT_101) -> Array:
    """The frame (S, S, …) to which `matrix` takes an image."""
    warped: Any = cv2.warpAffine(image, matrix[:2], (side, side), flags=cv2.INTER_CUBIC, borderMode=border)
    return np.asarray(warped, np.float32)


def _flow(motion: _Motion, side: int) -> Array:
    """Where each pixel of the middle frame is in the first and in the last frame, minus where it is here: (S, S, 4)."""
    across = np.arange(side, dtype=np.float32)
    flow = np.empty((side, side, 4), np.float32)
    for index, time in enumerate((-1.0, 1.0)):
        change = (motion.at(time) - np.eye(3)).astype(np.float32)
        for axis in range(2):
            a, b, c = change[axis]
            flow[..., 2 * index + axis] = (a * across + c) + (b * across)[:, None]
    return flow


__all__ = ["FASTEST", "MovingPhotos", "moving_photos"]
