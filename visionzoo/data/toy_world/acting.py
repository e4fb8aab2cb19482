"""What characters do during a clip: where they are, and how their joints turn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .camera import CameraPath, product
from .chance import Chance
from .characters import JOINTS, Character

DOING = {"walk": "walks", "run": "runs", "wave": "waves", "turn": "turns", "sit": "sits", "stand": "stands"}
SPEED = {"walk": 0.028, "run": 0.06}
"""Units of the world per frame."""

NEAR, DISTANT = 1.5, 2.25
"""Depths between which characters move."""

_SMOOTHING = np.array([1, 2, 3, 4, 3, 2, 1]) / 16


@dataclass(frozen=True)
class Act:
    """What one character does, per frame of a clip and the moment after the last.

    Attributes:
        doing: (T + 1) names of `DOING`.
        x, depth: (T + 1,) where the character stands.
        joints: joint -> (T + 1, 3, 3), from the joint's frame to that of the character; "root" is the character's own.
    """

    doing: tuple[str, ...]
    x: np.ndarray
    depth: np.ndarray
    joints: dict[str, np.ndarray]


def perform(character: Character, chance: Chance, path: CameraPath, aspect: float) -> Act:
    """Let a character act near the camera: it walks, runs, waves, turns, sits, leaves the picture and comes back.

    Args:
        chance: what it does.
        path: of the camera, which the character keeps up with.
        aspect: width over height of the image.
    """
    x, depth, face, doing, phase = _script(chance, path, aspect)
    angles = {name: np.zeros(len(x)) for name in ("legs", "arms", "wave", "sit", "lean", "nod")}
    is_ = {name: np.array([each == name for each in doing], float) for name in DOING}
    stride = _sines(phase)
    angles["legs"] = (is_["walk"] * 0.5 + is_["run"] * 0.85) * stride
    angles["arms"] = (is_["walk"] * 0.45 + is_["run"] * 1.0) * stride
    angles["lean"] = -0.16 * is_["run"] - 0.03 * is_["walk"]
    angles["wave"] = is_["wave"] * (2.45 + 0.35 * _sines(0.55 * np.arange(len(x))))
    angles["sit"] = is_["sit"]
    angles["nod"] = 0.06 * _sines(0.13 * np.arange(len(x)) + chance.between(0, 6))
    soft = {name: _smoothed(values) if name in ("sit", "wave", "lean") else values for name, values in angles.items()}
    return Act(tuple(doing), x, depth, _joints(character, soft, face, phase, is_))


def _sines(angles: np.ndarray) -> np.ndarray:
    """Sines from the C library; NumPy's differ in the last digit between processors."""
    return np.array([math.sin(angle) for angle in angles])


def _smoothed(values: np.ndarray) -> np.ndarray:
    """A running mean, so that poses change over some frames."""
    side = len(_SMOOTHING) // 2
    padded = np.concatenate([np.repeat(values[:1], side), values, np.repeat(values[-1:], side)])
    smoothed = np.zeros_like(values)
    for k, weight in enumerate(_SMOOTHING):
        smoothed += weight * padded[k : k + len(values)]
    return smoothed


def _script(chance: Chance, path: CameraPath, aspect: float):
    """Per frame: x, depth, facing in [-1, 1], what is done, and the phase of the stride."""
    count = len(path) + 1
    depth = chance.between(NEAR, DISTANT)

    def half_view(frame: int, at_depth: float) -> float:
        frame = min(frame, count - 1)
        return aspect / 2 * (at_depth - path.z[frame]) / path.zoom[frame]

    x = path.x[0] + chance.between(-0.6, 0.6) * half_view(0, depth)
    face = chance.pick((-1.0, 1.0))
    phase = chance.between(0, 6)
    rows: list[tuple[float, float, float, str, float]] = []
    away = False
    while len(rows) < count:
        now = len(rows)
        here = path.x[min(now, count - 1)]
        outside = abs(x - here) > 0.75 * half_view(now, depth)
        what = "walk" if outside else chance.pick(("walk", "walk", "walk", "run", "wave", "sit", "stand"))
        if what in SPEED:
            leaves = chance.happens(0.15) and not outside
            later = path.x[min(now + 30, count - 1)]
            reach = half_view(now + 30, depth)
            goal = later + (chance.pick((-1.0, 1.0)) * (reach + 0.6) if leaves else chance.between(-0.6, 0.6) * reach)
            if abs(goal - x) > 2.2:
                what = "run"
            towards = 1.0 if goal >= x else -1.0
            if towards != face:
                rows.extend((x, depth, f, "turn", phase) for f in _turned(face))
                face = towards
            steps = min(90, max(6, math.ceil(abs(goal - x) / SPEED[what])))
            depth_goal = min(DISTANT, max(NEAR, depth + chance.between(-0.4, 0.4)))
            x_step, depth_step = (goal - x) / steps, (depth_goal - depth) / steps
            for _ in range(steps):
                x, depth = x + x_step, depth + depth_step
                phase += 0.24 if what == "walk" else 0.4
                rows.append((x, depth, face, what, phase))
            away = leaves
        else:
            rows.extend([(x, depth, face, what, phase)] * chance.whole(16, 34))
        if away:
            rows.extend([(x, depth, face, "stand", phase)] * chance.whole(20, 40))
            away = False
    xs, depths, faces, doing, phases = zip(*rows[:count], strict=True)
    return np.array(xs), np.array(depths), np.array(faces), list(doing), np.array(phases)


def _turned(face: float, frames: int = 6) -> list[float]:
    """Widths of a flat figure that turns round; never 0, where it would have no area."""
    return [face * math.cos(math.pi * (k + 0.5) / frames) for k in range(frames)]


def _joints(
    character: Character, angles: dict[str, np.ndarray], face: np.ndarray, phase: np.ndarray, is_: dict[str, np.ndarray]
):
    count, height = len(face), character.height
    moving = is_["walk"] + is_["run"]
    bob = 0.018 * moving * np.abs(_sines(phase + math.pi / 2)) - 0.235 * angles["sit"]
    root = np.zeros((count, 3, 3))
    root[:, 0, 0], root[:, 1, 1], root[:, 2, 2] = face * height, height, 1
    root[:, 1, 2] = bob * height
    trunk = _turn(angles["lean"], *JOINTS["body"])
    sitting = 1.25 * angles["sit"]
    joints = {
        "body": trunk,
        "back leg": _turn(-angles["legs"] + sitting, *JOINTS["back leg"]),
        "front leg": _turn(angles["legs"] + sitting * 1.05, *JOINTS["front leg"]),
        "back arm": product(trunk, _turn(angles["arms"] + 0.12 + 0.3 * angles["sit"], *JOINTS["back arm"])),
        "front arm": product(trunk, _turn(-angles["arms"] - 0.1 - angles["wave"], *JOINTS["front arm"])),
        "head": product(trunk, _turn(angles["nod"], *JOINTS["head"])),
    }
    return {name: product(root, matrix) for name, matrix in joints.items()}


def _turn(angle: np.ndarray, x: float, y: float) -> np.ndarray:
    """Turn counterclockwise round a point: (T, 3, 3)."""
    cos, sin = _sines(angle + math.pi / 2), _sines(angle)
    matrix = np.zeros((len(angle), 3, 3))
    matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 0, 2] = cos, -sin, x - cos * x + sin * y
    matrix[:, 1, 0], matrix[:, 1, 1], matrix[:, 1, 2] = sin, cos, y - sin * x - cos * y
    matrix[:, 2, 2] = 1
    return matrix


__all__ = ["DISTANT", "DOING", "NEAR", "Act", "perform"]
