"""The camera: where it is, how it moves by actions, and how planes of the world appear in its image.

The world is a stage that runs along x. The camera looks along the depth axis from the height `EYE`. An upright plane at depth d
appears scaled by zoom / (d - z); the floor appears in perspective. Both are homographies, so the motion of every pixel between two
frames is known exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from visionzoo.errors import InputError

from .chance import Chance

ACTIONS = ("go left", "go right", "go in", "go out", "zoom in", "zoom out", "wait")
OPPOSITE = {"go left": "go right", "go in": "go out", "zoom in": "zoom out", "wait": "wait"}
OPPOSITE |= {back: there for there, back in OPPOSITE.items()}

EYE = 0.78
"""Height of the camera."""

HORIZON = 0.4
"""Where the horizon appears, as a fraction of the image's height from the top."""

DEEPEST, LARGEST_ZOOM = 0.45, 1.75
STEPS = {"go": 0.06, "in": 0.028, "zoom": 1.035}
"""Change per frame at speed 1: in x, in depth, and the factor of the zoom."""


@dataclass(frozen=True)
class CameraPath:
    """The camera at each frame of a clip and at the moment after the last.

    Attributes:
        x, z, zoom: (T + 1,) float64.
        actions: the action that led to each frame; "wait" for the first.
    """

    x: np.ndarray
    z: np.ndarray
    zoom: np.ndarray
    actions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.x) - 1

    def part(self, when: slice) -> CameraPath:
        """The moments `when`, without their actions."""
        return CameraPath(self.x[when], self.z[when], self.zoom[when], ())


def check_actions(actions: Sequence[str]) -> None:
    """Raise `InputError` for an action that is not one of `ACTIONS`."""
    if isinstance(actions, str):
        raise InputError(f"actions must be a list, such as [{actions!r}], got {actions!r}")
    for number, action in enumerate(actions, start=1):
        if action not in ACTIONS:
            raise InputError(f"action {number} is {action!r}; the actions are: {', '.join(ACTIONS)}")


def follow(
    actions: Sequence[str], hold: int, frames: int, start: float, bounds: tuple[float, float], speed: float = 1.0
) -> CameraPath:
    """The path of a camera that takes each action for `hold` frames; it stays within the bounds and waits at the end.

    Args:
        actions: of `ACTIONS`.
        hold: frames per action.
        frames: length of the clip.
        start: x at the first frame.
        bounds: smallest and largest x.
        speed: of the camera; the zoom changes by `STEPS["zoom"] ** speed` per frame.

    Raises:
        InputError: an unknown action.
    """
    check_actions(actions)
    go, deep, larger = _steps(speed)
    x, z, zoom = [start], [0.0], [1.0]
    for frame in range(frames):
        index = frame // hold
        action = actions[index] if index < len(actions) else "wait"
        step = {"go left": -go, "go right": go}.get(action, 0.0)
        depth = {"go in": deep, "go out": -deep}.get(action, 0.0)
        factor = {"zoom in": larger, "zoom out": 1 / larger}.get(action, 1.0)
        x.append(min(bounds[1], max(bounds[0], x[-1] + step)))
        z.append(min(DEEPEST, max(0.0, z[-1] + depth)))
        zoom.append(min(LARGEST_ZOOM, max(1.0, zoom[-1] * factor)))
    # Sums of steps return to where they began only up to rounding; a revisit has to be exact
    positions, depths, zooms = (np.round(values, 9) for values in (x, z, zoom))
    taken = ["wait", *(actions[f // hold] if f // hold < len(actions) else "wait" for f in range(frames - 1))]
    return CameraPath(positions, depths, zooms, tuple(taken[:frames]))


def _steps(speed: float) -> tuple[float, float, float]:
    """Change of x, of depth, and factor of the zoom in a frame."""
    return STEPS["go"] * speed, STEPS["in"] * speed, STEPS["zoom"] ** speed


def random_actions(
    chance: Chance, count: int, hold: int, start: float, bounds: tuple[float, float], speed: float = 1.0
) -> list[str]:
    """Actions that never run into a limit, so that each of them has its full effect."""
    go, deep, larger = _steps(speed)
    x, z, zoom = start, 0.0, 1.0
    actions: list[str] = []
    while len(actions) < count:
        action = chance.pick(("go left", "go right", "go left", "go right", *ACTIONS))
        if actions and action == OPPOSITE[actions[-1]] and chance.happens(0.7):
            continue  # less to and fro
        after = {
            "go left": (x - go * hold, z, zoom),
            "go right": (x + go * hold, z, zoom),
            "go in": (x, z + deep * hold, zoom),
            "go out": (x, z - deep * hold, zoom),
            "zoom in": (x, z, zoom * larger**hold),
            "zoom out": (x, z, zoom / larger**hold),
            "wait": (x, z, zoom),
        }[action]
        near = 1e-9
        fits = (
            bounds[0] <= after[0] <= bounds[1] and -near <= after[1] <= DEEPEST and 1 - near <= after[2] <= LARGEST_ZOOM
        )
        if fits:
            actions.append(action)
            x, z, zoom = after
    return actions


def returning(actions: Sequence[str]) -> list[str]:
    """The actions, then the opposite ones in reverse order: a path that ends where it began."""
    return [*actions, *(OPPOSITE[action] for action in reversed(actions))]


def upright(path: CameraPath, depth: np.ndarray, height: int, width: int) -> np.ndarray:
    """Homographies from an upright plane at `depth`, as (x, height above the floor, 1), to pixels.

    Args:
        depth: (T + 1, N), further away than the camera.
        height, width: of the image.

    Returns:
        (T + 1, N, 3, 3) float64; pixel centres are at whole numbers.
    """
    scale = height * path.zoom[:, None] / (depth - path.z[:, None])
    matrix = np.zeros((*scale.shape, 3, 3))
    matrix[..., 0, 0] = scale
    matrix[..., 0, 2] = (width - 1) / 2 - scale * path.x[:, None]
    matrix[..., 1, 1] = -scale
    matrix[..., 1, 2] = HORIZON * height - 0.5 + scale * EYE
    matrix[..., 2, 2] = 1
    return matrix


def flat(path: CameraPath, height: int, width: int) -> np.ndarray:
    """Homographies from the floor, as (x, depth, 1), to pixels: (T + 1, 3, 3) float64."""
    focal = height * path.zoom
    matrix = np.zeros((len(path.x), 3, 3))
    middle, horizon = (width - 1) / 2, HORIZON * height - 0.5
    matrix[:, 0, 0] = focal
    matrix[:, 0, 1] = middle
    matrix[:, 0, 2] = -middle * path.z - focal * path.x
    matrix[:, 1, 1] = horizon
    matrix[:, 1, 2] = focal * EYE - horizon * path.z
    matrix[:, 2, 1] = 1
    matrix[:, 2, 2] = -path.z
    return matrix


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Products of stacked 3 x 3 matrices, summed in a fixed order: matrix libraries round differently on other machines."""
    return sum(a[..., :, k, None] * b[..., None, k, :] for k in range(3))  # pyright: ignore[reportReturnType]


def inverse(a: np.ndarray) -> np.ndarray:
    """Inverses of stacked 3 x 3 matrices up to scale, which is all that a homography needs."""
    rows = [[_minor(a, i, j) for i in range(3)] for j in range(3)]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _minor(a: np.ndarray, row: int, column: int) -> np.ndarray:
    """The cofactor of one entry of stacked 3 x 3 matrices."""
    (r, s), (c, d) = _others(row), _others(column)
    return a[..., r, c] * a[..., s, d] - a[..., r, d] * a[..., s, c]


def _others(index: int) -> tuple[int, int]:
    """The two other indices, in cyclic order, which gives cofactors their sign."""
    return (index + 1) % 3, (index + 2) % 3


__all__ = [
    "ACTIONS",
    "OPPOSITE",
    "CameraPath",
    "check_actions",
    "flat",
    "follow",
    "inverse",
    "product",
    "random_actions",
    "returning",
    "upright",
]
