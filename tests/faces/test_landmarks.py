"""Landmarks by networks in files: those of the largest face, in pixels of the image, and a clear error for any other file."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from visionzoo.errors import InputError, MissingDependencyError
from visionzoo.faces import Face, open_identity, open_landmarks
from visionzoo.faces.landmarks import heatmap_peaks
from visionzoo.faces.network_files import DlibFaces
from visionzoo.weights import WeightsError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
Box = tuple[float, float, float, float]


class Fixed:
    """A detector that always finds the same face."""

    name = "fixed"

    def __init__(self, *boxes: Box):
        self.faces = [Face(box, 0.9) for box in boxes]

    def __call__(self, image: NDArray[np.uint8]) -> list[Face]:
        return self.faces


class Bright(nn.Module):
    """All heatmaps are the image's brightness, averaged over 4 x 4 pixels; the last of two stages counts."""

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = nn.functional.avg_pool2d(x.mean(1, keepdim=True), 4).repeat(1, 68, 1, 1)
        return [torch.zeros_like(maps), maps]


def script(module: nn.Module, path: Path) -> Path:
    torch.jit.script(module).save(str(path))
    return path


def test_peaks_go_a_quarter_towards_the_higher_neighbour() -> None:
    maps = torch.zeros(4, 5, 6)
    maps[0, 2, 3], maps[0, 2, 4] = 1, 0.5  # right
    maps[1, 2, 3], maps[1, 1, 3], maps[1, 2, 2] = 1, 0.5, 0.5  # up and left
    maps[2, 2, 3] = 1  # neither
    maps[3, 4, 0], maps[3, 4, 1] = 1, 0.5  # in the corner: stays
    want = [[3.75, 2.5], [3.25, 2.25], [3.5, 2.5], [0.5, 4.5]]
    np.testing.assert_array_equal(heatmap_peaks(maps), want)


@pytest.mark.parametrize(("box", "dot"), [((60, 50, 120, 130), (100, 80)), ((-10, 5, 50, 65), (20, 40))])
def test_what_the_network_sees_comes_back_to_its_place(tmp_path: Path, box: Box, dot: tuple[int, int]) -> None:
    """A crop that is placed or scaled wrongly, or whose part beyond the image is left out, would miss the dot."""
    find = open_landmarks(script(Bright(), tmp_path / "fan.zip"), detector=Fixed((0, 0, 20, 20), box))
    image = np.zeros((160, 200, 3), np.uint8)
    image[dot[1] - 1 : dot[1] + 2, dot[0] - 1 : dot[0] + 2] = 255
    points = find(image)
    assert points is not None
    assert points.shape == (68, 2)
    assert points.dtype == np.float32
    # a pixel of the heatmaps is about 2 pixels of the image; the crop begins at whole pixels, which are cut, not rounded
    np.testing.assert_allclose(points, np.tile(np.add(dot, 0.5), (68, 1)), atol=1.6)
    assert open_landmarks(tmp_path / "fan.zip", detector=Fixed())(image) is None


def test_a_file_without_a_network_is_reported(tmp_path: Path) -> None:
    whole = script(Bright(), tmp_path / "whole.pt").read_bytes()
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.pth")
    for name, content in {
        "cut.pt": whole[: len(whole) // 2],
        "page.zip": b"<!DOCTYPE html><html>",
        "pointer.pt": b"version https://git-lfs.github.com/spec/v1",
        "packed.dat": b"BZh91AY",
    }.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.zip").mkdir()
    for name, reason in {
        "cut.pt": "not a TorchScript file, or truncated .*download it again",
        "weights.pth": "perhaps only weights.*torch.jit.trace",
        "page.zip": "is a web page",
        "pointer.pt": "git lfs pull",
        "packed.dat": "bunzip2",
        "folder.zip": "as downloaded, not unpacked",
        "none.dat": "no such file",
    }.items():
        for opening in (open_landmarks, open_identity):
            with pytest.raises(WeightsError, match=f"{name}: .*{reason}") as problem:
                opening(tmp_path / name)
            assert "\n" not in str(problem.value)


def test_a_network_with_another_input_is_reported(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"flat.pt: fails on an image \(1, 3, 256, 256\) \(.*mat1 and mat2"):
        open_landmarks(script(nn.Linear(3, 3), tmp_path / "flat.pt"))


# A fake dlib, since its package is optional


class Rectangle:
    def __init__(self, left: int, top: int, right: int, bottom: int):
        self.sides = left, top, right, bottom

    def left(self) -> int:
        return self.sides[0]

    def top(self) -> int:
        return self.sides[1]

    def width(self) -> int:
        return self.sides[2] - self.sides[0] + 1

    def area(self) -> int:
        return self.width() * (self.sides[3] - self.sides[1] + 1)


class Shape:
    """All points are in the upper left pixel of the box, except the last, which is in the lower right one."""

    def __init__(self, box: Rectangle, count: int):
        self.num_parts, (left, top, right, bottom) = count, box.sides
        self.points = [types.SimpleNamespace(x=left, y=top)] * (count - 1) + [types.SimpleNamespace(x=right, y=bottom)]

    def parts(self) -> list[Any]:
        return self.points


@pytest.fixture
def dlib(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A fake package whose detector finds `found`, and whose predictors have the number of points given in the file."""
    module: Any = types.ModuleType("dlib")
    module.found = []
    module.rectangle = Rectangle
    module.get_frontal_face_detector = lambda: lambda image, times: module.found

    def shape_predictor(path: str) -> Any:
        words = Path(path).read_text()
        if not words.isdigit():
            raise RuntimeError("Error deserializing object of type int\n   while deserializing")
        return lambda image, box: Shape(box, int(words))

    module.shape_predictor = shape_predictor
    monkeypatch.setitem(sys.modules, "dlib", module)
    return module


def test_dlibs_points_are_those_of_its_own_largest_box(dlib: Any, tmp_path: Path) -> None:
    (tmp_path / "68.dat").write_text("68")
    find = open_landmarks(tmp_path / "68.dat", detector=Fixed((0, 0, 90, 90)))
    dlib.found = [Rectangle(2, 2, 11, 11), Rectangle(30, 20, 69, 59)]
    points = find(np.zeros((128, 128, 3), np.uint8))
    assert points is not None
    assert points.shape == (68, 2)
    # enlarged four times, the box begins at pixel (120, 80), whose centre is (120.5, 80.5)
    np.testing.assert_allclose(points[0], (120.5 / 4, 80.5 / 4))
    np.testing.assert_allclose(points[-1], (279.5 / 4, 239.5 / 4))


def test_the_other_detector_is_used_if_dlib_finds_nothing(dlib: Any) -> None:
    box = DlibFaces(Fixed((0, 0, 10, 10), (40, 20, 120, 120)))(np.zeros((128, 128, 3), np.uint8))
    assert box is not None
    assert box == pytest.approx((80 - 39.5, 70 + 7 - 39.5, 79))  # 0.79 of 100, lower by 0.07 of it
    assert DlibFaces(Fixed((0, 0, 10, 10)))(np.zeros((128, 128, 3), np.uint8)) is not None, "a small one is one, too"
    assert DlibFaces(Fixed())(np.zeros((128, 128, 3), np.uint8)) is None


def test_other_files_of_dlib_are_reported(dlib: Any, tmp_path: Path) -> None:
    for name, words in (("five.dat", "5"), ("other.dat", "something else")):
        (tmp_path / name).write_text(words)
    with pytest.raises(WeightsError, match="five.dat: predicts 5 points, expected 68"):
        open_landmarks(tmp_path / "five.dat")
    with pytest.raises(WeightsError, match="other.dat: does not hold a dlib shape predictor.*, or is truncated"):
        open_landmarks(tmp_path / "other.dat")


def test_a_wrong_image_type_is_reported(dlib: Any, tmp_path: Path) -> None:
    (tmp_path / "68.dat").write_text("68")
    with pytest.raises(InputError, match="uint8 RGB"):
        open_landmarks(tmp_path / "68.dat")(np.zeros((8, 8), np.uint8))


def test_without_a_detector_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visionzoo.faces.landmarks.open_detector", lambda: None)
    with pytest.raises(MissingDependencyError, match="face detector"):
        open_landmarks(script(Bright(), tmp_path / "fan.zip"))


def test_dlibs_real_network_follows_the_face(astronaut: NDArray[np.uint8]) -> None:
    """Runs where the packages dlib-bin and face-recognition-models are installed."""
    pytest.importorskip("dlib")
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or spec.origin is None:
        pytest.skip("the package face-recognition-models, whose files these are, is not installed")
    models = Path(spec.origin).parent / "models"
    find = open_landmarks(models / "shape_predictor_68_face_landmarks.dat")
    points, again, moved = find(astronaut), find(astronaut), find(np.roll(astronaut, (10, 20), (0, 1)))
    assert points is not None
    assert moved is not None
    np.testing.assert_array_equal(points, again)
    np.testing.assert_allclose(moved - points, np.tile((20, 10), (68, 1)), atol=2)
    eyes, nose = (points[36:42].mean(0), points[42:48].mean(0)), points[30]
    np.testing.assert_allclose([*eyes, nose], [[204, 101], [247, 103], [225, 128]], atol=6)
    with pytest.raises(WeightsError, match="predicts 5 points, expected 68"):
        open_landmarks(models / "shape_predictor_5_face_landmarks.dat")
    with pytest.raises(WeightsError, match="does not hold a dlib shape predictor"):
        open_landmarks(models / "dlib_face_recognition_resnet_model_v1.dat")
