"""Models that are exported by name or from a file of ours, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.command import run
from tests.export.networks import SMALL, needs_onnx, network, relative
from tests.golden import seeded
from visionzoo import create_model
from visionzoo.errors import InputError
from visionzoo.export import export_model, export_registered


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A file like those that our training writes."""
    path = tmp_path / "weights.safetensors"
    model = network(num_classes=3)
    texts = {
        "model": "shvit_s1",
        "config": json.dumps({**{key: list(value) for key, value in SMALL.items()}, "num_classes": 3}),
        "classes": json.dumps(["cat", "dog", "bird"]),
        "image_size": json.dumps(96),
    }
    save_file(model.state_dict(), path, texts)
    return path


def test_a_trained_file_describes_itself(tmp_path: Path, trained: Path) -> None:
    report = export_registered("shvit_s1.in1k", tmp_path / "a.pt2", checkpoint=trained)
    assert report.checked[0] == (1, 3, 96, 96)
    assert json.loads(report.texts["classes"]) == ["cat", "dog", "bird"]
    assert report.texts["model"] == "shvit_s1"
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        got = torch.export.load(tmp_path / "a.pt2").module()(x)
        assert relative(got, network(num_classes=3)(x)) < 1e-5
    with pytest.raises(InputError, match=r"weights\.safetensors: holds weights of shvit_s1, not of shvit_s2"):
        export_registered("shvit_s2", tmp_path / "b.pt2", checkpoint=trained)
    save_file({"a": torch.zeros(1)}, trained, {"classes": "cat, dog"})
    with pytest.raises(InputError, match="its config, classes or image_size are damaged"):
        export_registered("shvit_s1", tmp_path / "b.pt2", checkpoint=trained)


@pytest.mark.parametrize("fused", [False, True])
def test_a_file_without_texts_has_its_own_number_of_classes(tmp_path: Path, fused: bool) -> None:
    """Published networks that were fine-tuned elsewhere, fused or not before saving."""
    torch.manual_seed(0)
    model: Any = create_model("shvit_xs", num_classes=7)
    kept = model.fuse() if fused else model
    torch.save({"model": kept.state_dict()}, tmp_path / "seven.pth")
    report = export_registered(
        "shvit_xs", tmp_path / "a.pt2", checkpoint=tmp_path / "seven.pth", dynamic=False, image_size=64
    )
    assert next(iter(report.outputs.values()))[-1] == 7
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert relative(torch.export.load(tmp_path / "a.pt2").module()(x), model(x)) < 1e-5


@pytest.mark.slow
def test_published_weights_by_name(tmp_path: Path) -> None:
    """They contain their classes, those of ImageNet, and the size at which they were trained."""
    from visionzoo.weights import weights_dir

    model = create_model("shvit_s1")
    model.load_state_dict(seeded.fill(model.state_dict()))
    weights_dir().mkdir(parents=True)
    torch.save({"model": model.state_dict()}, weights_dir() / "shvit_s1.pth")
    report = export_registered("shvit_s1.official", tmp_path / "a.pt2", dynamic=False, check=False)
    assert report.texts["model"] == "shvit_s1.official"
    assert json.loads(report.texts["image_size"]) == 224
    classes = json.loads(report.texts["classes"])
    assert (len(classes), classes[0]) == (1000, "tench")
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert relative(torch.export.load(tmp_path / "a.pt2").module()(x), model(x)) < 1e-5
    report = export_registered("shvit_s4", tmp_path / "b.pt2", random=True, dynamic=False, check=False)
    assert report.inputs == {"images": (1, 3, 256, 256)}
    assert "classes" not in report.texts


@needs_onnx
def test_the_command(capsys: pytest.CaptureFixture, tmp_path: Path, trained: Path) -> None:
    path = tmp_path / "a.onnx"
    words = ["export", "shvit_s1", "--checkpoint", trained, "-o", path, "--fixed", "--image-size", 64]
    code, out, err = run(capsys, *words)
    assert code == 0
    assert out.splitlines()[0].startswith(f"{path}: ONNX, opset ")
    assert "images (1, 3, 64, 64)" in out
    assert "relative error" in out
    assert len(err.splitlines()) == 1
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "exists already" in err
    code, out, err = run(capsys, *words, "--overwrite", "--json", "--opset", 18, "--dtype", "float16")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert (data["opset"], data["dtype"], data["format"]) == (18, "float16", "ONNX")
    assert data["error"] < 2e-2
    code, out, _ = run(capsys, *words, "--overwrite", "--no-check")
    assert code == 0
    assert "not checked" in out


def test_the_command_explains_itself(capsys: pytest.CaptureFixture) -> None:
    code, out, _ = run(capsys, "export", "--help")
    assert code == 0
    assert "Example: visionzoo export shvit_s1 -o shvit_s1.onnx" in " ".join(out.split())
    assert "export" in run(capsys)[1]
    packages = json.loads(run(capsys, "doctor", "--json")[1])["optional packages"]
    assert {"onnx", "onnxscript", "onnxruntime"} <= set(packages)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["shvit_s1", "-o", "a.tflite"], r"a\.tflite: the extension"),
        (["shvit_s9", "-o", "a.pt2"], "did you mean"),
        (["shvit_s1.nonsense", "-o", "a.pt2"], "no checkpoint 'shvit_s1.nonsense'"),
        (
            ["superglobal_r50", "-o", "a.pt2"],
            "'retrieve' cannot be exported yet; those that can: efficientnet_lite0, shvit_s1",
        ),
        (["shvit_s1", "-o", "a.pt2"], "put the file at .*shvit_s1.in1k.safetensors"),
        (["shvit_s1", "-o", "a.pt2", "--random", "--checkpoint", "b.pth"], "not both"),
        (["shvit_s1", "-o", "a.pt2", "--checkpoint", "none.safetensors"], "none.safetensors: no such"),
        (["shvit_s1", "-o", "old.pt2", "--random"], "old.pt2: exists already.*--overwrite"),
        (["shvit_s1", "-o", "a.pt2", "--random", "--image-size", "0"], "at least 1 pixel"),
        (["shvit_s1"], "output"),
    ],
)
def test_wrong_arguments_are_one_line_errors(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.pt2").write_text("old")
    code, _, err = run(capsys, "export", *words)
    assert code == 2
    (line,) = [line for line in err.splitlines() if line.startswith("visionzoo: error: ")]
    assert re.search(says, line)
    assert [entry.name for entry in tmp_path.iterdir()] == ["old.pt2"]


def test_a_network_from_a_file_is_described_as_the_file_says(tmp_path: Path, trained: Path) -> None:
    """Exported from Python, a file also states the size at which the weights were trained, not the usual one."""
    config = {**SMALL, "num_classes": 3}
    model: Any = create_model("shvit_s1", checkpoint=trained, **config)
    report = export_model(model, tmp_path / "a.pt2", check=False)
    assert report.texts["image_size"] == "96"
    assert report.texts["model"] == "shvit_s1"
    assert json.loads(report.texts["classes"]) == ["cat", "dog", "bird"]
    fused = export_model(model.fuse(), tmp_path / "b.pt2", check=False)
    assert fused.texts == report.texts
    model.reset_classifier(3)
    assert "classes" not in export_model(model, tmp_path / "c.pt2", check=False).texts
    texts = export_model(model, tmp_path / "d.pt2", image_size=128, name="mine", classes=list("abc"), check=False).texts
    assert (texts["image_size"], texts["model"], texts["classes"]) == ("128", "mine", '["a", "b", "c"]')


def test_published_sizes_are_known_in_python(tmp_path: Path) -> None:
    model = create_model("shvit_s4", **SMALL, num_classes=5)
    assert export_model(model, tmp_path / "a.pt2", check=False).texts["image_size"] == "256"
    bundled = create_model("shvit_xs", pretrained=True)
    assert export_model(bundled, tmp_path / "b.pt2", check=False).texts["image_size"] == "128"
