"""Without a model, classifying works offline at once; better weights are used once they are in the cache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import visionzoo
from visionzoo.errors import Caution, InputError
from visionzoo.models.efficientnet_lite import EfficientNetLite
from visionzoo.pipelines.classify import ClassificationResult, ClassifyPipeline
from visionzoo.weights import save_safetensors

from ...command import run
from ..assets import ASSETS

CAT = ASSETS / "queries" / "cat.jpg"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VISIONZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("VISIONZOO_OFFLINE", "1")
    (tmp_path / "home" / "weights").mkdir(parents=True)
    return tmp_path / "home" / "weights"


def test_the_bundled_model_works_offline(home: Path, recwarn: pytest.WarningsRecorder) -> None:
    pipe = visionzoo.pipeline("classify")
    result = pipe(CAT)
    assert isinstance(result, ClassificationResult)
    assert (pipe.name, pipe.image_size) == ("efficientnet_lite0", 224)
    assert "cat" in result.predictions[0].label
    assert not [warning for warning in recwarn if issubclass(warning.category, UserWarning)]
    assert not list(home.iterdir())


def test_a_caution_about_weights_is_for_people(home: Path, capsys: pytest.CaptureFixture) -> None:
    """It is printed once, and not with --quiet or --json."""
    code, _, err = run(capsys, "classify", CAT, CAT, "--model", "shvit_xs")
    assert code == 0
    assert err.count("visionzoo: warning: shvit_xs: its classes are mostly wrong") == 1
    for option in ("--quiet", "--json"):
        code, out, err = run(capsys, "classify", CAT, "--model", "shvit_xs", option)
        assert (code, err) == (0, "")
        assert out
    with pytest.warns(Caution, match="its classes are mostly wrong"):
        ClassifyPipeline.create("shvit_xs")


def test_better_weights_in_the_cache_are_used(home: Path, capsys: pytest.CaptureFixture) -> None:
    code, out, err = run(capsys, "classify", CAT)
    assert code == 0
    assert "cat" in out.splitlines()[0]
    assert "model: efficientnet_lite0, which comes with visionzoo; shvit_s4 is more accurate" in err
    assert "visionzoo weights fetch shvit_s4 (66 MB)" in err
    assert run(capsys, "classify", CAT, "--quiet")[2] == ""
    save_safetensors(visionzoo.create_model("shvit_s4").state_dict(), home / "shvit_s4.in1k.safetensors")
    code, out, err = run(capsys, "classify", CAT)
    assert (code, err.splitlines()[0]) == (0, "model: shvit_s4")
    assert ClassifyPipeline.create().name == "shvit_s4"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone.jpg"], "gone.jpg: no such file"),
        (["words.jpg"], "words.jpg: not an image"),
        (["words.jpg", "empty.jpg"], "none of the 2 images can be read"),
        ([str(CAT), "--every", "0"], "--every must be at least 0.001 seconds, got 0"),
        ([str(CAT), "--image-size", "0"], "image_size must be at least 1, got 0"),
        ([str(CAT), "--labels", "gone.txt"], "gone.txt: no such file"),
        ([str(CAT), "--dtype", "bfloat16", "--runtime", "onnxruntime"], "is for float32 on the CPU"),
    ],
)
def test_files_and_arguments_are_checked_before_weights(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    words: list[str],
    message: str,
) -> None:
    del home
    monkeypatch.chdir(tmp_path)
    Path("words.jpg").write_text("words")
    Path("empty.jpg").touch()
    code, _, err = run(capsys, "classify", *words, "--model", "shvit_s1")
    assert code == 2
    assert message in err
    assert "shvit_s1" not in err


def test_a_custom_network_of_this_class_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = visionzoo.create_model("efficientnet_lite0", num_classes=4)
    assert isinstance(network, EfficientNetLite)
    pipe = ClassifyPipeline(network, image_size=64, labels=list("abcd"), device="cpu", dtype="float32")
    assert (pipe.preprocess.mean, pipe.preprocess.size) == ((0.5, 0.5, 0.5), 64)
    pipe.save_pretrained(tmp_path / "p")
    again = ClassifyPipeline.from_pretrained(tmp_path / "p", "cpu", "float32")
    assert (again.classes, again.config, again.fingerprint) == (pipe.classes, pipe.config, pipe.fingerprint)
    assert again(CAT) == pipe(CAT)
    with pytest.raises(InputError, match="has no field 'embed_dim'"):
        ClassifyPipeline.create("efficientnet_lite0", embed_dim=[8, 8, 8])


def test_torchvision_is_not_imported() -> None:
    """Its import takes as long as torch's."""
    code = (
        "import sys, visionzoo; visionzoo.pipeline('classify', model='efficientnet_lite0')(sys.argv[1]);"
        "print('torchvision' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(CAT)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
