"""Scenes in the layouts of published data sets give the cameras, times, masks and points that were written."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionzoo.errors import InputError
from visionzoo.models.modecgs.captures.capture import Camera, Capture, Points
from visionzoo.models.modecgs.captures.checking import checked
from visionzoo.models.modecgs.captures.colmap_files import PARAMETERS, PINHOLES, _cameras_bin, _cameras_text
from visionzoo.models.modecgs.captures.points import read_points, write_points
from visionzoo.models.modecgs.captures.reading import read_capture
from visionzoo.models.modecgs.captures.writing import (
    CapturedImage,
    write_blender,
    write_colmap,
    write_dynerf,
    write_nerfies,
)

WIDTH, HEIGHT = 20, 12
POINTS = Points(np.random.default_rng(0).uniform(-1, 1, (300, 3)), np.random.default_rng(1).random((300, 3)))


def camera(yaw: float) -> Camera:
    """At a distance of 4 from the origin, looking at it."""
    back = np.array([np.sin(yaw), 0.2, -np.cos(yaw)]) / np.hypot(1, 0.2)
    forward = -back
    right = np.cross([0, 1, 0], forward)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation, -rotation @ (4 * back)
    return Camera(motion, np.array([[18.0, 0, WIDTH / 2], [0, 18.0, HEIGHT / 2], [0, 0, 1]]), WIDTH, HEIGHT)


def pictures(count: int, prefix: str, *, masks: bool = False, start: float = 0.0) -> list[CapturedImage]:
    draw = np.random.default_rng(len(prefix))
    return [
        CapturedImage(
            f"{prefix}_{i:03d}",
            draw.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8),
            camera(start + 0.1 * i),
            i / (count - 1),
            draw.random((HEIGHT, WIDTH)) > 0.5 if masks else None,
        )
        for i in range(count)
    ]


TRAIN, TEST = pictures(9, "train"), pictures(5, "val", masks=True, start=0.05)


def equal(scene: Capture, train: Sequence[CapturedImage], test: Sequence[CapturedImage]) -> None:
    for views, expected in ((scene.train, train), (scene.test, test)):
        assert len(views) == len(expected)
        for view, picture in zip(views, expected, strict=True):
            assert view.name.endswith(picture.name)
            assert view.time == pytest.approx(picture.time)
            np.testing.assert_allclose(view.camera.world_to_camera, picture.camera.world_to_camera, atol=1e-6)
            np.testing.assert_allclose(view.camera.intrinsics, picture.camera.intrinsics, atol=1e-4)
            assert (view.camera.width, view.camera.height) == (WIDTH, HEIGHT)
            np.testing.assert_array_equal(view.pixels(), picture.pixels)
    np.testing.assert_allclose(scene.points.positions, POINTS.positions, atol=1e-6)
    np.testing.assert_allclose(scene.points.colours, POINTS.colours, atol=0.5 / 255 + 1e-9)


def test_nerfies(tmp_path: Path):
    scene = read_capture(write_nerfies(tmp_path / "scene", TRAIN, TEST, POINTS))
    assert scene.layout == "nerfies"
    equal(scene, TRAIN, TEST)
    assert all(view.weight() is None for view in scene.test)


def test_without_a_list_of_test_images_every_fourth_is_a_training_image(tmp_path: Path):
    folder = write_nerfies(tmp_path / "scene", TRAIN, [], POINTS)
    scene = read_capture(folder)
    assert [view.name for view in scene.train] == ["train_000", "train_004", "train_008"]
    assert [view.name for view in scene.test] == ["train_002", "train_006"]  # the last one is dropped, as published
    assert scene.test[0].time == pytest.approx(2 / 8)


def test_dycheck_has_covisibility_masks(tmp_path: Path):
    scene = read_capture(write_nerfies(tmp_path / "scene", TRAIN, TEST, POINTS, dycheck=True))
    assert scene.layout == "dycheck"
    equal(scene, TRAIN, TEST)
    for view, picture in zip(scene.test, TEST, strict=True):
        np.testing.assert_array_equal(view.weight(), picture.mask)
    (tmp_path / "scene" / "covisible" / "2x" / "val" / f"{TEST[0].name}.png").unlink()
    assert read_capture(tmp_path / "scene").notes == ("1 of 5 test views have no covisibility mask",)


def test_blender(tmp_path: Path):
    scene = read_capture(write_blender(tmp_path / "scene", TRAIN, TEST, POINTS))
    assert scene.layout == "blender"
    equal(scene, TRAIN, TEST)


def test_blender_without_points_starts_from_random_ones(tmp_path: Path):
    scene = read_capture(write_blender(tmp_path / "scene", TRAIN, TEST))
    assert len(scene.points) == 2000
    assert "random points" in scene.notes[0]


def test_blender_lays_transparency_on_white(tmp_path: Path):
    folder = write_blender(tmp_path / "scene", TRAIN, TEST, POINTS)
    clear = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    Image.fromarray(clear).save(folder / "train" / "train_000.png")
    assert (read_capture(folder).train[0].pixels() == 255).all()


def test_dynerf(tmp_path: Path):
    still = [[replace(p, camera=camera(0.2 * c)) for p in pictures(4, "x" * (c + 1))] for c in range(3)]
    scene = read_capture(write_dynerf(tmp_path / "scene", still, POINTS))
    assert scene.layout == "dynerf"
    assert [view.name for view in scene.test] == [f"cam00_{k:04d}" for k in range(4)]
    assert [view.time for view in scene.test] == [0, 0.25, 0.5, 0.75]
    for view, picture in zip(scene.train, [*still[1], *still[2]], strict=True):
        np.testing.assert_allclose(view.camera.world_to_camera, picture.camera.world_to_camera, atol=1e-9)
        np.testing.assert_array_equal(view.pixels(), picture.pixels)


def as_text(folder: Path) -> Path:
    return folder


def as_binary(folder: Path) -> Path:
    """As pycolmap writes it, with the rigs and frames of COLMAP 3.12 and newer."""
    pycolmap = pytest.importorskip("pycolmap")
    model = folder / "sparse" / "0"
    reconstruction = pycolmap.Reconstruction(str(model))
    for file in model.iterdir():
        file.unlink()
    reconstruction.write_binary(str(model))
    return folder


def as_dense(folder: Path) -> Path:
    """The layout of Nvidia's scenes: dense/sparse and dense/images."""
    dense = folder / "dense"
    dense.mkdir()
    (folder / "images").rename(dense / "images")
    (folder / "sparse" / "0").rename(dense / "sparse")
    (folder / "sparse").rmdir()
    return folder


@pytest.mark.parametrize("form", [as_text, as_binary, as_dense])
def test_colmap(tmp_path: Path, form: Callable[[Path], Path]):
    scene = read_capture(form(write_colmap(tmp_path / "scene", TRAIN, POINTS)))
    assert scene.layout == "colmap"
    equal(
        replace(scene, points=_in_order(scene.points)), [TRAIN[i] for i in (1, 2, 3, 4, 5, 6, 7)], [TRAIN[0], TRAIN[8]]
    )


def _in_order(points: Points) -> Points:
    """The order of a COLMAP model's points is not defined."""
    nearest = ((POINTS.positions[:, None] - points.positions[None]) ** 2).sum(-1).argmin(1)
    return Points(points.positions[nearest], points.colours[nearest])


def test_colmap_as_published_takes_times_from_the_file_and_tests_on_training_views(tmp_path: Path):
    folder = write_colmap(tmp_path / "scene", TRAIN, POINTS)
    file = folder / "sparse" / "0" / "images.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[4:6], *lines[:4], *lines[6:]]) + "\n")  # the third image first
    scene = read_capture(folder, protocol="released")
    assert (len(scene.train), len(scene.test)) == (9, 2)
    assert [(view.name, view.time) for view in scene.train[:3]] == [
        ("train_002", 0),
        ("train_000", 1 / 9),
        ("train_001", 2 / 9),
    ]
    assert [view.name for view in read_capture(folder).test] == ["train_000", "train_008"]
    assert "training views too" in scene.notes[0]


def test_colmap_masks_are_found_by_name(tmp_path: Path):
    folder, masks = write_colmap(tmp_path / "scene", TRAIN, POINTS), tmp_path / "masks"
    masks.mkdir()
    for picture in TRAIN[:-1]:
        Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)).save(masks / f"{picture.name}.png.png")
    with pytest.raises(InputError, match=r"has no mask for train_008\.png; name it train_008\.png\.png"):
        read_capture(folder, masks=masks)
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(masks / "train_008.png.png")
    scene = read_capture(folder, masks=masks)
    weight = scene.train[0].weight()
    assert weight is not None
    assert weight.all()


@pytest.mark.parametrize(
    ("change", "suspected"),
    [
        (lambda m: np.diag([1, -1, -1, 1.0]) @ m, "OpenGL axes"),
        (np.linalg.inv, "camera-to-world instead"),
        (lambda m: np.linalg.inv(np.diag([1, -1, -1, 1.0]) @ m), "camera-to-world with OpenGL axes"),
    ],
)
def test_a_wrong_pose_convention_is_suspected(
    tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], suspected: str
):
    wrong = [replace(p, camera=replace(p.camera, world_to_camera=change(p.camera.world_to_camera))) for p in TRAIN]
    with pytest.raises(InputError, match=rf"cameras in \(.*\) to \(.*\); the poses look like {suspected}"):
        read_capture(write_nerfies(tmp_path / "scene", wrong, [], POINTS))


def test_points_that_are_not_finite_or_absurdly_far_are_dropped(tmp_path: Path):
    stray = np.concatenate([POINTS.positions, [[np.inf, 0, 0], [np.nan, 0, 0], [1e7, 0, 0]]])
    points = Points(stray, np.zeros_like(stray))
    scene = read_capture(write_nerfies(tmp_path / "scene", TRAIN, TEST, points))
    assert len(scene.points) == len(POINTS)
    assert np.abs(scene.box).max() <= 1


def test_no_finite_points(tmp_path: Path):
    folder = write_nerfies(tmp_path / "scene", TRAIN, TEST, Points(np.full((4, 3), np.nan), np.zeros((4, 3))))
    with pytest.raises(InputError, match="there are no points to start from"):
        read_capture(folder)


def broken(folder: Path, name: str, text: str | None) -> Path:
    (folder / name).write_text(text) if text is not None else (folder / name).unlink()
    return folder


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("dataset.json", "[1]", "expected a JSON object, found list"),
        ("dataset.json", "{", "is not valid JSON"),
        ("metadata.json", "{}", "the entry 'train_00.' has no warp_id|the entry 'val_00.' has no warp_id"),
        ("camera/train_003.json", '{"orientation": 3}', "the entry 'position' is missing"),
        ("camera/train_003.json", None, "no such file, expected a JSON file"),
        ("rgb/2x/train_003.png", None, "no such file, expected an image file"),
        ("points3D_downsample2.ply", None, "has no point cloud"),
        (
            "points3D_downsample2.ply",
            "ply\nformat ascii 1.0\nelement vertex 5\nproperty float x\nend_header\n",
            "cannot be read|have no x",
        ),
    ],
)
def test_what_is_missing_or_damaged_is_named(tmp_path: Path, name: str, text: str | None, message: str):
    folder = broken(write_nerfies(tmp_path / "scene", TRAIN, TEST, POINTS), name, text)
    with pytest.raises(InputError, match=message) as error:
        read_capture(folder)
    assert "\n" not in str(error.value)


def test_an_unknown_layout(tmp_path: Path):
    with pytest.raises(InputError, match="is not a scene in a known layout; expected dataset.json"):
        read_capture(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        read_capture(tmp_path / "nothing")


def test_an_image_of_another_shape_than_its_camera(tmp_path: Path):
    scene = read_capture(write_nerfies(tmp_path / "scene", TRAIN, TEST, POINTS))
    Image.new("RGB", (WIDTH, 2 * HEIGHT)).save(scene.train[0].image)
    with pytest.raises(InputError, match="is 20 x 24, but its camera has 20 x 12"):
        scene.train[0].pixels()


def test_smaller_images_have_smaller_cameras(tmp_path: Path):
    scene = read_capture(write_nerfies(tmp_path / "scene", TRAIN, TEST, POINTS, dycheck=True)).resized(10)
    view = scene.test[0]
    weight = view.weight()
    assert weight is not None
    assert view.pixels().shape == (6, 10, 3)
    assert weight.shape == (6, 10)
    np.testing.assert_allclose(view.camera.intrinsics[:2] * 2, TEST[0].camera.intrinsics[:2], atol=1e-9)


def test_times_outside_the_unit_interval(tmp_path: Path):
    folder = write_blender(tmp_path / "scene", TRAIN, TEST, POINTS)
    data = json.loads((folder / "transforms_train.json").read_text())
    data["frames"][2]["time"] = 3.5
    (folder / "transforms_train.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"the time of train_train_002 is 3\.5; times must be in \[0, 1\]"):
        read_capture(folder)


def test_cameras_that_are_not_rigid(tmp_path: Path):
    scene = read_capture(write_nerfies(tmp_path / "scene", TRAIN, TEST, POINTS))
    view = scene.train[0]
    bent = replace(view, camera=replace(view.camera, world_to_camera=2 * view.camera.world_to_camera))
    with pytest.raises(InputError, match="is not a rotation and a translation"):
        checked(replace(scene, train=(bent,)))


@pytest.mark.parametrize("text", [True, False])
def test_points_by_property_name(tmp_path: Path, text: bool):
    import plyfile

    names = ["blue", "z", "quality", "x", "red", "y", "green"]
    vertices = np.zeros(2, dtype=[(n, "u1" if n in ("red", "green", "blue") else "f8") for n in names])
    vertices["x"], vertices["y"], vertices["z"], vertices["red"] = [1, 2], [3, 4], [5, 6], [255, 0]
    plyfile.PlyData([plyfile.PlyElement.describe(vertices, "vertex")], text=text).write(str(tmp_path / "a.ply"))
    points = read_points(tmp_path / "a.ply")
    np.testing.assert_array_equal(points.positions, [[1, 3, 5], [2, 4, 6]])
    np.testing.assert_array_equal(points.colours, [[1, 0, 0], [0, 0, 0]])


def test_points_of_nerfies(tmp_path: Path):
    np.save(tmp_path / "points.npy", POINTS.positions.astype(np.float32))
    assert len(read_points(tmp_path / "points.npy")) == len(POINTS)
    np.save(tmp_path / "points.npy", np.zeros(4))
    with pytest.raises(InputError, match=r"must be an array of points \(N, 3\) or \(N, 6\), got \(4,\)"):
        read_points(tmp_path / "points.npy")


def test_a_truncated_point_cloud(tmp_path: Path):
    write_points(tmp_path / "a.ply", POINTS)
    data = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "a.ply").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"cannot be read as a \.ply point cloud"):
        read_points(tmp_path / "a.ply")


def colmap_file(folder: Path, name: str, *, binary: bool) -> Path:
    return (as_binary(folder) if binary else folder) / "sparse" / "0" / f"{name}.{'bin' if binary else 'txt'}"


@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
@pytest.mark.parametrize("binary", [True, False])
def test_a_truncated_colmap_model(tmp_path: Path, name: str, binary: bool):
    folder = write_colmap(tmp_path / "scene", TRAIN, POINTS)
    file = colmap_file(folder, name, binary=binary)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * 0.49)])
    with pytest.raises(InputError, match=r"copy it again|which cameras\.txt lacks") as error:
        read_capture(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("model", PARAMETERS)
def test_every_camera_model_of_colmap_is_read(tmp_path: Path, model: str):
    """Numbers, counts and meaning of the parameters are those of pycolmap."""
    pycolmap = pytest.importorskip("pycolmap")
    theirs = pycolmap.Camera.create_from_model_name(7, model, 30.0, 64, 48)
    theirs.params = [3.0 + i for i in range(len(theirs.params))]
    reconstruction = pycolmap.Reconstruction()
    reconstruction.add_camera(theirs)
    reconstruction.write_binary(str(tmp_path))
    reconstruction.write_text(str(tmp_path))
    binary, text = _cameras_bin(tmp_path / "cameras.bin"), _cameras_text(tmp_path / "cameras.txt")
    assert binary == text
    assert list(binary[7].parameters.values()) == list(theirs.params)
    if model in PINHOLES:
        np.testing.assert_array_equal(binary[7].intrinsics(), theirs.calibration_matrix())
        assert binary[7].is_distorted == (model not in ("PINHOLE", "SIMPLE_PINHOLE"))


def test_lens_distortion_is_noted_and_a_fisheye_refused(tmp_path: Path):
    folder = write_colmap(tmp_path / "scene", TRAIN, POINTS)
    file = folder / "sparse" / "0" / "cameras.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(f"{line.replace('PINHOLE', 'OPENCV')} 0.1 0 0 0" for line in lines))
    assert "lens distortion" in read_capture(folder).notes[0]
    file.write_text("\n".join(f"{line.replace('PINHOLE', 'OPENCV_FISHEYE')} 0.1 0 0 0" for line in lines))
    with pytest.raises(InputError, match="OPENCV_FISHEYE is not a pinhole camera; undistort the images"):
        read_capture(folder)
