"""Flat shapes in the plane of an object: polygons with a colour."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .colors import Rgb

Points = np.ndarray
"""(N, 2) float64: corners (x to the right, y up, in units of the world)."""


@dataclass(frozen=True)
class Shape:
    """One polygon of an object.

    Attributes:
        points: corners.
        part: what it belongs to, e.g. "shirt"; shapes of one object with the same part are one region.
        rgb: its colour.
        color: the colour's name if captions may name it, else "".
        joint: which of the object's moving frames it hangs on.
        is_convex: whether it is convex, which draws faster.
        merged: whether no line separates it from the shape before, because both have the same label.
    """

    points: Points
    part: str
    rgb: Rgb
    color: str = ""
    joint: str = "body"
    is_convex: bool = True
    merged: bool = False


def polygon(*corners: tuple[float, float]) -> Points:
    return np.array(corners, np.float64)


def box(left: float, bottom: float, right: float, top: float) -> Points:
    return polygon((left, bottom), (right, bottom), (right, top), (left, top))


def ellipse(x: float, y: float, width: float, height: float, start: float = 0, stop: float = 360) -> Points:
    """An ellipse with the given full width and height, or the part of it between two angles in degrees."""
    count = 18 if stop - start >= 360 else max(5, int((stop - start) / 20))
    closed = stop - start >= 360
    angles = [math.radians(start + (stop - start) * k / (count if closed else count - 1)) for k in range(count)]
    return polygon(*((x + width / 2 * math.cos(a), y + height / 2 * math.sin(a)) for a in angles))


def capsule(x0: float, y0: float, x1: float, y1: float, width: float) -> Points:
    """A bar with round ends."""
    along = math.atan2(y1 - y0, x1 - x0)
    ends = ((x1, y1, -90), (x0, y0, 90))
    return polygon(
        *(
            (
                x + width / 2 * math.cos(along + math.radians(turn + step)),
                y + width / 2 * math.sin(along + math.radians(turn + step)),
            )
            for x, y, turn in ends
            for step in (0, 45, 90, 135, 180)
        )
    )


def smooth(*corners: tuple[float, float], rounds: int = 2) -> Points:
    """A closed outline through Chaikin's corner cutting."""
    points = polygon(*corners)
    for _ in range(rounds):
        after = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * after, 0.25 * points + 0.75 * after], axis=1).reshape(-1, 2)
    return points


def moved(points: Points, x: float = 0, y: float = 0, scale: float = 1) -> Points:
    return points * scale + np.array([x, y])


__all__ = ["Points", "Shape", "box", "capsule", "ellipse", "moved", "polygon", "smooth"]
