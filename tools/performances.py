"""The movements of rendered heads: they turn, nod, talk, blink, look around, smile and raise their brows, all from a seed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .portraits import Pose

Array = NDArray[np.floating]
FPS = 25

MOUTHS: tuple[Mapping[str, float], ...] = (
    {},
    {"mouthPressLeft": 0.4, "mouthPressRight": 0.4},
    {"jawOpen": 0.42},
    {"jawOpen": 0.28, "mouthStretchLeft": 0.4, "mouthStretchRight": 0.4},
    {
        "jawOpen": 0.12,
        "mouthSmileLeft": 0.35,
        "mouthSmileRight": 0.35,
        "mouthLowerDownLeft": 0.4,
        "mouthLowerDownRight": 0.4,
    },
    {"jawOpen": 0.2, "mouthFunnel": 0.75},
    {"jawOpen": 0.08, "mouthPucker": 0.8},
    {"jawOpen": 0.1, "mouthRollLower": 0.6, "mouthUpperUpLeft": 0.25, "mouthUpperUpRight": 0.25},
    {"jawOpen": 0.62},
)
"""Shapes of the mouth while talking."""


def perform(frames: int, seed: int, *, liveliness: float = 1.0) -> list[Pose]:
    """Poses of a performance; the first looks into the camera with the mouth closed.

    Args:
        liveliness: strength of the movements of the head.
    """
    rng = np.random.default_rng(seed)
    time = np.arange(frames) / FPS
    start = np.clip(time / 0.6, 0, 1)
    yaw, pitch, roll, x, y, z = (
        start * liveliness * size * _drift(time, rng) for size in (24.0, 11.0, 8.0, 0.12, 0.08, 0.15)
    )
    units = _talk(frames, rng)
    for names, size in (
        (("browInnerUp", "browOuterUpLeft", "browOuterUpRight"), 0.9),
        (("browDownLeft", "browDownRight"), 0.8),
        (("mouthSmileLeft", "mouthSmileRight", "cheekSquintLeft", "cheekSquintRight"), 0.8),
        (("mouthFrownLeft", "mouthFrownRight"), 0.4),
    ):
        amount = start * size * np.clip(1.6 * _drift(time, rng) - 0.35, 0, 1)
        for name in names:
            units[name] = units.get(name, 0) + amount
    across, up = start * _drift(time * 1.3, rng), start * _drift(time, rng)
    for left, right, amount in (("Out", "In", across), ("In", "Out", -across), ("Up", "Up", up), ("Down", "Down", -up)):
        units[f"eyeLook{left}Left"] = units[f"eyeLook{right}Right"] = 0.7 * np.clip(amount, 0, 1)
    units["eyeBlinkLeft"] = units["eyeBlinkRight"] = _blink(frames, rng)
    return [
        Pose(
            float(yaw[n]),
            float(pitch[n]),
            float(roll[n]),
            (float(x[n]), float(y[n]), float(z[n])),
            {name: float(values[n]) for name, values in units.items() if values[n] > 0.005},
        )
        for n in range(frames)
    ]


def _drift(time: Array, rng: np.random.Generator) -> Array:
    """A smooth random curve between about -1 and 1."""
    rates, phases = rng.uniform(0.12, 0.75, 4), rng.uniform(0, 2 * np.pi, 4)
    waves = np.sin(2 * np.pi * rates * time[:, None] + phases) / (0.6 + rates)
    return np.clip(0.7 * waves.sum(1), -1, 1)


def _talk(frames: int, rng: np.random.Generator) -> dict[str, Array]:
    """Shapes of the mouth, one after the other, four or five per second, with pauses."""
    places, shapes, place = [0, 4], [0, 0], 4
    while place < frames:
        place += int(rng.integers(4, 7))
        places.append(place)
        shapes.append(int(rng.integers(1, len(MOUTHS))) if rng.random() < 0.88 else 0)
        if rng.random() < 0.06:
            place += int(rng.integers(8, 16))
            places.append(place)
            shapes.append(0)
    now = np.arange(frames)
    units: dict[str, Array] = {}
    for name in {name for mouth in MOUTHS for name in mouth}:
        keys = np.array([MOUTHS[shape].get(name, 0.0) for shape in shapes])
        after = np.clip(np.searchsorted(places, now, "right"), 1, len(places) - 1)
        before, until = np.array(places)[after - 1], np.array(places)[after]
        share = (now - before) / (until - before)
        share = share * share * (3 - 2 * share)
        units[name] = keys[after - 1] * (1 - share) + keys[after] * share
    return dict(sorted(units.items()))


def _blink(frames: int, rng: np.random.Generator) -> Array:
    closed, place = np.zeros(frames), int(rng.integers(10, 40))
    while place < frames - 6:
        closed[place : place + 6] = (0.4, 0.9, 1.0, 0.8, 0.45, 0.15)
        place += int(rng.integers(35, 90))
    return closed
