"""Checks whether a scene can be reconstructed from what was read: points, poses, times, masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from visionzoo.errors import InputError

from .capture import Array, Camera, Capture, Points, View, triple

MOST_STRAY = 0.9
"""Share of the points that a camera must miss before its pose is suspected."""
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


def checked(scene: Capture) -> Capture:
    """The scene without points that are not finite or lie absurdly far away, if it can be reconstructed.

    Raises:
        InputError: fewer than two training views, an image that is listed twice, no points, times outside [0, 1], cameras that are
            not rigid or have no focal length, masks of another shape than their images, or cameras that see almost none of the
            points; the message states the extents, and the convention that the poses seem to follow.
    """
    if not scene.train:
        raise InputError(f"{scene.folder}: there is no training view; check that the images belong to the cameras")
    for view in (*scene.train, *scene.test):
        _check_view(scene, view)
    if len(scene.train) == 1:
        raise InputError(f"{scene.folder}: there is only one training view; a scene needs views from several places")
    image, count = Counter(view.image for view in scene.train).most_common(1)[0]
    if count > 1:
        raise InputError(f"{scene.folder}: lists {image.name} {count} times; list every training image once")
    scene = replace(scene, points=_near(scene), notes=(*scene.notes, *_about_times(scene.train)))
    _check_poses(scene)
    return scene


def _check_view(scene: Capture, view: View) -> None:
    motion, intrinsics = view.camera.world_to_camera, view.camera.intrinsics
    rotation = motion[:3, :3]
    if not np.isfinite(motion).all() or not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3):
        raise InputError(
            f"{scene.folder}: the camera of {view.name} is not a rotation and a translation; check its pose"
        )
    focal = intrinsics[[0, 1], [0, 1]]
    if not np.isfinite(intrinsics).all() or not (focal > 0).all():
        raise InputError(
            f"{scene.folder}: the camera of {view.name} has the focal length {triple(focal)} and the principal point "
            f"{triple(intrinsics[:2, 2])}; all must be finite, and focal lengths above 0"
        )
    if not 0 <= view.time <= 1:
        raise InputError(f"{scene.folder}: the time of {view.name} is {view.time:g}; times must be in [0, 1]")
    if view.mask is not None:
        view.camera.for_image(view.mask)


def _about_times(views: Sequence[View]) -> list[str]:
    """What is unusual about the times of training views: they are all the same, or two views differ in their image only."""
    if len({view.time for view in views}) == 1:
        return [f"all training views have the time {views[0].time:g}: nothing can be seen to move"]
    seen: dict[tuple[float, bytes], str] = {}
    for view in views:
        key = view.time, view.camera.world_to_camera.tobytes()
        if key in seen:
            return [f"the training views {seen[key]} and {view.name} have the same time and the same camera"]
        seen[key] = view.name
    return []


def _near(scene: Capture) -> Points:
    """The points that are finite and at most a hundred times as far from the median as the usual (90th percentile) point."""
    positions = scene.points.positions
    finite = np.all(np.isfinite(positions), axis=1)
    if not finite.any():
        raise InputError(
            f"{scene.folder}: there are no points to start from; run COLMAP on the images, or add a point cloud as "
            f"{'fused.ply' if scene.layout == 'blender' else 'points3D_downsample2.ply'}"
        )
    middle = np.median(positions[finite], axis=0)
    distance = np.linalg.norm(np.where(finite[:, None], positions, np.inf) - middle, axis=1)
    keep = finite & (distance <= 100 * max(float(np.percentile(distance[finite], 90)), 1e-9))
    return Points(positions[keep], scene.points.colours[keep])


def _check_poses(scene: Capture) -> None:
    step = max(1, len(scene.train) // 16)
    cameras = [view.camera for view in scene.train[::step]]
    positions = scene.points.positions[:: max(1, len(scene.points) // 5000)]
    if _seen(cameras, positions) > 1 - MOST_STRAY:
        return
    suspected = {
        "OpenGL axes (y up, looking along -z)": [
            replace(c, world_to_camera=_FLIP @ c.world_to_camera) for c in cameras
        ],
        "camera-to-world instead of world-to-camera": [
            replace(c, world_to_camera=np.linalg.inv(c.world_to_camera)) for c in cameras
        ],
        "camera-to-world with OpenGL axes": [
            replace(c, world_to_camera=np.linalg.inv(c.world_to_camera @ _FLIP)) for c in cameras
        ],
    }
    best = max(suspected, key=lambda name: _seen(suspected[name], positions))
    hint = f"; the poses look like {best}" if _seen(suspected[best], positions) > 0.5 else ""
    low, high = scene.box
    centres = np.stack([camera.centre for camera in cameras])
    raise InputError(
        f"{scene.folder}: the cameras see almost none of the points. Points lie in {triple(low)} to {triple(high)}, cameras in "
        f"{triple(centres.min(0))} to {triple(centres.max(0))}{hint}"
    )


def _seen(cameras: Sequence[Camera], positions: Array) -> float:
    """Mean share of the points that fall into the images."""
    shares = []
    for camera in cameras:
        pixels, _ = camera.project(positions)
        with np.errstate(invalid="ignore"):
            inside = np.all(pixels >= 0, axis=1) & (pixels[:, 0] <= camera.width) & (pixels[:, 1] <= camera.height)
        shares.append(np.mean(inside))
    return float(np.mean(shares))
