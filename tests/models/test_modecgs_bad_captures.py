"""Scenes that are damaged, incomplete or inconsistent give one line that names what is wrong, in every layout."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionzoo.errors import InputError
from visionzoo.models.modecgs.captures.capture import Points
from visionzoo.models.modecgs.captures.points import write_points
from visionzoo.models.modecgs.captures.reading import read_capture
from visionzoo.models.modecgs.captures.writing import (
    CapturedImage,
    write_blender,
    write_colmap,
    write_dynerf,
    write_nerfies,
)

from .test_modecgs_captures import HEIGHT, POINTS, TEST, TRAIN, WIDTH, as_binary, as_dense, camera, pictures

LAYOUTS = ("nerfies", "dycheck", "colmap text", "colmap binary", "nvidia", "dnerf", "dynerf")
ONE_CLOUD = {"nerfies": "points3D_downsample2.ply", "dnerf": "fused.ply", "dynerf": "points3D_downsample2.ply"}


def write(layout: str, folder: Path, train: Sequence[CapturedImage] = TRAIN, points: Points = POINTS) -> Path:
    """A scene; `train` are its training views, in DyNeRF the frames of one of two cameras."""
    if layout in ("nerfies", "dycheck"):
        return write_nerfies(folder, train, TEST, points, dycheck=layout == "dycheck")
    if layout == "dnerf":
        return write_blender(folder, train, TEST, points)
    if layout == "dynerf":
        still = [replace(p, camera=train[0].camera) for p in train]
        return write_dynerf(folder, [[replace(p, camera=camera(0.2)) for p in train], still], points)
    write_colmap(folder, train, points)
    return {"colmap text": lambda f: f, "colmap binary": as_binary, "nvidia": as_dense}[layout](folder)


def error_of(folder: Path, **options: object) -> str:
    with pytest.raises(InputError) as error:
        read_capture(folder, **options)  # pyright: ignore[reportArgumentType]
    text = str(error.value)
    assert "\n" not in text
    assert str(folder) in text
    return text


def image_of(folder: Path, number: int) -> Path:
    """The file of a training view; in DyNeRF, of its camera."""
    found = sorted(folder.rglob(f"train_{number:03d}.png")) or sorted(folder.glob(f"cam01/images/{number:04d}.png"))
    return found[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_points(tmp_path: Path, layout: str):
    nothing = Points(np.zeros((0, 3)), np.zeros((0, 3)))
    text = error_of(write(layout, tmp_path / "scene", points=nothing))
    assert "there are no points to start from" in text or "the COLMAP model has no points; triangulate it first" in text


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "colmap binary"])
def test_points_at_infinity_are_dropped(tmp_path: Path, layout: str):
    """(pycolmap does not read them, so that there is no binary file of them.)"""
    stray = np.concatenate([POINTS.positions, [[np.inf, 0, 0], [0, -np.inf, 0], [np.nan, 0, 0], [1e7, 0, 0]]])
    scene = read_capture(write(layout, tmp_path / "scene", points=Points(stray, np.zeros_like(stray))))
    assert len(scene.points) == len(POINTS)
    text = error_of(write(layout, tmp_path / "none", points=Points(np.full((3, 3), np.inf), np.zeros((3, 3)))))
    assert "there are no points to start from" in text


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_wrong_pose_convention_is_suspected(tmp_path: Path, layout: str):
    flip = np.diag([1, -1, -1, 1.0])
    wrong = [replace(p, camera=replace(p.camera, world_to_camera=flip @ p.camera.world_to_camera)) for p in TRAIN]
    assert "the poses look like OpenGL axes" in error_of(write(layout, tmp_path / "scene", wrong))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_missing_frame(tmp_path: Path, layout: str):
    folder = write(layout, tmp_path / "scene")
    image_of(folder, 3).unlink()
    expected = "has 8 frames, but cam00 has 9" if layout == "dynerf" else "no such"
    assert expected in error_of(folder)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_image_of_another_shape(tmp_path: Path, layout: str):
    folder = write(layout, tmp_path / "scene")
    Image.new("RGB", (WIDTH, 2 * HEIGHT)).save(image_of(folder, 3))
    text = error_of(folder)
    assert f"is {WIDTH} x {2 * HEIGHT}, but its camera has" in text
    assert image_of(folder, 3).name in text


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_of_several_sizes_have_their_own_cameras(tmp_path: Path, layout: str):
    folder = write(layout, tmp_path / "scene")
    Image.new("RGB", (2 * WIDTH, 2 * HEIGHT)).save(image_of(folder, 3))
    cameras = [view.camera for view in read_capture(folder).train]
    assert {(c.width, round(c.intrinsics[0, 0], 4)) for c in cameras} == {(WIDTH, 18.0), (2 * WIDTH, 36.0)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_view(tmp_path: Path, layout: str):
    assert "there is only one training view" in error_of(write(layout, tmp_path / "scene", TRAIN[:1]))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_pose_that_is_not_finite(tmp_path: Path, layout: str, row: int):
    motion = TRAIN[2].camera.world_to_camera.copy()
    motion[row, 3] = np.nan
    bad = [replace(p, camera=replace(p.camera, world_to_camera=motion)) if p is TRAIN[2] else p for p in TRAIN]
    if layout == "dynerf":
        folder = write(layout, tmp_path / "scene")
        poses = np.load(folder / "poses_bounds.npy")
        poses[1, 5 * row + 3] = np.nan
        np.save(folder / "poses_bounds.npy", poses)
        assert "of camera 1 is no number above 0" in error_of(folder)
        return
    if layout == "colmap binary":  # number of images, number of the first one, quaternion, translation
        folder = write(layout, tmp_path / "scene")
        file = folder / "sparse" / "0" / "images.bin"
        data = bytearray(file.read_bytes())
        struct.pack_into("<d", data, 8 + 4 + 8 * (4 + row), np.nan)
        file.write_bytes(data)
    else:
        folder = write(layout, tmp_path / "scene", bad)
    text = error_of(folder)
    assert "is not a rotation and a translation; check its pose" in text or "is malformed" in text


def change(folder: Path, name: str, edit: Callable[[dict], object]) -> None:
    data = json.loads((folder / name).read_text())
    edit(data)
    (folder / name).write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("transforms_train.json", lambda d: d["frames"][2].update(transform_matrix=[[0.0] * 4] * 4), "frame 2 is inc"),
        ("transforms_train.json", lambda d: d["frames"][2].update(transform_matrix=[[1, 2], [3, 4]]), "frame 2 is inc"),
        ("transforms_train.json", lambda d: d.update(frames={"0": {}}), "the entry 'frames' is not a list"),
        ("transforms_train.json", lambda d: d.update(frames=[]), "there is no training view"),
        ("transforms_train.json", lambda d: d.update(camera_angle_x=None), "frame 0 is incomplete or malformed"),
        ("transforms_train.json", lambda d: d.update(fl_x=18, cx=float("nan")), "all must be finite"),
        ("transforms_train.json", lambda d: d.update(fl_x=18, fl_y=-18), "focal lengths above 0"),
        ("transforms_train.json", lambda d: d.update(fl_x=18, w=WIDTH, h=5 * HEIGHT), "but its camera has 20 x 60"),
        ("transforms_train.json", lambda d: d["frames"].append(d["frames"][4]), "lists train_004.png 2 times"),
    ],
)
def test_entries_of_dnerf(tmp_path: Path, name: str, edit: Callable[[dict], object], message: str):
    folder = write("dnerf", tmp_path / "scene")
    change(folder, name, edit)
    assert message in error_of(folder)


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("camera/train_002.json", lambda d: d.update(focal_length=0), "focal lengths above 0"),
        ("camera/train_002.json", lambda d: d.update(focal_length=float("nan")), "all must be finite"),
        ("camera/train_002.json", lambda d: d.update(principal_point=[1, None]), "all must be finite"),
        ("camera/train_002.json", lambda d: d.update(image_size=[float("inf"), 3]), "is not a Nerfies camera"),
        ("camera/train_002.json", lambda d: d.update(image_size=[0, 3]), "image_size is (0, 3)"),
        ("camera/train_002.json", lambda d: d.update(orientation=[[2, 0, 0], [0, 2, 0], [0, 0, 2]]), "not a rotation"),
        ("dataset.json", lambda d: d.update(train_ids=7), "the entry 'train_ids' is not a list of names"),
        ("dataset.json", lambda d: d.update(val_ids=[1, 2]), "the entry 'val_ids' is not a list of names"),
        ("dataset.json", lambda d: d["train_ids"].append("train_000"), "lists train_000.png 2 times"),
        ("metadata.json", lambda d: d["train_002"].update(warp_id=-4), "times must be in [0, 1]"),
    ],
)
def test_entries_of_nerfies(tmp_path: Path, name: str, edit: Callable[[dict], object], message: str):
    folder = write("nerfies", tmp_path / "scene")
    change(folder, name, edit)
    assert message in error_of(folder)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [(4, np.inf, "of camera 1 is no number"), (9, 0.0, "of camera 1 is no number"), (14, -3.0, "of camera 1 is no")],
)
def test_entries_of_dynerf(tmp_path: Path, column: int, value: float, message: str):
    folder = write("dynerf", tmp_path / "scene")
    poses = np.load(folder / "poses_bounds.npy")
    poses[1, column] = value
    np.save(folder / "poses_bounds.npy", poses)
    assert message in error_of(folder)


@pytest.mark.parametrize("layout", ["colmap text", "nvidia"])
def test_a_quaternion_of_length_zero(tmp_path: Path, layout: str):
    folder = write(layout, tmp_path / "scene")
    file = next(folder.rglob("images.txt"))
    lines = file.read_text().splitlines()
    number, *_, camera_number, name = lines[2].split()
    lines[2] = f"{number} 0 0 0 0 0 0 4 {camera_number} {name}"
    file.write_text("\n".join(lines) + "\n")
    assert "the camera of train_001 is not a rotation and a translation" in error_of(folder)


def test_masks_of_another_shape(tmp_path: Path):
    folder, masks = write("colmap text", tmp_path / "scene"), tmp_path / "masks"
    masks.mkdir()
    for picture in TRAIN:
        Image.new("L", (WIDTH, 2 * HEIGHT), 255).save(masks / f"{picture.name}.png.png")
    with pytest.raises(InputError, match=r"train_00.\.png\.png: is 20 x 24, but its camera has 20 x 12") as error:
        read_capture(folder, masks=masks)
    assert "\n" not in str(error.value)
    folder = write("dycheck", tmp_path / "phone")
    mask = next((folder / "covisible").rglob("*.png"))
    Image.new("L", (WIDTH, 2 * HEIGHT), 255).save(mask)
    assert f"{mask.name}: is 20 x 24, but its camera has 20 x 12" in error_of(folder)


def compressed_splats() -> bytes:
    names = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
    header = "\n".join(["ply", "format binary_little_endian 1.0", "element vertex 2"])
    properties = "\n".join(f"property uint {name}" for name in names)
    return f"{header}\n{properties}\nend_header\n".encode() + bytes(4 * 4 * 2)


@pytest.mark.parametrize("layout", ONE_CLOUD)
@pytest.mark.parametrize("kind", ["truncated", "image", "empty", "mesh without vertices", "compressed splats", "page"])
def test_a_file_that_is_no_point_cloud(tmp_path: Path, layout: str, kind: str):
    folder = write(layout, tmp_path / "scene")
    cloud = folder / ONE_CLOUD[layout]
    write_points(tmp_path / "whole.ply", POINTS)
    content = {
        "truncated": (tmp_path / "whole.ply").read_bytes()[:-500],
        "image": image_of(folder, 0).read_bytes(),
        "empty": b"",
        "mesh without vertices": b"ply\nformat ascii 1.0\nelement face 0\nproperty list uchar int index\nend_header\n",
        "compressed splats": compressed_splats(),
        "page": b"<!DOCTYPE html><html><body>404</body></html>",
    }
    cloud.write_bytes(content[kind])
    assert cloud.name in error_of(folder)


@pytest.mark.parametrize("layout", ["nerfies", "dycheck", "dnerf"])
def test_times_that_do_not_differ_are_noted(tmp_path: Path, layout: str):
    same = [replace(p, time=0.0) for p in TRAIN]
    notes = read_capture(write(layout, tmp_path / "scene", same)).notes
    assert "all training views have the time 0: nothing can be seen to move" in notes


@pytest.mark.parametrize("layout", ["nerfies", "dycheck", "dnerf"])
def test_two_views_of_one_time_and_camera_are_noted(tmp_path: Path, layout: str):
    twin = replace(TRAIN[3], camera=TRAIN[2].camera, time=TRAIN[2].time)
    notes = read_capture(write(layout, tmp_path / "scene", [*TRAIN[:3], twin, *TRAIN[4:]])).notes
    (note,) = [text for text in notes if "the same time and the same camera" in text]
    assert "train_002 and " in note
    assert "train_003 have" in note


def test_the_pictures_differ():
    """So that no check of duplicates finds one where none is."""
    assert len({picture.camera.world_to_camera.tobytes() for picture in pictures(9, "train")}) == 9
