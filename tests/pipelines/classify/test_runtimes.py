"""Compiled networks and onnxruntime give the same results, and their files are kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from visionzoo.errors import InputError, VisionZooError
from visionzoo.pipelines.classify import ClassifyPipeline

from .networks import COLOURS, labels


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_network_gives_the_same_and_is_kept(
    weights: Path, classifier: ClassifyPipeline, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted(folder.iterdir())
    pipe = ClassifyPipeline.create(checkpoint=weights, compile=True)
    results = list(pipe.classify(files, top=3, batch_size=4))  # 4, 4 and 1
    expected = list(classifier.classify(files, top=3, batch_size=4))
    for got, want in zip(results, expected, strict=True):
        assert [p.label for p in got.predictions] == [p.label for p in want.predictions]
        assert [p.probability for p in got.predictions] == pytest.approx(
            [p.probability for p in want.predictions], abs=1e-5
        )
    monkeypatch.setattr("visionzoo.pipelines.classify.runtimes.compile_ahead", lambda *_: pytest.fail("compiled again"))
    again = ClassifyPipeline.create(checkpoint=weights, compile=True)
    assert labels(list(again.classify(files[:3], batch_size=4))) == list(COLOURS)  # three of four


def test_onnxruntime_gives_the_same_and_its_file_is_kept(
    weights: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setenv("VISIONZOO_HOME", str(tmp_path / "cache"))
    files = sorted(folder.iterdir())[:5]
    plain = ClassifyPipeline.create(checkpoint=weights, dtype="float32")
    pipe = ClassifyPipeline.create(checkpoint=weights, dtype="float32", runtime="onnxruntime")
    got, want = pipe.features(files, 3), plain.features(files, 3)  # the second batch is filled up
    assert np.linalg.norm(got - want) < 1e-4 * np.linalg.norm(want)
    (kept,) = (tmp_path / "cache" / "compiled").glob("*.onnx")
    monkeypatch.setattr("visionzoo.onnx_runtime.convert", lambda *_: pytest.fail("converted again"))
    again = ClassifyPipeline.create(checkpoint=weights, dtype="float32", runtime="onnxruntime")
    for ours, theirs in zip(again(files, batch_size=3), plain(files, batch_size=3), strict=True):
        assert [p.label for p in ours.predictions] == [p.label for p in theirs.predictions]
    kept.write_bytes(b"not a network")
    with pytest.raises(VisionZooError, match="onnxruntime cannot load it .*; delete it"):
        ClassifyPipeline.create(checkpoint=weights, dtype="float32", runtime="onnxruntime").features(files, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "onnxruntime", "dtype": "bfloat16"}, "is for float32 on the CPU, not for bfloat16 on cpu"),
        ({"runtime": "tensorrt"}, "there is no runtime 'tensorrt'"),
        ({"runtime": "onnxruntime", "compile": True}, "compile=True means"),
    ],
)
def test_runtimes_that_do_not_go_together_are_refused(weights: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ClassifyPipeline.create(checkpoint=weights, **options)
