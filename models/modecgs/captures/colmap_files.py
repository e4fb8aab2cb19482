"""Files of COLMAP models, text and binary: cameras, images, points3D.

They are read here rather than by pycolmap, which keeps neither the order of the images (published readers take the frames' times from
it) nor, for some damaged files, the process alive. The rigs and frames of COLMAP 3.12 and newer are not needed: images hold poses.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from visionzoo.errors import InputError
from visionzoo.io.head import read_head

from .capture import Points

PARAMETERS = {
    "SIMPLE_PINHOLE": "f cx cy",
    "PINHOLE": "fx fy cx cy",
    "SIMPLE_RADIAL": "f cx cy k1",
    "RADIAL": "f cx cy k1 k2",
    "OPENCV": "fx fy cx cy k1 k2 p1 p2",
    "OPENCV_FISHEYE": "fx fy cx cy k1 k2 k3 k4",
    "FULL_OPENCV": "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6",
    "FOV": "fx fy cx cy omega",
    "SIMPLE_RADIAL_FISHEYE": "f cx cy k1",
    "RADIAL_FISHEYE": "f cx cy k1 k2",
    "THIN_PRISM_FISHEYE": "fx fy cx cy k1 k2 p1 p2 k3 k4 sx1 sy1",
    "RAD_TAN_THIN_PRISM_FISHEYE": "fx fy cx cy k0 k1 k2 k3 k4 k5 p0 p1 s0 s1 s2 s3",
    "SIMPLE_DIVISION": "f cx cy k1",
    "DIVISION": "fx fy cx cy k1",
    "SIMPLE_FISHEYE": "f cx cy",
    "FISHEYE": "fx fy cx cy",
    "EUCM": "fx fy cx cy alpha beta",
    "EQUIRECTANGULAR": "width height",
}
"""Camera models in the order of their numbers in binary files, with their parameters."""
PINHOLES = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
"""Pinhole cameras with a distortion, which may be small."""


@dataclass(frozen=True)
class Lens:
    """A camera of a COLMAP model: its model's name, the image's size, and the parameters by name."""

    model: str
    width: int
    height: int
    parameters: dict[str, float]

    @property
    def is_distorted(self) -> bool:
        return any(value for name, value in self.parameters.items() if name not in ("f", "fx", "fy", "cx", "cy"))

    def intrinsics(self) -> np.ndarray:
        """(3, 3), without the distortion."""
        p = self.parameters
        return np.array(
            [[p.get("f", p.get("fx")), 0, p["cx"]], [0, p.get("f", p.get("fy")), p["cy"]], [0, 0, 1]], float
        )


@dataclass(frozen=True)
class Pose:
    """An image of a COLMAP model.

    Attributes:
        name: path of the image below the folder of images.
        camera: number of its `Lens`.
        world_to_camera: (4, 4).
    """

    name: str
    camera: int
    world_to_camera: np.ndarray


@dataclass(frozen=True)
class Model:
    """A COLMAP model; images are in the order of the file."""

    cameras: dict[int, Lens]
    images: tuple[Pose, ...]
    points: Points


def read_model(folder: Path) -> Model:
    """The model in a folder; the binary files if both forms exist, as in COLMAP.

    Raises:
        InputError: a file is missing, truncated or damaged, or names a camera that is not there.
    """
    suffix = ".bin" if (folder / "cameras.bin").is_file() else ".txt"
    cameras_at, images_at, points_at = (folder / f"{name}{suffix}" for name in ("cameras", "images", "points3D"))
    for path in (cameras_at, images_at, points_at):
        read_head(path, "a file of a COLMAP model")
    if suffix == ".bin":
        model = Model(_cameras_bin(cameras_at), _images_bin(images_at), _points_bin(points_at))
    else:
        model = Model(_cameras_text(cameras_at), _images_text(images_at), _points_text(points_at))
    for image in model.images:
        if image.camera not in model.cameras:
            raise InputError(
                f"{images_at}: the image {image.name} has the camera {image.camera}, which {cameras_at.name} lacks"
            )
    return model


def _lens(path: Path, model: str, width: int, height: int, values: list[float]) -> Lens:
    names = PARAMETERS[model].split()
    if len(values) != len(names) or width <= 0 or height <= 0:
        raise InputError(
            f"{path}: is damaged (a camera {model} of {width} x {height} with {len(values)} parameters); copy it again"
        )
    return Lens(model, width, height, dict(zip(names, values, strict=True)))


def _pose(name: str, camera: int, quaternion: np.ndarray, translation: np.ndarray) -> Pose:
    length = float(np.linalg.norm(quaternion))
    w, x, y, z = quaternion / (length if length > 0 else np.nan)  # a pose that is not finite is refused later
    motion = np.eye(4)
    motion[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    motion[:3, 3] = translation
    return Pose(name, camera, motion)


# Binary


class _Bytes:
    """A file that is read value by value, little endian. Raises `InputError` where it ends early."""

    def __init__(self, path: Path):
        self.path, self.data, self.place = path, path.read_bytes(), 0

    def take(self, form: str) -> tuple:
        size = struct.calcsize("<" + form)
        if self.place + size > len(self.data):
            raise self.damaged("it is truncated")
        self.place += size
        return struct.unpack_from("<" + form, self.data, self.place - size)

    def text(self) -> str:
        end = self.data.find(b"\0", self.place)
        if end < 0:
            raise self.damaged("it is truncated")
        text = self.data[self.place : end].decode("utf-8", "surrogateescape")
        self.place = end + 1
        return text

    def skip(self, count: int) -> None:
        if self.place + count > len(self.data):
            raise self.damaged("it is truncated")
        self.place += count

    def end(self) -> None:
        if self.place != len(self.data):
            raise self.damaged(f"{len(self.data) - self.place} bytes are left at its end")

    def damaged(self, why: str) -> InputError:
        return InputError(f"{self.path}: cannot be read as a file of a COLMAP model ({why}); copy it again")


def _cameras_bin(path: Path) -> dict[int, Lens]:
    file, cameras, models = _Bytes(path), {}, list(PARAMETERS)
    for _ in range(file.take("Q")[0]):
        number, kind, width, height = file.take("iiQQ")
        if not 0 <= kind < len(models):
            raise file.damaged(f"camera model {kind} is unknown")
        values = file.take(f"{len(PARAMETERS[models[kind]].split())}d")
        cameras[number] = _lens(path, models[kind], width, height, list(values))
    file.end()
    return cameras


def _images_bin(path: Path) -> tuple[Pose, ...]:
    file, images = _Bytes(path), []
    for _ in range(file.take("Q")[0]):
        _, *pose, camera = file.take("i7di")
        name = file.text()
        file.skip(24 * file.take("Q")[0])  # x, y and number of the point that each keypoint shows
        images.append(_pose(name, camera, np.array(pose[:4]), np.array(pose[4:])))
    file.end()
    return tuple(images)


def _points_bin(path: Path) -> Points:
    file, rows = _Bytes(path), []
    for _ in range(file.take("Q")[0]):
        _, x, y, z, red, green, blue, _, track = file.take("Q3d3BdQ")
        file.skip(8 * track)
        rows.append((x, y, z, red, green, blue))
    file.end()
    return _cloud(rows)


# Text


def _lines(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    yield from (line.strip() for line in text.splitlines() if not line.startswith("#"))


def _broken(path: Path, line: str, error: Exception) -> InputError:
    return InputError(f"{path}: cannot be read as a file of a COLMAP model ({error} in {line[:60]!r}); copy it again")


def _cameras_text(path: Path) -> dict[int, Lens]:
    cameras = {}
    for line in filter(None, _lines(path)):
        try:
            number, model, width, height, *values = line.split()
            if model not in PARAMETERS:
                raise ValueError(f"unknown camera model {model}")
            cameras[int(number)] = _lens(path, model, int(width), int(height), [float(value) for value in values])
        except InputError:
            raise
        except ValueError as error:
            raise _broken(path, line, error) from error
    return cameras


def _images_text(path: Path) -> tuple[Pose, ...]:
    """Two lines per image; the second, with the keypoints, may be empty."""
    lines, images = list(_lines(path)), []
    while lines and not lines[0]:
        lines.pop(0)
    for line in lines[::2]:
        if not line:
            continue
        try:
            _, *pose, camera, name = line.split(maxsplit=9)
            values = np.array([float(value) for value in pose])
            images.append(_pose(name, int(camera), values[:4], values[4:7]))
        except ValueError as error:
            raise _broken(path, line, error) from error
    return tuple(images)


def _points_text(path: Path) -> Points:
    rows = []
    for line in filter(None, _lines(path)):
        try:
            _, x, y, z, red, green, blue, _error, *_ = line.split()
            rows.append((float(x), float(y), float(z), int(red), int(green), int(blue)))
        except ValueError as error:
            raise _broken(path, line, error) from error
    return _cloud(rows)


def _cloud(rows: list[tuple[float, float, float, int, int, int]]) -> Points:
    array = np.array(rows, np.float64).reshape(-1, 6)
    return Points(array[:, :3], array[:, 3:] / 255)
