"""The layout of Nerfies, which HyperNeRF and DyCheck (iPhone) use as well.

    scene.json metadata.json dataset.json camera/ID.json rgb/2x/ID.png points3D_downsample2.ply
    splits/{train,val}.json covisible/2x/val/ID.png                                                 DyCheck only

Cameras are world-to-camera rotations and positions; neither they nor the points are moved by the `scale` and `center` of
scene.json, as in 4DGaussians and MoDec-GS, where the point cloud belongs to the unscaled cameras.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from visionzoo.errors import InputError

from .capture import Camera, Capture, Points, View
from .json_files import read_json
from .points import read_points

POINTS = ("points3D_downsample2.ply", "points3D_downsample.ply", "points3D.ply", "points.npy")
"""Point clouds by preference. The first is COLMAP's fused cloud that the published code uses, the last the sparse one of Nerfies."""


def is_nerfies(folder: Path) -> bool:
    return (folder / "dataset.json").is_file()


def read_nerfies(folder: Path, *, downscale: int = 2) -> Capture:
    """A scene of HyperNeRF, Nerfies or DyCheck.

    Args:
        folder: with `dataset.json`.
        downscale: which of the folders rgb/1x, rgb/2x, … to read; the published protocol uses 2.

    Raises:
        InputError: a file is missing or damaged, or an entry does not fit the others.
    """
    metadata = read_json(folder / "metadata.json")
    train, test, others = _split(folder)
    times = {name: _entry(folder, metadata, name, "warp_id") for name in {*train, *test, *others}}
    last = max(1, *times.values())
    pictures = folder / "rgb" / f"{downscale}x"
    if not pictures.is_dir():
        there = sorted(path.name for path in (folder / "rgb").glob("*x"))
        raise InputError(f"{pictures}: no such folder; the folder has images in {', '.join(there) or 'no size'}")
    distorted: set[str] = set()

    def view(name: str, *, masks: Path | None = None) -> View:
        image = pictures / f"{name}.png"
        camera = _camera(folder / "camera" / f"{name}.json", image, distorted)
        mask = masks / f"{name}.png" if masks else None
        return View(name, image, camera, times[name] / last, mask if mask and mask.is_file() else None)

    covisible = folder / "covisible" / f"{downscale}x" / "val"
    scene = Capture(
        folder,
        "dycheck" if (folder / "splits").is_dir() else "nerfies",
        tuple(view(name) for name in train),
        tuple(view(name, masks=covisible) for name in test),
        _points(folder),
    )
    notes = []
    if distorted:
        notes.append(f"{len(distorted)} cameras have lens distortion, which is ignored, as in the published code")
    if covisible.is_dir() and any(v.mask is None for v in scene.test):
        notes.append(
            f"{sum(v.mask is None for v in scene.test)} of {len(scene.test)} test views have no covisibility mask"
        )
    return Capture(scene.folder, scene.layout, scene.train, scene.test, scene.points, tuple(notes))


def _split(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Names of the training images, the test images, and others whose times count for the range of times.

    They come from DyCheck's split files or the lists of dataset.json. Where the list of test images is empty, every fourth image
    is a training image and the one two after it a test image, as published."""
    splits = folder / "splits"
    if (splits / "train.json").is_file() and (splits / "val.json").is_file():
        train, test = (_names(splits / f"{n}.json", "frame_names") for n in ("train", "val"))
        return train, test, []
    dataset = read_json(folder / "dataset.json", "ids")
    if dataset.get("val_ids"):
        train_ids = "train_ids" if dataset.get("train_ids") else "ids"
        return _names(folder / "dataset.json", train_ids), _names(folder / "dataset.json", "val_ids"), []
    names = _names(folder / "dataset.json", "ids")
    train = names[::4]
    return train, names[2::4][: max(0, len(train) - 1)], names


def _names(path: Path, key: str) -> list[str]:
    names = read_json(path, key)[key]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: the entry {key!r} is not a list of names of images")
    return names


def _entry(folder: Path, metadata: dict[str, Any], name: str, key: str) -> int:
    try:
        return int(metadata[name][key])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / 'metadata.json'}: the entry {name!r} has no {key}") from error


def _camera(path: Path, image: Path, distorted: set[str]) -> Camera:
    entries = read_json(path, "orientation", "position", "focal_length", "principal_point", "image_size")
    try:
        rotation = np.array(entries["orientation"], np.float64).reshape(3, 3)
        position = np.array(entries["position"], np.float64).reshape(3)
        focal, ratio = float(entries["focal_length"]), float(entries.get("pixel_aspect_ratio", 1.0))
        (cx, cy), (width, height) = entries["principal_point"], entries["image_size"]
        skew = float(entries.get("skew", 0.0))
        lens = [
            *entries.get("radial_distortion", ()),
            *entries.get("tangential", entries.get("tangential_distortion", ())),
        ]
        intrinsics = np.array([[focal, skew, cx], [0, focal * ratio, cy], [0, 0, 1]], np.float64)
        size = int(width), int(height)
        if min(size) < 1:
            raise ValueError(f"image_size is {size}")
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: is not a Nerfies camera: an entry is missing or malformed ({error})") from error
    if any(lens):
        distorted.add(path.stem)
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation, -rotation @ position
    return Camera(motion, intrinsics, *size).for_image(image)


def _points(folder: Path) -> Points:
    for name in POINTS:
        if (folder / name).is_file():
            return read_points(folder / name)
    raise InputError(
        f"{folder}: has no point cloud (looked for {', '.join(POINTS)}); make one with COLMAP from its images"
    )
