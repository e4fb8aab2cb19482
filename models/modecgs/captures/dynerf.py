"""DyNeRF's layout (Plenoptic video): `poses_bounds.npy` and one folder of frames per synchronised camera, `cam00/images/0000.png`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from visionzoo.errors import InputError
from visionzoo.io.head import read_head
from visionzoo.io.image import list_images

from .capture import Camera, Capture, View
from .points import read_points

POINTS = ("points3D_downsample2.ply", "points3D_downsample.ply", "points3D.ply")


def is_dynerf(folder: Path) -> bool:
    return (folder / "poses_bounds.npy").is_file()


def read_dynerf(folder: Path, *, test_camera: int = 0) -> Capture:
    """A scene of several fixed cameras; the frames of one camera are the test views, those of the others the training views.

    Raises:
        InputError: a file is missing or damaged, or cameras and folders do not match.
    """
    poses = _poses(folder / "poses_bounds.npy")
    folders = sorted(path for path in folder.glob("cam*") if path.is_dir())
    if not folders and sorted(folder.glob("cam*.mp4")):
        raise InputError(
            f"{folder}: the videos have to be split into frames first, as cam00/images/0000.png, for example with "
            "ffmpeg -i cam00.mp4 -start_number 0 cam00/images/%04d.png"
        )
    if len(folders) != len(poses):
        raise InputError(
            f"{folder}: poses_bounds.npy has {len(poses)} cameras, but there are {len(folders)} folders cam*"
        )
    frames = [list_images(place / "images" if (place / "images").is_dir() else place) for place in folders]
    for place, files in zip(folders, frames, strict=True):
        if len(files) != len(frames[0]):
            raise InputError(
                f"{place}: has {len(files)} frames, but {folders[0].name} has {len(frames[0])}; synchronised cameras have one "
                "frame each for every time"
            )
    train: list[View] = []
    test: list[View] = []
    for i, (pose, place, files) in enumerate(zip(poses, folders, frames, strict=True)):
        camera = _camera(pose)
        views = [
            View(f"{place.name}_{k:04d}", path, camera.for_image(path), k / len(files)) for k, path in enumerate(files)
        ]
        (test if i == test_camera else train).extend(views)
    cloud = next((folder / name for name in POINTS if (folder / name).is_file()), None)
    if cloud is None:
        raise InputError(
            f"{folder}: has no point cloud (looked for {', '.join(POINTS)}); make one with COLMAP from one time"
        )
    return Capture(folder, "dynerf", tuple(train), tuple(test), read_points(cloud))


def _poses(path: Path) -> np.ndarray:
    """(cameras, 3, 5): rotation with axes (down, right, backwards), position, and (height, width, focal length)."""
    read_head(path, "the poses of DyNeRF")
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as an array ({error}); copy it again") from error
    if array.ndim != 2 or array.shape[1] != 17:
        raise InputError(f"{path}: must be an array (cameras, 17), got {array.shape}")
    poses = array[:, :15].reshape(-1, 3, 5).astype(np.float64)
    for k, pose in enumerate(poses):
        if not np.isfinite(pose).all() or not (pose[:, 4] >= 1).all():
            raise InputError(
                f"{path}: the pose, the size or the focal length of camera {k} is no number above 0; copy it again"
            )
    return poses


def _camera(pose: np.ndarray) -> Camera:
    down, right, back, centre, (height, width, focal) = pose.T
    rotation = np.stack([right, down, -back])  # rows: where the camera's x, y and z point in the world
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation, -rotation @ centre
    intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Camera(motion, intrinsics, int(width), int(height))
