"""Camera paths: where cameras are, what they look at, and the time of each frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests import tiny
from visionzoo.errors import InputError
from visionzoo.models.modecgs.captures.capture import Camera
from visionzoo.models.modecgs.facts import SceneFacts, TimedCamera
from visionzoo.pipelines.reconstruct.paths import camera_path, look_at, orbit
from visionzoo.pipelines.reconstruct.scene import Scene, focus_of

INTRINSICS = np.array([[50.0, 0, 16], [0, 50, 16], [0, 0, 1]])
UP = np.array([0.0, 0, 1])


def camera_at(place: np.ndarray, target: np.ndarray) -> Camera:
    return look_at(Camera(np.eye(4), INTRINSICS, 32, 32), place, target, UP)


def scene_of(places: np.ndarray, target: np.ndarray) -> Scene:
    cameras = [
        TimedCamera(camera_at(place, target), time)
        for place, time in zip(places, np.linspace(0, 1, len(places)), strict=True)
    ]
    return Scene(tiny.modecgs(), SceneFacts(tuple(cameras), (-1, -1, -1), (1, 1, 1), len(cameras)))


def around(degrees: float, radius: float = 4.0, height: float = 1.0, count: int = 20) -> np.ndarray:
    angles = np.radians(np.linspace(-degrees / 2, degrees / 2, count, endpoint=degrees < 360))
    return np.stack([radius * np.cos(angles), radius * np.sin(angles), np.full(count, height)], 1)


def test_a_camera_looks_where_it_should():
    place, target = np.array([3.0, 1, 2]), np.array([0.2, -0.3, 0.5])
    camera = camera_at(place, target)
    pixels, depths = camera.project(np.stack([target, target + 0.1 * UP]))
    np.testing.assert_allclose(camera.centre, place, atol=1e-12)
    np.testing.assert_allclose(pixels[0], (16, 16), atol=1e-9)
    assert depths[0] == pytest.approx(np.linalg.norm(target - place))
    assert pixels[1, 0] == pytest.approx(16)
    assert pixels[1, 1] < 16, "up is up in the image"
    assert np.linalg.det(camera.world_to_camera[:3, :3]) == pytest.approx(1)


def test_the_focus_is_where_the_axes_meet():
    target = np.array([0.3, -0.2, 0.4])
    cameras = [camera_at(place, target) for place in around(90)]
    np.testing.assert_allclose(focus_of(cameras, 1.0), target, atol=1e-9)


def test_parallel_cameras_look_ahead():
    camera = Camera(np.eye(4), INTRINSICS, 32, 32)
    np.testing.assert_allclose(focus_of([camera, camera], 2.5), (0, 0, 2.5))


def test_an_orbit_goes_around_a_scene_that_was_filmed_from_all_sides():
    scene = scene_of(around(360), np.zeros(3))
    places = np.stack([camera.centre for camera in orbit(scene, 12)])
    np.testing.assert_allclose(np.linalg.norm(places[:, :2], axis=1), 4, rtol=1e-6)
    np.testing.assert_allclose(places[:, 2], 1, atol=1e-6)
    assert len({round(angle, 3) for angle in np.arctan2(places[:, 1], places[:, 0])}) == 12
    np.testing.assert_allclose(places[0], scene.cameras[0].camera.centre, atol=1e-6)


def test_an_orbit_stays_where_one_side_was_filmed():
    scene = scene_of(around(40), np.zeros(3))
    for camera in orbit(scene, 12):
        angle = np.degrees(np.arctan2(camera.centre[1], camera.centre[0]))
        assert abs(angle) < 25
        pixels, depths = camera.project(np.zeros((1, 3)))
        np.testing.assert_allclose(pixels[0], (16, 16), atol=1e-6)
        assert depths[0] > 2


def test_the_recording_is_repeated_and_interpolated():
    scene = scene_of(around(40, count=5), np.zeros(3))
    path = camera_path(scene, "input", 9)
    for number in range(5):
        np.testing.assert_allclose(
            path[2 * number].camera.world_to_camera, scene.cameras[number].camera.world_to_camera, atol=1e-9
        )
    between = path[1].camera.world_to_camera[:3, :3]
    np.testing.assert_allclose(between @ between.T, np.eye(3), atol=1e-9)
    assert [round(each.time, 3) for each in path] == [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1]


def test_the_scene_can_be_stopped():
    scene = scene_of(around(40, count=5), np.zeros(3))
    path = camera_path(scene, "still", 3, time=0.25, view=2)
    assert [each.time for each in path] == [0.25] * 3
    assert all(each.camera is scene.cameras[2].camera for each in path)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"frames": 0}, "the number of frames must be at least 1, got 0"),
        ({"time": 1.5}, r"the time must be in \[0, 1\], got 1.5"),
        ({"view": 5}, "the view must be between 0 and 4, got 5"),
    ],
)
def test_paths_that_cannot_be(settings: dict, says: str):
    scene = scene_of(around(40, count=5), np.zeros(3))
    with pytest.raises(InputError, match=says):
        camera_path(scene, "orbit", **{"frames": 4, **settings})


def test_a_scene_without_cameras_is_seen_whole():
    scene = Scene(tiny.modecgs(), replace(SceneFacts(), low=(-1, -1, -1), high=(1, 1, 1)))
    corners = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3), -1).reshape(-1, 3)
    pixels, depths = scene.cameras[0].camera.project(corners)
    assert (depths > 0).all()
    assert ((pixels > 0) & (pixels < 512)).all()
    assert len(camera_path(scene, "orbit", 4)) == 4


@pytest.mark.parametrize("facts", [SceneFacts(), SceneFacts(low=(-1, -1, -1), high=(1, 1, 1))])
def test_an_orbit_goes_around_a_scene_whose_cameras_are_not_known(facts: SceneFacts):
    scene = Scene(tiny.modecgs(), facts)
    cameras = orbit(scene, 8)
    centres = np.stack([camera.centre for camera in cameras])
    middle = np.mean(scene._box, axis=0)
    np.testing.assert_allclose(centres.mean(0), middle, atol=1e-5)
    assert np.linalg.norm(centres[0] - centres[4]) == pytest.approx(2 * np.linalg.norm(centres[0] - middle))
    for camera in cameras:
        np.testing.assert_allclose(camera.project(middle[None])[0][0], (256, 256), atol=1e-3)
