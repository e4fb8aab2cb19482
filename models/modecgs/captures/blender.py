"""D-NeRF's layout of rendered scenes: `transforms_train.json` and `transforms_test.json`, camera-to-world with OpenGL axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from visionzoo.errors import InputError
from visionzoo.io.extensions import IMAGES
from visionzoo.io.image import image_size

from .capture import Camera, Capture, Points, View
from .json_files import read_json
from .points import read_points

POINTS = ("fused.ply", "points3d.ply", "points3D.ply")
RANDOM_POINTS = 2000
HALF_SIDE = 1.3
"""Without a point cloud, training starts from this many random points in a cube of this half side, as published for D-NeRF."""
_AXES = np.diag([1.0, -1.0, -1.0, 1.0])


def is_blender(folder: Path) -> bool:
    return (folder / "transforms_train.json").is_file()


def read_blender(folder: Path) -> Capture:
    """A scene of D-NeRF, or another one rendered in its layout. Transparent images are laid on white.

    Frames without a time are spread evenly. The angle of view is that of each frame or file (`fl_x` or `camera_angle_x`).

    Raises:
        InputError: a file is missing or damaged.
    """
    train = _views(folder, "train")
    test = _views(folder, "test") if (folder / "transforms_test.json").is_file() else ()
    notes = []
    points = next((read_points(folder / name) for name in POINTS if (folder / name).is_file()), None)
    if points is None:
        points = _random()
        notes.append(f"there is no point cloud: {RANDOM_POINTS} random points are used instead")
    return Capture(folder, "blender", train, test, points, tuple(notes))


def _views(folder: Path, split: str) -> tuple[View, ...]:
    path = folder / f"transforms_{split}.json"
    entries = read_json(path, "frames")
    frames = entries["frames"]
    if not isinstance(frames, list):
        raise InputError(f"{path}: the entry 'frames' is not a list")
    views = []
    for i, frame in enumerate(frames):
        try:
            image = _image(folder, str(frame["file_path"]))
            width, height = image_size(image)
            camera_to_world = np.array(frame["transform_matrix"], np.float64).reshape(4, 4)
            time = float(frame.get("time", i / max(1, len(frames) - 1)))
            intrinsics = _intrinsics(image, {**entries, **frame}, width, height)
            motion = np.linalg.inv(camera_to_world @ _AXES)
            if views and not {"w", "fl_x", "camera_angle_x"} & {*frame}:
                views[0].camera.for_image(image)  # all images of a file have one angle of view
        except (KeyError, TypeError, ValueError, np.linalg.LinAlgError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: frame {i} is incomplete or malformed ({error})") from error
        views.append(View(f"{split}_{image.stem}", image, Camera(motion, intrinsics, width, height), time))
    return tuple(views)


def _intrinsics(image: Path, entries: dict[str, object], width: int, height: int) -> np.ndarray:
    def number(name: str, default: float) -> float:
        value = entries.get(name, default)
        return float(value)  # pyright: ignore[reportArgumentType]

    across, down = number("w", width), number("h", height)
    if not abs(width * down - height * across) <= max(width, height, across, down):
        raise InputError(
            f"{image}: is {width} x {height}, but its camera has {across:g} x {down:g}; use this camera's image"
        )
    if "fl_x" in entries:
        fx = number("fl_x", 0)
    else:
        fx = 0.5 * across / np.tan(0.5 * number("camera_angle_x", float("nan")))
    if not (np.isfinite(fx) and fx > 0):
        raise ValueError("no camera_angle_x and no fl_x")
    fy = number("fl_y", fx)
    matrix = np.array([[fx, 0, number("cx", across / 2)], [0, fy, number("cy", down / 2)], [0, 0, 1]], np.float64)
    return np.diag([width / across, height / down, 1.0]) @ matrix


def _image(folder: Path, name: str) -> Path:
    """The file of a frame, whose name may lack its extension."""
    path = folder / name
    if path.suffix.lower() in IMAGES and path.is_file():
        return path
    for suffix in (".png", ".jpg", ".jpeg"):
        candidate = path.with_name(path.name + suffix)
        if candidate.is_file():
            return candidate
    raise InputError(f"{path}: no such image; the data set is incomplete")


def _random() -> Points:
    draw = np.random.default_rng(0)
    return Points(draw.uniform(-HALF_SIDE, HALF_SIDE, (RANDOM_POINTS, 3)), draw.random((RANDOM_POINTS, 3)))
