"""Writes a scene in the layouts of published data sets, so that their tools can read it, and so that every reader is tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from visionzoo.io.files import atomic_path, make_folder, write_json, write_text

from .capture import Camera, Points
from .points import write_points

_AXES = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True)
class CapturedImage:
    """An image with its camera and time, in memory.

    Attributes:
        name: file name without extension.
        pixels: (H, W, 3) uint8.
        mask: (H, W) bool, or None.
    """

    name: str
    pixels: np.ndarray
    camera: Camera
    time: float
    mask: np.ndarray | None = None


def write_nerfies(
    folder: str | Path,
    train: Sequence[CapturedImage],
    test: Sequence[CapturedImage],
    points: Points,
    *,
    dycheck: bool = False,
) -> Path:
    """The layout of HyperNeRF, or of DyCheck with its split files and covisibility masks. Images are those of `rgb/2x`."""
    folder = make_folder(folder)
    times = sorted({picture.time for picture in (*train, *test)})
    pictures = [*train, *test]
    make_folder(folder / "camera")
    for picture in pictures:
        _save(folder / "rgb" / "2x" / f"{picture.name}.png", picture.pixels)
        full = picture.camera.resized(2 * picture.camera.width, 2 * picture.camera.height)
        write_json(folder / "camera" / f"{picture.name}.json", _nerfies_camera(full))
        if dycheck and picture.mask is not None:
            _save(folder / "covisible" / "2x" / "val" / f"{picture.name}.png", picture.mask.astype(np.uint8) * 255)
    names = [picture.name for picture in pictures]
    held = {picture.name for picture in test}
    write_json(
        folder / "metadata.json",
        {
            p.name: {"warp_id": times.index(p.time), "appearance_id": i, "camera_id": int(p.name in held)}
            for i, p in enumerate(pictures)
        },
    )
    write_json(
        folder / "dataset.json",
        {
            "count": len(names),
            "num_exemplars": len(train),
            "ids": names,
            "train_ids": [p.name for p in train],
            "val_ids": [p.name for p in test],
        },
    )
    write_json(folder / "scene.json", {"scale": 1.0, "center": [0.0, 0.0, 0.0], "near": 0.1, "far": 20.0})
    if dycheck:
        make_folder(folder / "splits")
        for split, part in (("train", train), ("val", test)):
            frames = [picture.name for picture in part]
            numbers = [times.index(picture.time) for picture in part]
            entries = {"frame_names": frames, "camera_ids": [int(split == "val")] * len(part), "time_ids": numbers}
            write_json(folder / "splits" / f"{split}.json", entries)
    write_points(folder / "points3D_downsample2.ply", points)
    return folder


def write_blender(
    folder: str | Path, train: Sequence[CapturedImage], test: Sequence[CapturedImage], points: Points | None = None
) -> Path:
    """D-NeRF's layout. All cameras must have the first one's angle of view and the principal point in the middle."""
    folder = make_folder(folder)
    for split, part in (("train", train), ("test", test)):
        frames = []
        for picture in part:
            _save(folder / split / f"{picture.name}.png", picture.pixels)
            matrix = np.linalg.inv(picture.camera.world_to_camera) @ _AXES
            frames.append(
                {"file_path": f"./{split}/{picture.name}", "time": picture.time, "transform_matrix": matrix.tolist()}
            )
        camera = train[0].camera
        angle = float(2 * np.arctan(0.5 * camera.width / camera.intrinsics[0, 0]))
        write_json(folder / f"transforms_{split}.json", {"camera_angle_x": angle, "frames": frames})
    if points is not None:
        write_points(folder / "fused.ply", points)
    return folder


def write_colmap(folder: str | Path, pictures: Sequence[CapturedImage], points: Points) -> Path:
    """A COLMAP model as text in `sparse/0`, and its images. One pinhole camera per image."""
    folder = make_folder(folder)
    model = make_folder(folder / "sparse" / "0")
    cameras, images = [], []
    for number, picture in enumerate(sorted(pictures, key=lambda picture: picture.name), 1):
        _save(folder / "images" / f"{picture.name}.png", picture.pixels)
        camera = picture.camera
        k = camera.intrinsics
        cameras.append(f"{number} PINHOLE {camera.width} {camera.height} {k[0, 0]} {k[1, 1]} {k[0, 2]} {k[1, 2]}")
        pose = [*_quaternion(camera.world_to_camera[:3, :3]), *camera.world_to_camera[:3, 3]]
        images += [f"{number} {' '.join(map(repr, map(float, pose)))} {number} {picture.name}.png", ""]
    colours = np.rint(points.colours * 255).astype(int)
    cloud = [
        f"{i} {' '.join(map(repr, map(float, position)))} {colour[0]} {colour[1]} {colour[2]} 0"
        for i, (position, colour) in enumerate(zip(points.positions, colours, strict=True), 1)
    ]
    for name, lines in (("cameras", cameras), ("images", images), ("points3D", cloud)):
        write_text(model / f"{name}.txt", "\n".join(lines) + "\n")
    return folder


def write_dynerf(folder: str | Path, cameras: Sequence[Sequence[CapturedImage]], points: Points) -> Path:
    """DyNeRF's layout: the frames of several fixed cameras, and `poses_bounds.npy`."""
    folder = make_folder(folder)
    rows = []
    for number, pictures in enumerate(cameras):
        for k, picture in enumerate(pictures):
            _save(folder / f"cam{number:02d}" / "images" / f"{k:04d}.png", picture.pixels)
        camera = pictures[0].camera
        right, down, forward = camera.world_to_camera[:3, :3]
        size = np.array([camera.height, camera.width, camera.intrinsics[0, 0]])
        pose = np.stack([down, right, -forward, camera.centre, size], axis=1)
        rows.append([*pose.ravel(), 0.1, 20.0])
    with atomic_path(folder / "poses_bounds.npy") as temporary, temporary.open("wb") as file:
        np.save(file, np.array(rows))
    write_points(folder / "points3D_downsample2.ply", points)
    return folder


def _nerfies_camera(camera: Camera) -> dict[str, object]:
    k = camera.intrinsics
    return {
        "orientation": camera.world_to_camera[:3, :3].tolist(),
        "position": camera.centre.tolist(),
        "focal_length": float(k[0, 0]),
        "principal_point": [float(k[0, 2]), float(k[1, 2])],
        "skew": float(k[0, 1]),
        "pixel_aspect_ratio": float(k[1, 1] / k[0, 0]),
        "radial_distortion": [0.0, 0.0, 0.0],
        "tangential_distortion": [0.0, 0.0],
        "image_size": [camera.width, camera.height],
    }


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """A rotation matrix as a quaternion (4,), w first: an eigenvector of a symmetric matrix (Bar-Itzhack, 2000)."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    matrix = np.array(
        [
            [xx - yy - zz, 0, 0, 0],
            [yx + xy, yy - xx - zz, 0, 0],
            [zx + xz, zy + yz, zz - xx - yy, 0],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    x, y, z, w = np.linalg.eigh(matrix)[1][:, -1]
    return np.array([w, x, y, z]) * (1 if w >= 0 else -1)


def _save(path: Path, pixels: np.ndarray) -> None:
    make_folder(path.parent)
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, "PNG")
