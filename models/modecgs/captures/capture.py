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
from visionzoo.io.image import image_size, load_image

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

    def for_image(self, path: Path) -> Camera:
        """The same camera for the size of an image, or a mask, file. Raises `InputError` if that has another shape or is missing."""
        width, height = image_size(path)
        self._check_shape(path, width, height)
        return self.resized(width, height)

    def _check_shape(self, path: Path, width: int, height: int) -> None:
        if abs(width * self.height - height * self.width) > max(self.width, self.height, width, height):
            raise InputError(
                f"{path}: is {width} x {height}, but its camera has {self.width} x {self.height}; use the image or "
                "mask that belongs to this camera"
            )

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
    camera._check_shape(path, width, height)
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
            f"in {triple(low)} to {triple(high)}"
        )


def _smaller(view: View, max_side: int) -> View:
    width, height = view.camera.width, view.camera.height
    scale = max_side / max(width, height)
    if scale >= 1:
        return view
    return replace(view, camera=view.camera.resized(max(1, round(width * scale)), max(1, round(height * scale))))


def triple(values: Sequence[float] | Array) -> str:
    return "(" + ", ".join(f"{value:.3g}" for value in values) + ")"
