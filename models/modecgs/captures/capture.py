"""What a reconstruction starts from: images with cameras and times, split into training and test views, and a first point cloud.

Conventions: right-handed world; a camera looks along +z with x to the right and y down (OpenCV, COLMAP); pixel centres lie at
half-integers, so a principal point in the middle of an image of width W is W / 2; times are in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visionzoo.errors import InputError
from visionzoo.io.image import load_image

from ..anchors import camera_extent

Pixels = NDArray[np.uint8]
Array = NDArray[np.floating]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
        world_to_camera: (4, 4), a rigid motion.
        intrinsics: (3, 3) in pixels, [[fx, skew, cx], [0, fy, cy], [0, 0, 1]].
        width, height: size of the image in pixels.
    """

    world_to_camera: Array
    intrinsics: Array
    width: int
    height: int

    @property
    def centre(self) -> Array:
        """(3,) where the camera is."""
        rotation, translation = self.world_to_camera[:3, :3], self.world_to_camera[:3, 3]
        return -rotation.T @ translation

    def resized(self, width: int, height: int) -> Camera:
        """The same camera for an image of another size."""
        across, down = width / self.width, height / self.height
        return replace(self, intrinsics=np.diag([across, down, 1.0]) @ self.intrinsics, width=width, height=height)

    def project(self, points: Array) -> tuple[Array, Array]:
        """Points (N, 3) as pixels (N, 2) and depths (N,); pixels of points that are not in front of the camera are NaN."""
        seen = points @ self.world_to_camera[:3, :3].T + self.world_to_camera[:3, 3]
        depths = seen[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            pixels = (seen @ self.intrinsics.T)[:, :2] / np.where(depths > 0, depths, np.nan)[:, None]
        return pixels, depths


@dataclass(frozen=True)
class View:
    """One image of a scene, which is read when it is needed.

    Attributes:
        name: unique in the scene; results are named after it.
        image: the file.
        camera: camera for the size of `pixels`.
        time: in [0, 1].
        mask: file of the same view; where it is white, the view counts (in training) or is measured (in evaluation).
    """

    name: str
    image: Path
    camera: Camera
    time: float
    mask: Path | None = None

    def pixels(self) -> Pixels:
        """The image, (H, W, 3) uint8, resized to the camera's size. Raises `InputError` if it cannot be read."""
        return _fitted(load_image(self.image), self.camera, self.image, Image.Resampling.BOX)

    def weight(self) -> NDArray[np.bool_] | None:
        """The mask, (H, W), or None if the view has none. Raises `InputError` if it cannot be read or has another shape."""
        if self.mask is None:
            return None
        return _fitted(load_image(self.mask), self.camera, self.mask, Image.Resampling.NEAREST)[..., 0] > 127


def _fitted(pixels: Pixels, camera: Camera, path: Path, how: Image.Resampling) -> Pixels:
    height, width = pixels.shape[:2]
    if (width, height) == (camera.width, camera.height):
        return pixels
    if abs(width * camera.height - height * camera.width) > max(camera.width, camera.height, width, height):
        raise InputError(
            f"{path}: is {width} x {height}, but its camera has {camera.width} x {camera.height}; use the image or "
            "mask that belongs to this camera"
        )
    return np.array(Image.fromarray(pixels).resize((camera.width, camera.height), how))


@dataclass(frozen=True)
class Points:
    """A point cloud.

    Attributes:
        positions: (N, 3).
        colours: (N, 3) in [0, 1].
    """

    positions: Array
    colours: Array

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True)
class Capture:
    """Views to learn from, views to measure on, and the points to start from.

    Attributes:
        folder: where it was read from.
        layout: how the folder is laid out, e.g. "nerfies".
        train, test: views; none of them in both, unless the layout's published protocol says so.
        points: for the initial anchors.
        notes: messages for the user, e.g. that lens distortion is ignored.
    """

    folder: Path
    layout: str
    train: tuple[View, ...]
    test: tuple[View, ...]
    points: Points
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def box(self) -> tuple[Array, Array]:
        """Lowest and highest corner of the point cloud, (3,) each."""
        return self.points.positions.min(0), self.points.positions.max(0)

    @cached_property
    def extent(self) -> float:
        """1.1 times the largest distance of a training camera from the mean of all of them, the unit of learning rates."""
        return camera_extent(np.stack([view.camera.centre for view in self.train]))

    def resized(self, max_side: int) -> Capture:
        """The scene with images whose longer side has at most `max_side` pixels."""
        return replace(
            self,
            train=tuple(_smaller(v, max_side) for v in self.train),
            test=tuple(_smaller(v, max_side) for v in self.test),
        )

    def describe(self) -> str:
        """One line: counts, sizes, extents."""
        sizes = sorted({(view.camera.width, view.camera.height) for view in self.train})
        low, high = self.box
        size = f"{sizes[0][0]} x {sizes[0][1]}" if len(sizes) == 1 else f"{len(sizes)} sizes"
        return (
            f"{self.layout}: {len(self.train)} training and {len(self.test)} test views of {size}, {len(self.points):,} points "
            f"in {_triple(low)} to {_triple(high)}"
        )


def _smaller(view: View, max_side: int) -> View:
    width, height = view.camera.width, view.camera.height
    scale = max_side / max(width, height)
    if scale >= 1:
        return view
    return replace(view, camera=view.camera.resized(max(1, round(width * scale)), max(1, round(height * scale))))


def _triple(values: Sequence[float] | Array) -> str:
    return "(" + ", ".join(f"{value:.3g}" for value in values) + ")"


MOST_STRAY = 0.9
"""Share of the points that a camera must miss before its pose is suspected."""
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


def checked(scene: Capture) -> Capture:
    """The scene without points that are not finite or lie absurdly far away, if it can be reconstructed.

    Raises:
        InputError: no training views, no points, times outside [0, 1], cameras that are not rigid, or cameras that see almost
            none of the points; the message states the extents, and the convention that the poses seem to follow.
    """
    if not scene.train:
        raise InputError(f"{scene.folder}: there is no training view; check that the images belong to the cameras")
    views = (*scene.train, *scene.test)
    for view in views:
        motion = view.camera.world_to_camera
        rotation = motion[:3, :3]
        if not np.isfinite(motion).all() or not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3):
            raise InputError(
                f"{scene.folder}: the camera of {view.name} is not a rotation and a translation; check its pose"
            )
        if not 0 <= view.time <= 1:
            raise InputError(f"{scene.folder}: the time of {view.name} is {view.time:g}; times must be in [0, 1]")
    scene = replace(scene, points=_near(scene))
    _check_poses(scene)
    return scene


def _near(scene: Capture) -> Points:
    """The points that are finite and at most a hundred times as far from the median as the usual (90th percentile) point."""
    positions = scene.points.positions
    finite = np.all(np.isfinite(positions), axis=1)
    if not finite.any():
        raise InputError(
            f"{scene.folder}: there are no points to start from; run COLMAP on the images, or add a point cloud as "
            "points3D_downsample2.ply"
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
        f"{scene.folder}: the cameras see almost none of the points. Points lie in {_triple(low)} to {_triple(high)}, cameras in "
        f"{_triple(centres.min(0))} to {_triple(centres.max(0))}{hint}"
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
