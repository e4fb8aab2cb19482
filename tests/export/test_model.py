"""Exported files: right results at sizes that were not traced, a single complete file, and clear errors."""

from __future__ import annotations

import builtins
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.export.networks import alone, free_sizes, needs_onnx, network, relative, session
from tests.golden import seeded
from visionzoo import create_model
from visionzoo.errors import InputError, MissingDependencyError, VisionZooError
from visionzoo.export import ExportReport, export_model
from visionzoo.export.report import describe
from visionzoo.models.shvit import SHViT, SHViTConfig

# ONNX


@needs_onnx
@free_sizes
def test_onnx_at_any_batch_and_size(tmp_path: Path) -> None:
    model, path = network(), tmp_path / "small.onnx"
    report = export_model(model, path)
    assert alone(path)
    assert report.inputs == {"images": ("batch", 3, "height", "width")}
    assert report.outputs == {"logits": ("batch", 5)}
    assert report.checked == ((1, 3, 224, 224), (3, 3, 237, 281))
    assert report.error is not None
    assert 0 < report.error < 1e-5
    assert report.size_mb == path.stat().st_size / 1e6
    runs = session(path)
    for shape in [(1, 3, 100, 132), (4, 3, 33, 1), (1, 3, 1, 1), (2, 3, 544, 544)]:  # the last one has over 256 tokens
        x = torch.randn(shape)
        with torch.no_grad():
            assert relative(runs.run(None, {"images": x.numpy()})[0], model(x)) < 1e-5
    assert [side if isinstance(side, int) else str(side) for side in runs.get_inputs()[0].shape] == [
        "batch", 3, "height", "width",
    ]  # fmt: skip


@needs_onnx
def test_fixed_onnx_takes_its_own_shape_only(tmp_path: Path) -> None:
    import onnxruntime

    model, path = network(), tmp_path / "small.onnx"
    report = export_model(model, path, image_size=(64, 40), dynamic=False)
    assert report.inputs == {"images": (1, 3, 64, 40)}
    assert report.checked == ((1, 3, 64, 40),)
    runs = session(path)
    x = torch.randn(1, 3, 64, 40)
    with torch.no_grad():
        assert relative(runs.run(None, {"images": x.numpy()})[0], model(x)) < 1e-5
    for other in [(2, 3, 64, 40), (1, 3, 40, 64)]:
        with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):  # pyright: ignore
            runs.run(None, {"images": np.zeros(other, np.float32)})


@needs_onnx
@free_sizes
@pytest.mark.slow
def test_onnx_maps_are_several_outputs(tmp_path: Path) -> None:
    model, path = network(features_only=True, out_indices=(0, 2)), tmp_path / "maps.onnx"
    report = export_model(model, path, image_size=96)
    assert list(report.outputs) == ["stride16", "stride64"]
    assert report.outputs["stride64"][:2] == ("batch", 32)
    assert "height" in str(report.outputs["stride16"][2])
    x = torch.randn(2, 3, 100, 132)
    with torch.no_grad():
        for got, want in zip(session(path).run(None, {"images": x.numpy()}), model(x), strict=True):
            assert relative(got, want) < 1e-5


@needs_onnx
@pytest.mark.slow
def test_opset_is_the_one_asked_for(tmp_path: Path) -> None:
    import onnx

    for opset in (18, 21):
        report = export_model(network(), tmp_path / "a.onnx", image_size=64, dynamic=False, opset=opset)
        imports = onnx.load(tmp_path / "a.onnx").opset_import
        assert report.opset == opset == next(entry.version for entry in imports if entry.domain == "")
    for wrong in (17, 999):
        with pytest.raises(InputError, match=f"opset must be from 18 to .*got {wrong}"):
            export_model(network(), tmp_path / "b.onnx", opset=wrong)
    with pytest.raises(InputError, match=r"opset applies only to \.onnx"):
        export_model(network(), tmp_path / "b.pt2", opset=20)


@needs_onnx
def test_the_file_stands_alone(tmp_path: Path) -> None:
    """The file alone says how to prepare an image and what the outputs mean, but nothing about its author."""
    names = ["cat", "dog", "Käfer", "house, small", "0"]
    path = tmp_path / "a.onnx"
    report = export_model(network(), path, image_size=64, dynamic=False, name="mine", classes=names)
    texts = session(path).get_modelmeta().custom_metadata_map
    assert texts == report.texts
    assert texts["model"] == "mine"
    assert json.loads(texts["classes"]) == names
    assert json.loads(texts["image_size"]) == 64
    assert json.loads(texts["mean"]) == [0.485, 0.456, 0.406]
    assert json.loads(texts["std"]) == [0.229, 0.224, 0.225]
    assert json.loads(texts["crop"]) == 0.875
    assert SHViTConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(texts["config"]).items()})
    folder = str(Path(__file__).parents[2]).encode()
    assert folder not in path.read_bytes()
    assert b"site-packages" not in path.read_bytes()


# torch.export


@pytest.mark.slow
def test_program_at_another_batch_and_size(tmp_path: Path) -> None:
    model, path = network(), tmp_path / "small.pt2"
    report = export_model(model, path, image_size=96, classes=list("abcde"))
    assert alone(path)
    assert report.smallest == (65, 65)
    assert report.error is not None
    assert 0 < report.error < 1e-5
    texts = {"visionzoo.json": ""}
    again = torch.export.load(path, extra_files=texts).module()
    for shape in [(1, 3, 65, 65), (5, 3, 100, 132), (1, 3, 544, 544)]:
        x = torch.randn(shape)
        with torch.no_grad():
            assert relative(again(x), model(x)) < 1e-5
    assert json.loads(texts["visionzoo.json"]) == report.texts
    assert json.loads(report.texts["classes"]) == list("abcde")
    assert json.loads(report.texts["image_size"]) == 96


def test_fixed_program_takes_its_own_shape_only(tmp_path: Path) -> None:
    model, path = network(features_only=True), tmp_path / "small.pt2"
    report = export_model(model, path, image_size=32, dynamic=False)  # below what free sizes allow
    assert report.outputs == {"stride16": (1, 16, 2, 2), "stride32": (1, 24, 1, 1), "stride64": (1, 32, 1, 1)}
    again = torch.export.load(path).module()
    with torch.no_grad():
        x = torch.randn(1, 3, 32, 32)
        assert all(relative(a, b) < 1e-5 for a, b in zip(again(x), model(x), strict=True))
        with pytest.raises((RuntimeError, AssertionError)):
            again(torch.randn(2, 3, 32, 32))


def test_an_example_image_that_is_too_small_for_free_sizes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"65 x 65 in this format, got 64 x 64.*--fixed"):
        export_model(network(), tmp_path / "a.pt2", image_size=64)
    assert not list(tmp_path.iterdir())


# The network that is given


def test_the_network_is_unchanged(tmp_path: Path) -> None:
    model = network().train().half()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = export_model(model, tmp_path / "a.pt2", image_size=96)
    assert report.dtype == "float32"
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    again = torch.export.load(tmp_path / "a.pt2").module()
    assert again(torch.randn(1, 3, 96, 96)).dtype == torch.float32


@pytest.mark.parametrize("changes", [{"distillation": True}, {"num_classes": 0}, {"in_chans": 5}])
def test_heads_and_channels(tmp_path: Path, changes: dict) -> None:
    report = export_model(network(**changes), tmp_path / "a.pt2", image_size=96)
    assert list(report.outputs) == ["output" if changes.get("num_classes") == 0 else "logits"]
    assert report.inputs["images"][1] == changes.get("in_chans", 3)
    assert ("mean" in report.texts) == ("in_chans" not in changes)


def test_a_fused_network_is_used_unchanged(tmp_path: Path) -> None:
    model = network()
    export_model(model.fuse(8), tmp_path / "a.pt2", image_size=96)
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        assert relative(torch.export.load(tmp_path / "a.pt2").module()(x), model(x)) < 1e-5


@needs_onnx
def test_half_precision_if_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    report = export_model(network(), path, image_size=64, dynamic=False, dtype="float16")
    assert report.dtype == "float16"
    (out,) = session(path).run(None, {"images": np.zeros((1, 3, 64, 64), np.float32)})
    assert out.dtype == np.float16
    with pytest.raises(InputError, match="bfloat16"):
        export_model(network(), tmp_path / "b.onnx", dtype="bfloat16")
    with pytest.raises(InputError, match="unknown dtype 'int8'"):
        export_model(network(), tmp_path / "b.onnx", dtype="int8")


class Plain(nn.Module):
    """A network that is not from visionzoo: no configuration, no fused form."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(x).relu(), x.mean((2, 3))


def test_a_network_of_another_kind(tmp_path: Path) -> None:
    report = export_model(Plain(), tmp_path / "a.pt2", image_size=40)
    assert list(report.outputs) == ["output0", "output1"]
    assert "config" not in report.texts
    assert "mean" not in report.texts


# Impossible exports


def test_a_wrong_file_never_lands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older file stays unchanged if the new one gives wrong results or cannot be written."""
    path = tmp_path / "a.pt2"
    path.write_text("the old file")

    class Other(Plain):
        def fuse(self) -> nn.Module:
            other = Plain()
            nn.init.ones_(other.conv.weight)
            return other

    with pytest.raises(VisionZooError, match=r"not written.*relative error"):
        export_model(Other(), path, image_size=40)
    assert path.read_text() == "the old file"
    assert alone(path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.export, "save", full)
    with pytest.raises(VisionZooError, match="disk is full"):
        export_model(Plain(), path, image_size=40)
    assert path.read_text() == "the old file"
    assert alone(path)


def test_without_a_check(tmp_path: Path) -> None:
    report = export_model(Plain(), tmp_path / "a.pt2", image_size=40, check=False)
    assert (report.error, report.checked, report.checked_with) == (None, (), None)
    assert "not checked" in str(report)


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    if missing != "onnx":
        pytest.importorskip("onnx")
    if missing == "onnxruntime":
        pytest.importorskip("onnxscript")
    real = builtins.__import__

    def without(name: str, *rest: object):
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return real(name, *rest)  # pyright: ignore[reportArgumentType]

    original = importlib.import_module
    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(importlib, "import_module", lambda name, *rest: without(name) and original(name, *rest))
    with pytest.raises(MissingDependencyError, match=rf"'{missing}'.*visionzoo\[export\]"):
        export_model(network(), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_arguments_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.tflite: the extension .* \.onnx, \.pt2"):
        export_model(network(), tmp_path / "a.tflite")
    with pytest.raises(InputError, match="does not exist; create it first"):
        export_model(network(), tmp_path / "none" / "a.pt2")
    with pytest.raises(InputError, match="at least 1 pixel, got 0"):
        export_model(network(), tmp_path / "a.pt2", image_size=0)
    with pytest.raises(InputError, match="2 class names for a network with 5"):
        export_model(network(), tmp_path / "a.pt2", classes=["cat", "dog"])


@pytest.mark.slow
@needs_onnx
@free_sizes
@pytest.mark.parametrize("extension", ["onnx", "pt2"])
def test_the_published_network(tmp_path: Path, extension: str) -> None:
    model = create_model("shvit_s1")
    model.load_state_dict(seeded.fill(model.state_dict()))
    report = export_model(model, tmp_path / f"s1.{extension}")
    assert isinstance(report, ExportReport)
    assert report.error is not None
    assert report.error < 1e-5


def test_a_subclass_defined_elsewhere_is_described_as_its_system_says() -> None:
    class Mine(SHViT):
        pass

    with torch.device("meta"):
        mine = Mine(SHViTConfig())
    texts = describe(mine, None, None, (224, 224))
    assert json.loads(texts["mean"]) == [0.485, 0.456, 0.406]
    assert json.loads(texts["crop"]) == 0.875
    assert "mean" not in describe(torch.nn.Conv2d(3, 4, 1), None, None, (32, 32))
