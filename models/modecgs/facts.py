"""What a scene file says about a scene in addition to its model: cameras to look from, background, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .captures.capture import Camera, Capture, View

MOST_CAMERAS = 300
"""Of longer captures, evenly chosen cameras are kept."""


@dataclass(frozen=True)
class TimedCamera:
    """A camera at a time in [0, 1]."""

    camera: Camera
    time: float


@dataclass(frozen=True)
class SceneFacts:
    """Facts about a scene.

    Attributes:
        cameras: training cameras in the order of time; empty if they are not known.
        low, high: corners (3,) of the box around the scene's points; None if they are not known.
        frames: number of different times among the training views.
        fps: frames per second of the video that the views are from; None if it is not known.
        white_background: whether rays that hit nothing are white; otherwise they are black.
        rules: rules of the renderer that the scene was trained with, "gsplat" or "inria".
        scores: results by name, e.g. {"train/psnr": 30.1}.
        training: settings of the training, as JSON values.
    """

    cameras: tuple[TimedCamera, ...] = ()
    low: tuple[float, float, float] | None = None
    high: tuple[float, float, float] | None = None
    frames: int = 0
    fps: float | None = None
    white_background: bool = True
    rules: str = "gsplat"
    scores: Mapping[str, float] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The facts as JSON values, for `write_scene`."""
        return {
            "cameras": [_camera_to_dict(each) for each in self.cameras],
            "low": None if self.low is None else list(self.low),
            "high": None if self.high is None else list(self.high),
            "frames": self.frames,
            "fps": self.fps,
            "white_background": self.white_background,
            "rules": self.rules,
            "scores": dict(self.scores),
            "training": dict(self.training),
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> SceneFacts:
        """The facts of a scene file; missing ones have their defaults.

        Raises:
            ValueError: a value that cannot be used, such as a camera that is not rigid.
        """
        try:
            fps = found.get("fps")
            return cls(
                cameras=tuple(_camera_from_dict(each) for each in found.get("cameras", ())),
                low=_corner(found.get("low")),
                high=_corner(found.get("high")),
                frames=int(found.get("frames", 0)),
                fps=None if fps is None else _positive(fps, "fps"),
                white_background=bool(found.get("white_background", True)),
                rules="inria" if found.get("rules") == "inria" else "gsplat",
                scores={str(name): float(value) for name, value in found.get("scores", {}).items()},
                training=dict(found.get("training", {})),
            )
        except (TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
            raise ValueError(f"facts that cannot be used: {type(error).__name__}: {error}") from error


def facts_of(capture: Capture, **more: Any) -> SceneFacts:
    """What a capture says about its scene.

    Args:
        **more: other fields of `SceneFacts`.
    """
    low, high = capture.box
    return SceneFacts(
        cameras=tuple(TimedCamera(view.camera, view.time) for view in _chosen(capture.train)),
        low=_corner(low.tolist()),
        high=_corner(high.tolist()),
        frames=len({view.time for view in capture.train}),
        **more,
    )


def _chosen(views: Sequence[View]) -> list[View]:
    in_time = sorted(views, key=lambda view: view.time)
    if len(in_time) <= MOST_CAMERAS:
        return in_time
    return [in_time[place] for place in np.linspace(0, len(in_time) - 1, MOST_CAMERAS).round().astype(int)]


def _camera_to_dict(each: TimedCamera) -> dict[str, Any]:
    camera = each.camera
    return {
        "time": round(each.time, 6),
        "world_to_camera": [[float(f"{value:.7g}") for value in row] for row in camera.world_to_camera[:3]],
        "intrinsics": [[float(f"{value:.7g}") for value in row] for row in camera.intrinsics[:2]],
        "size": [camera.width, camera.height],
    }


def _camera_from_dict(found: Mapping[str, Any]) -> TimedCamera:
    motion, intrinsics = np.eye(4), np.eye(3)
    motion[:3], intrinsics[:2] = np.array(found["world_to_camera"], float), np.array(found["intrinsics"], float)
    rotation = motion[:3, :3]
    if not np.isfinite(motion).all() or not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3):
        raise ValueError("a camera that is not a rotation and a translation")
    if not np.isfinite(intrinsics).all() or min(intrinsics[0, 0], intrinsics[1, 1]) <= 0:
        raise ValueError("a camera without a focal length")
    width, height = (int(side) for side in found["size"])
    if not (1 <= width <= 32768 and 1 <= height <= 32768):
        raise ValueError(f"a camera of {width} x {height} pixels")
    time = float(found["time"])
    if not 0 <= time <= 1:
        raise ValueError(f"a camera at the time {time}")
    return TimedCamera(Camera(motion, intrinsics, width, height), time)


def _corner(found: Sequence[float] | None) -> tuple[float, float, float] | None:
    if found is None:
        return None
    x, y, z = (float(value) for value in found)
    if not np.isfinite([x, y, z]).all():
        raise ValueError("a corner that is not finite")
    return x, y, z


def _positive(value: Any, name: str) -> float:
    number = float(value)
    if not 0 < number <= 1000:
        raise ValueError(f"{name} must be above 0 and at most 1000, got {number}")
    return number


__all__ = ["MOST_CAMERAS", "SceneFacts", "TimedCamera", "facts_of"]
