"""Scores of reenacted frames computed by hand: AKD, AED and CSIM, one and two people, frames without a face, and network files."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import visionzoo
from visionzoo.errors import InputError, MissingDependencyError, VisionZooError
from visionzoo.faces import Face, open_identity, open_landmarks
from visionzoo.faces.identity import DlibIdentity
from visionzoo.faces.landmarks import DlibLandmarks, FanLandmarks
from visionzoo.io.files import bundled
from visionzoo.io.image import load_image
from visionzoo.models.mcnet.data import Clip, ClipReader, TestPairs
from visionzoo.models.mcnet.evaluation import Measures, PairScore, Report
from visionzoo.training.run import load_config, run
from visionzoo.weights import save_safetensors

SMALL = load_config(["mcnet/tiny"], [])["model"]["init_args"]["config"]


class Box:
    """Finds one face, at the same position in every image that is not black."""

    name = "box"

    def __init__(self, box: tuple[float, float, float, float] = (20, 30, 84, 110)):
        self.box = box

    def __call__(self, image: np.ndarray) -> list[Face]:
        return [Face(self.box, 0.9)] if image.any() else []


class Mean:
    """Landmarks and identity are computed from the mean colour; none in black images."""

    name = "mean"

    def __call__(self, image: np.ndarray) -> np.ndarray | None:
        if not image.any():
            return None
        return image.reshape(-1, 3).mean(0).astype(np.float32)


class Points(Mean):
    def __call__(self, image: np.ndarray) -> np.ndarray | None:
        mean = super().__call__(image)
        return None if mean is None else np.tile(mean[:2], (68, 1))


def plain(*colour: int, height: int = 64, width: int = 128) -> Tensor:
    return (torch.tensor(colour).float() / 255).view(3, 1, 1).expand(3, height, width).clone()


def test_distances_are_those_by_hand() -> None:
    measures = Measures(landmarks=Points(), identity=Mean())
    score = measures.score("a", plain(10, 20, 40), plain(13, 24, 40), plain(1, 2, 3))
    # 3 of 128 pixels across and 4 of 64 down, as of 256: 6 and 16
    assert score.akd == pytest.approx((6 + 16) / 2)
    assert score.aed == pytest.approx(3**2 + 4**2)
    assert score.l1 == pytest.approx(7 / 3 / 255)
    assert score.csim is None
    assert not score.no_face


def test_across_identities_the_source_is_compared() -> None:
    measures = Measures(landmarks=Points(), identity=Mean())
    score = measures.score("a", plain(30, 40, 0), plain(200, 0, 0), plain(40, 30, 0), cross=True)
    assert score.aed == pytest.approx(200)
    assert score.csim == pytest.approx((30 * 40 + 40 * 30) / 2500)
    assert (score.l1, score.psnr, score.ssim, score.akd, score.cross) == (None, None, None, None, True)


def test_frames_without_a_face_are_left_out_and_counted() -> None:
    measures = Measures(landmarks=Points(), identity=Mean())
    scores = [
        measures.score("a", plain(10, 10, 10), plain(10, 12, 10), plain(1, 1, 1)),
        measures.score("a", plain(0, 0, 0), plain(10, 12, 10), plain(1, 1, 1)),
    ]
    report = Report(scores, measures.names())
    assert report.means()["aed"] == pytest.approx(4)
    assert scores[1].no_face
    assert scores[1].akd is None
    assert report.as_dict()["without_face"] == 1
    assert report.as_dict()["networks"] == {"landmarks": "mean", "identity": "mean"}
    assert "1 of 2 frames left out of AKD, AED or CSIM" in str(report)
    assert "landmarks: mean" in str(report)


def test_one_person_and_two_are_told_apart_in_the_table() -> None:
    report = Report([PairScore("a", l1=0.1, psnr=20, ssim=0.5), PairScore("b", True, aed=0.4, csim=0.75)])
    text = str(report)
    first, second = text.split("\n\n")
    assert "published, VoxCeleb1" in first
    assert "0.1000" in first
    assert "two people" in second
    assert "0.7500" in second
    assert "published" not in second
    assert report.as_dict()["mean_cross_identity"] == {"aed": 0.4, "csim": 0.75}
    assert report.means()["psnr"] == 20


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    for name in ("id1#a#0#1.mp4", "id1#b#0#1.mp4", "id2#a#0#1.mp4"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (128, 128)).save(tmp_path / name / "0.png")
    one, again, other = (Clip(path) for path in sorted(tmp_path.iterdir()))
    pairs = [(one, 0, again, 0), (one, 0, other, 0)]
    assert [bool(pair[3]) for pair in (TestPairs(pairs, ClipReader(128))[i] for i in range(2))] == [False, True]
    assert TestPairs(pairs, ClipReader(128), cross=False)[1][3] is False


def test_across_identities_no_published_numbers_are_shown() -> None:
    report = Report([PairScore("a driven by b", True, aed=0.4, csim=0.75)], {"identity": "some network"})
    assert "0.0331" not in str(report)
    assert "could not be read" in str(report)
    assert "nn4.small2" not in str(report)
    assert report.as_dict()["published"] == {}
    assert report.means()["l1"] is None
    report = Report([PairScore("a", aed=0.4)], {"identity": "some network"})
    assert "values from other networks cannot be compared" in str(report)
    assert report.as_dict()["published"]["MCNet"]["aed"] == 0.1065


def test_a_face_only_in_the_source_has_no_score() -> None:
    score = Measures(identity=Mean()).score("a", plain(0, 0, 0), plain(9, 9, 9), plain(9, 9, 9), cross=True)
    assert (score.aed, score.csim, score.no_face) == (None, None, True)
    assert "1 of 1 frames left out" in str(Report([score]))


# Networks in files


class Peaks(nn.Module):
    """68 heat maps of 64 x 64, each with its own peak, whose right and upper neighbours are higher than the others."""

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.zeros(len(x), 68, 64, 64)
        for number in range(68):
            row, column = 5 + number // 10 * 7, 3 + number % 10 * 6
            maps[:, number, row, column] = 1.0
            maps[:, number, row, column + 1] = 0.5
            maps[:, number, row - 1, column] = 0.25
        return maps


class Few(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, ::4, ::4]


class Corner(nn.Module):
    """Returns BGR of the pixel in the upper left corner."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2] == 96
        return x[:, :, 0, 0]


def script(module: nn.Module, path: Path) -> Path:
    torch.jit.save(torch.jit.script(module), str(path))
    return path


def test_heat_maps_become_points_of_the_image(tmp_path: Path) -> None:
    find = FanLandmarks(script(Peaks(), tmp_path / "fan.zip"), Box())
    image = np.full((150, 120, 3), 90, np.uint8)
    found = find(image)
    assert found is not None
    # the face: 64 x 80 around (52, 70); the crop: 200 * 144 / 195 wide, 9.6 pixels higher
    side = 200 * 144 / 195
    for number in (0, 34, 67):
        row, column = 5 + number // 10 * 7, 3 + number % 10 * 6
        x = 52 - side / 2 + (column + 0.75) / 64 * side
        y = 70 - 9.6 - side / 2 + (row + 0.25) / 64 * side
        assert found[number] == pytest.approx((x, y), abs=1e-3)
    assert find(np.zeros_like(image)) is None
    with pytest.raises(InputError, match="uint8"):
        find(image.astype(np.float32))


def test_a_scripted_identity_sees_the_frame_in_bgr(tmp_path: Path) -> None:
    describe = open_identity(script(Corner(), tmp_path / "openface.pt"))
    image = np.zeros((50, 70, 3), np.uint8)
    image[...] = (255, 51, 0)
    assert describe(image) == pytest.approx([0, 0.2, 1])


def test_an_onnx_identity(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    class Grey(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)).repeat(1, 2)

    for channels, side, want in ((1, 128, [0.0, 0.0]), (3, 96, [0.502] * 6)):
        path = tmp_path / f"{channels}.onnx"
        torch.onnx.export(Grey().eval(), (torch.zeros(1, channels, side, side),), str(path), verbose=False, dynamo=True)
        describe = open_identity(path)
        assert describe(np.full((60, 60, 3), 128, np.uint8)) == pytest.approx(want, abs=0.005)


@pytest.mark.parametrize("suffix", [".zip", ".pt", ".onnx", ".dat"])
def test_files_without_a_network_are_reported(tmp_path: Path, suffix: str) -> None:
    words, empty, gone = (tmp_path / f"{name}{suffix}" for name in ("words", "empty", "gone"))
    words.write_text("words")
    empty.touch()
    for opening in (open_landmarks, open_identity):
        for path in (words, empty, gone):
            with pytest.raises((InputError, MissingDependencyError)) as problem:
                opening(path)
            assert path.name in str(problem.value) or "onnxruntime" in str(problem.value)


def test_networks_of_another_kind_are_reported(tmp_path: Path) -> None:
    few = script(Few(), tmp_path / "few.pt")
    with pytest.raises(InputError, match=r"expected heatmaps \(1, 68, 64, 64\)"):
        open_landmarks(few)
    with pytest.raises(InputError, match="gives no descriptor"):
        open_identity(script(nn.Linear(3, 3), tmp_path / "flat.pt"))


def test_a_missing_dlib_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dlib", None)
    path = tmp_path / "shape_predictor_68_face_landmarks.dat"
    path.write_bytes(b"something")
    with pytest.raises(MissingDependencyError, match="pip install dlib-bin"):
        open_landmarks(path)


def test_dlibs_own_files() -> None:
    """Runs where the packages dlib-bin and face-recognition-models are installed."""
    pytest.importorskip("dlib")
    found = importlib.util.find_spec("face_recognition_models")
    if found is None or found.origin is None:
        pytest.skip("the package face-recognition-models is not installed")
    models = Path(found.origin).parent / "models"
    find = DlibLandmarks(models / "shape_predictor_68_face_landmarks.dat")
    describe = DlibIdentity(models / "dlib_face_recognition_resnet_model_v1.dat")
    woman, man = (load_image(bundled("talking", f"{name}.jpg")) for name in ("woman", "man"))
    points = find(woman)
    assert points is not None
    assert points[36:42, 0].mean() < points[42:48, 0].mean()  # the eyes
    assert points[30, 1] < points[57, 1] < points[8, 1]  # nose, mouth, chin
    one, mirrored, other = describe(woman), describe(woman[:, ::-1].copy()), describe(man)
    assert one is not None
    assert mirrored is not None
    assert other is not None
    assert np.square(one - mirrored).sum() < 0.2 < 0.36 < np.square(one - other).sum()


def test_a_whole_test_measures_both_protocols(tmp_path: Path) -> None:
    model = visionzoo.create_model("mcnet", **SMALL)
    save_safetensors(model.state_dict(), tmp_path / "w.safetensors", {"model": "mcnet", "config": json.dumps(SMALL)})
    root = tmp_path / "root"
    for number, name in enumerate(("id1#a#0#1.mp4", "id2#a#0#1.mp4")):
        (root / name).mkdir(parents=True)
        image = Image.open(bundled("talking", f"{('woman', 'man')[number]}.jpg")).resize((128, 128))
        for frame in range(2):
            image.save(root / name / f"{frame}.png")
    rows = [
        "source,driving",
        "/x/id1#a#0#1.mp4/0.png,/x/id1#a#0#1.mp4/1.png",
        "/x/id1#a#0#1.mp4/0.png,/x/id2#a#0#1.mp4/1.png",
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    words: list[Any] = [
        f"data.root={root}",
        f"data.pairs={tmp_path / 'pairs.csv'}",
        f"model.checkpoint={tmp_path / 'w.safetensors'}",
        f"model.config={json.dumps(SMALL)}",
        f"model.landmarks={script(Peaks(), tmp_path / 'fan.pt')}",
    ]
    report = run("test", ["mcnet/tiny"], [*words, f"model.identity={script(Corner(), tmp_path / 'id.pt')}"])
    same, cross = report["pairs"]
    assert (same["cross"], cross["cross"]) == (False, True)
    assert (same["name"], cross["name"]) == ("id1#a#0#1.mp4", "id1#a#0#1.mp4 driven by id2#a#0#1.mp4")
    assert same["akd"] >= 0
    assert same["psnr"] > 0
    assert cross["psnr"] is None
    assert 0 < cross["csim"] <= 1 + 1e-6
    assert report["networks"] == {"landmarks": "FAN, fan.pt", "identity": "TorchScript, id.pt, 96 x 96 BGR"}
    with pytest.raises(VisionZooError, match=r"gone\.pt: no such file"):
        run("test", ["mcnet/tiny"], [*words, f"model.identity={tmp_path / 'gone.pt'}"])
    with pytest.raises(VisionZooError, match=r"shows two people.*model.identity=FILE, or data.cross=false"):
        run("test", ["mcnet/tiny"], [*words, "data.cross=true"])
    assert run("test", ["mcnet/tiny"], [*words, "data.cross=false"])["pairs"][1]["psnr"] > 0
    with pytest.raises(VisionZooError, match="data.cross=true needs data.pairs"):
        run("test", ["mcnet/tiny"], [*words[:1], *words[2:], "data.cross=true"])
