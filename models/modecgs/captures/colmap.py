"""Scenes from COLMAP models of any version: `sparse/` or `sparse/0/` next to `images/`.

Nvidia's monocular scenes have this layout in their folder `dense/`. A model has no times: they follow from the order of the images,
or are in the file `video.json` that `from_video.py` writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from visionzoo.errors import InputError

from .capture import Camera, Capture, View
from .colmap_files import PINHOLES, Model, Pose, read_model
from .json_files import read_json

Protocol = Literal["held-out", "released"]
RECORD = "video.json"
"""What `from_video.py` writes about a scene, next to its images."""
_EVERY = 8


def find_model(folder: Path) -> Path | None:
    """The folder with the files of a COLMAP model, or None."""
    for parent in (folder, folder / "dense"):
        for place in (parent / "sparse" / "0", parent / "sparse"):
            if any((place / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt")):
                return place
    return None


def read_colmap(folder: Path, *, protocol: Protocol = "held-out", masks: str | Path | None = None) -> Capture:
    """A scene from a COLMAP model.

    Args:
        folder: with `sparse/` and `images/`, or with `dense/` that holds both.
        protocol: "held-out": times follow the images' names, and every eighth frame is a test view. "released": as in MoDec-GS'
            reader for Nvidia's scenes, times follow the order in the file of images and are k / N, and every eighth frame is
            a test view and a training view too.
        masks: a folder of masks named as the images are, white where a pixel counts.

    Raises:
        InputError: no model, a damaged model, missing images or masks, or cameras that are not pinhole cameras.
    """
    place = find_model(folder)
    if place is None:
        raise InputError(
            f"{folder}: has no COLMAP model (looked for cameras.bin and cameras.txt in sparse/ and sparse/0/)"
        )
    model = read_model(place)
    _check(model, place)
    pictures = _pictures(place)
    released = protocol == "released"
    images = model.images if released else sorted(model.images, key=lambda image: image.name)
    length = len(images) if released else max(1, len(images) - 1)
    known = {} if released else _times(pictures.parent / RECORD, images)
    views = tuple(
        _view(model, image, pictures, known.get(image.name, k / length), masks) for k, image in enumerate(images)
    )
    test = views[::_EVERY] if len(views) > 1 else ()
    train = views if released or len(views) == 1 else tuple(view for k, view in enumerate(views) if k % _EVERY)
    notes = []
    if any(lens.is_distorted for lens in model.cameras.values()):
        notes.append("the cameras have lens distortion, which is ignored; undistort the images for sharper results")
    if released:
        notes.append("test views are training views too, as in the published protocol for this layout")
    return Capture(folder, "video" if known else "colmap", train, test, model.points, tuple(notes))


def _check(model: Model, place: Path) -> None:
    if not model.images:
        raise InputError(f"{place}: the COLMAP model has no images; run COLMAP's mapper on the frames")
    if not len(model.points):
        raise InputError(f"{place}: the COLMAP model has no points; triangulate it first")
    other = sorted({lens.model for lens in model.cameras.values()} - {*PINHOLES})
    if other:
        raise InputError(
            f"{place}: the camera model {other[0]} is not a pinhole camera; undistort the images first (colmap image_undistorter)"
        )


def _pictures(place: Path) -> Path:
    for parent in (place.parent, place.parent.parent):
        if (parent / "images").is_dir():
            return parent / "images"
    raise InputError(f"{place}: there is no folder images/ next to the COLMAP model; put its images there")


def _times(path: Path, images: Sequence[Pose]) -> dict[str, float]:
    """Name of an image -> its time, as `from_video.py` writes it; empty if there is no such file."""
    if not path.is_file():
        return {}
    times = read_json(path, "times")["times"]
    missing = [image.name for image in images if not isinstance(times, dict) or image.name not in times]
    if missing:
        raise InputError(f"{path}: has no time for {missing[0]}; make the scene from its video again")
    return {image.name: float(times[image.name]) for image in images}


def _view(model: Model, image: Pose, pictures: Path, time: float, masks: str | Path | None) -> View:
    path, lens = pictures / image.name, model.cameras[image.camera]
    camera = Camera(image.world_to_camera, lens.intrinsics(), lens.width, lens.height).for_image(path)
    mask = _mask(Path(masks), image.name) if masks else None
    return View(Path(image.name).with_suffix("").as_posix(), path, camera, time, mask)


def _mask(folder: Path, name: str) -> Path:
    """The mask of an image: its name, with .png appended (as COLMAP wants it), or with .png as its extension."""
    names = (f"{name}.png", name, str(Path(name).with_suffix(".png")))
    for candidate in names:
        if (folder / candidate).is_file():
            return folder / candidate
    raise InputError(f"{folder}: has no mask for {name}; name it {names[0]}")
