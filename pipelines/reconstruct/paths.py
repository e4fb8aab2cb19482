"""Camera paths: where the camera is in each frame of a video of a scene, and at what time the scene is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from visionzoo.errors import InputError

from ...models.modecgs.captures.capture import Camera
from ...models.modecgs.facts import TimedCamera
from .scene import Scene

Path = Literal["orbit", "input", "still"]
"""orbit: around the scene, or in front of it where only one side was filmed; input: as the camera moved; still: the first camera."""

Vector = NDArray[np.floating]

ALL_AROUND = 0.75
"""An orbit goes all around if the directions of the cameras leave no gap of more than this share of half a turn."""


def camera_path(
    scene: Scene, path: Path, frames: int, *, time: float | None = None, turns: float = 1.0, view: int = 0
) -> list[TimedCamera]:
    """The cameras of a video.

    Args:
        frames: number of frames.
        time: stop the scene at this time, in [0, 1]; None: it plays once, from 0 to 1.
        turns: how often an orbit goes round.
        view: number of the camera of "still", in the order of time.

    Raises:
        InputError: no frames, a time outside [0, 1], or no such view.
    """
    if frames < 1:
        raise InputError(f"the number of frames must be at least 1, got {frames}")
    if time is not None and not 0 <= time <= 1:
        raise InputError(f"the time must be in [0, 1], got {time:g}")
    if not 0 <= view < len(scene.cameras):
        raise InputError(f"the view must be between 0 and {len(scene.cameras) - 1}, got {view}")
    times = np.linspace(0, 1, frames) if time is None else np.full(frames, float(time))
    if path == "still":
        cameras = [scene.cameras[view].camera] * frames
    elif path == "input":
        cameras = _along(scene.cameras, np.linspace(0, 1, frames))
    else:
        cameras = orbit(scene, frames, turns)
    return [TimedCamera(camera, float(when)) for camera, when in zip(cameras, times, strict=True)]


def orbit(scene: Scene, frames: int, turns: float = 1.0) -> list[Camera]:
    """The cameras of a video that goes round `turns` times; see `orbit_at`."""
    return orbit_at(scene, turns * np.arange(frames) / frames)


def orbit_at(scene: Scene, places: Sequence[float] | Vector) -> list[Camera]:
    """Cameras on a circle around the scene's focus; if the scene was not filmed from all sides, on an ellipse among its cameras.

    Args:
        places: (F,) where on the orbit, in turns.
    """
    focus, up = scene.focus, scene.up
    cameras = [each.camera for each in scene.cameras]
    first = cameras[0]
    centres = np.stack([camera.centre for camera in cameras])
    phases = 2 * np.pi * np.asarray(places, float)
    if not scene.facts.cameras or _is_all_around(centres - focus, up):
        offset = centres[0] - focus
        height = float(np.mean((centres - focus) @ up))
        flat = offset - (offset @ up) * up
        radius = float(np.median(np.linalg.norm((centres - focus) - ((centres - focus) @ up)[:, None] * up, axis=1)))
        ahead = _unit(flat, fallback=_perpendicular(up))
        side = np.cross(up, ahead)
        centres = focus + height * up + radius * (np.cos(phases)[:, None] * ahead + np.sin(phases)[:, None] * side)
    else:
        middle = centres.mean(0)
        ahead = _unit(focus - middle, fallback=first.world_to_camera[2, :3])
        right = _unit(np.cross(ahead, up), fallback=first.world_to_camera[0, :3])
        above = np.cross(right, ahead)
        wide, high = (
            _spread((centres - middle) @ axis, float(np.linalg.norm(focus - middle))) for axis in (right, above)
        )
        centres = middle + wide * np.sin(phases)[:, None] * right + high * np.cos(phases)[:, None] * above
    return [look_at(first, centre, focus, up) for centre in centres]


def look_at(camera: Camera, place: Vector, target: Vector, up: Vector) -> Camera:
    """`camera` at `place` (3,), turned towards `target` (3,), with `up` (3,) upwards in the image."""
    forward = _unit(target - place, fallback=camera.world_to_camera[2, :3])
    right = _unit(np.cross(forward, up), fallback=_perpendicular(forward))
    rotation = np.stack([right, np.cross(forward, right), forward])
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation, -rotation @ place
    return replace(camera, world_to_camera=motion)


def _along(cameras: Sequence[TimedCamera], times: Vector) -> list[Camera]:
    """The cameras at `times`, interpolated between the known ones: centres linearly, axes by normalised means."""
    known = np.array([each.time for each in cameras])
    result = []
    for when in times:
        after = min(int(np.searchsorted(known, when)), len(known) - 1)
        before = max(after - 1, 0) if known[after] > when else after
        gap = known[after] - known[before]
        share = 0.0 if gap <= 0 else (when - known[before]) / gap
        a, b = cameras[before].camera, cameras[after].camera
        axes = (1 - share) * a.world_to_camera[:3, :3] + share * b.world_to_camera[:3, :3]
        left, _, right = np.linalg.svd(axes)
        rotation = left @ right
        place = (1 - share) * a.centre + share * b.centre
        motion = np.eye(4)
        motion[:3, :3], motion[:3, 3] = rotation, -rotation @ place
        result.append(replace(cameras[0].camera, world_to_camera=motion))
    return result


def _is_all_around(offsets: Vector, up: Vector) -> bool:
    """Whether cameras at `offsets` (N, 3) from the focus leave no wide gap in their directions around `up`."""
    ahead = _perpendicular(up)
    angles = np.sort(np.arctan2(offsets @ np.cross(up, ahead), offsets @ ahead))
    gaps = np.diff(np.concatenate([angles, angles[:1] + 2 * np.pi]))
    return len(angles) > 2 and float(gaps.max()) < ALL_AROUND * np.pi


def _spread(places: Vector, distance: float) -> float:
    """Half an axis of the ellipse: what the cameras moved, but enough to see depth and not so far that unseen sides show."""
    return float(np.clip(np.percentile(np.abs(places), 90), 0.03 * distance, 0.35 * distance))


def _perpendicular(axis: Vector) -> Vector:
    other = np.eye(3)[int(np.argmin(np.abs(axis)))]
    return _unit(np.cross(axis, other), fallback=other)


def _unit(vector: Vector, *, fallback: Vector) -> Vector:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 1e-9 else fallback


__all__ = ["ALL_AROUND", "Path", "camera_path", "look_at", "orbit", "orbit_at"]
