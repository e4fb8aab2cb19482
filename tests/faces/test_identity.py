"""Descriptors by networks in files: the part of the image that the network sees, and a clear error for any other file."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from visionzoo.errors import InputError, MissingDependencyError
from visionzoo.faces import open_identity
from visionzoo.weights import WeightsError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")


class Halves(nn.Module):
    """Returns the mean of each channel in the upper and the lower half of an image of that size, and an unused output."""

    def __init__(self, channels: int, side: int):
        super().__init__()
        self.channels, self.side = channels, side

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert x.shape[1] == self.channels
        assert x.shape[2] == self.side
        return x.view(1, self.channels, 2, -1).mean(3).flatten(1), x


def script(module: nn.Module, path: Path) -> Path:
    torch.jit.script(module).save(str(path))
    return path


def image() -> np.ndarray:
    """(40, 80, 3): red above, grey below."""
    pixels = np.full((40, 80, 3), 51, np.uint8)
    pixels[:20] = (255, 0, 0)
    return pixels


@pytest.mark.parametrize(("order", "want"), [("bgr", [0, 0.2, 0, 0.2, 1, 0.2]), ("rgb", [1, 0.2, 0, 0.2, 0, 0.2])])
def test_the_whole_frame_in_the_order_asked_for(tmp_path: Path, order: Any, want: list[float]) -> None:
    describe = open_identity(script(Halves(3, 96), tmp_path / "openface.pt"), order=order)
    assert describe(image()) == pytest.approx(want, abs=0.01)
    assert describe.name == f"TorchScript, openface.pt, 96 x 96 {order.upper()}"


def test_one_channel_means_grey_around_zero(tmp_path: Path) -> None:
    describe = open_identity(script(Halves(1, 128), tmp_path / "arcface.pt"))
    red = 0.299 * 255  # what grey is made of
    assert describe(image()) == pytest.approx([red / 127.5 - 1, 51 / 127.5 - 1], abs=0.015)
    assert describe.name.endswith("128 x 128 grey")


def test_a_size_that_is_not_guessed_can_be_given(tmp_path: Path) -> None:
    file = script(Halves(3, 100), tmp_path / "own.pt")
    with pytest.raises(WeightsError, match=r"own.pt: gives no descriptor for an image of 3 x 96 x 96, 1 x 128 x 128"):
        open_identity(file)
    assert open_identity(file, shape=(3, 100, 100))(image()) is not None
    with pytest.raises(InputError, match="bgr or rgb, got 'grb'"):
        open_identity(file, order="grb")  # pyright: ignore[reportArgumentType]
    with pytest.raises(WeightsError, match=r"gives \(1, 3, 96, 96\)"):
        open_identity(script(nn.Identity(), tmp_path / "image.pt"))


def onnx_of(path: Path, shape: tuple[Any, ...]) -> Path:
    """A file with a network that averages over the positions of an image of that shape and returns the mean twice."""
    onnx = pytest.importorskip("onnx")
    make = onnx.helper
    nodes = [
        make.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0),
        make.make_node("Concat", ["mean", "mean"], ["y"], axis=1),
    ]
    inputs = [make.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)]
    outputs = [make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (1, None))]
    model = make.make_model(make.make_graph(nodes, "mean", inputs, outputs), opset_imports=[make.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


def test_onnx_names_its_size(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    fixed = open_identity(onnx_of(tmp_path / "fixed.onnx", (1, 3, 112, 112)))
    assert fixed.name == "ONNX, fixed.onnx, 112 x 112 BGR"
    assert fixed(image()) == pytest.approx([0.1, 0.1, 0.6] * 2, abs=0.01)
    assert open_identity(onnx_of(tmp_path / "open.onnx", ("n", 3, "h", "w"))).name.endswith("96 x 96 BGR")
    assert open_identity(onnx_of(tmp_path / "grey.onnx", ("n", 1, "h", "w"))).name.endswith("128 x 128 grey")
    odd = onnx_of(tmp_path / "odd.onnx", (1, 3, "h", 77))
    assert open_identity(odd).name.endswith("96 x 77 BGR")
    with pytest.raises(InputError, match="odd.onnx takes images of 3 x [?] x 77 .*got the shape"):
        open_identity(odd, shape=(3, 96, 96))
    with pytest.raises(WeightsError, match="takes 4 channels, expected a network for images with 1 or 3"):
        open_identity(onnx_of(tmp_path / "four.onnx", (1, 4, 96, 96)))


def test_an_invalid_onnx_file_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "words.onnx").write_text("words")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"words.onnx needs .*pip install 'visionzoo\[export\]'"):
        open_identity(tmp_path / "words.onnx")
    monkeypatch.undo()
    pytest.importorskip("onnxruntime")
    with pytest.raises(WeightsError, match="words.onnx: not an ONNX network, or truncated"):
        open_identity(tmp_path / "words.onnx")


def test_dlibs_network_needs_a_predictor_in_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dlib: Any = types.ModuleType("dlib")
    opened: list[str] = []
    box = types.SimpleNamespace(left=lambda: 4, top=lambda: 4, width=lambda: 9, area=lambda: 81)
    dlib.found = [box]
    dlib.rectangle = lambda *sides: sides
    dlib.get_frontal_face_detector = lambda: lambda image, times: dlib.found
    dlib.shape_predictor = lambda path: opened.append(Path(path).name) or (lambda image, box: box)
    # says how large the image was, and where the face
    describe = types.SimpleNamespace(compute_face_descriptor=lambda image, points: [len(image), *points])
    dlib.face_recognition_model_v1 = lambda path: describe
    monkeypatch.setitem(sys.modules, "dlib", dlib)
    network = tmp_path / "dlib_face_recognition_resnet_model_v1.dat"
    network.write_bytes(b"network")
    with pytest.raises(WeightsError, match="shape predictor .*put shape_predictor_5_face_landmarks.dat beside it"):
        open_identity(network)
    (tmp_path / "shape_predictor_68_face_landmarks.dat").write_bytes(b"predictor")
    found = open_identity(network)
    assert opened == ["shape_predictor_68_face_landmarks.dat"]
    assert found(np.zeros((256, 256, 3), np.uint8)) == pytest.approx([512, 8, 8, 25, 25])
    dlib.found = []
    assert found(np.zeros((256, 256, 3), np.uint8)) is None
    (tmp_path / "own.dat").write_bytes(b"predictor")
    assert "upright by own.dat" in open_identity(network, predictor=tmp_path / "own.dat").name
