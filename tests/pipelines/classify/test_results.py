"""Classes and probabilities are right, in order, for images of every kind."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from visionzoo.errors import InputError
from visionzoo.io.image import load_image
from visionzoo.labels import imagenet_classes
from visionzoo.models.shvit import Preprocess
from visionzoo.pipelines.classify import ClassificationResult, ClassifyPipeline

from ..assets import ASSETS
from .networks import COLOURS, colour_network, labels, small


def test_attributes_and_predictions(classifier: ClassifyPipeline, folder: Path) -> None:
    assert (classifier.name, classifier.classes, classifier.image_size) == ("shvit_s1", COLOURS, 64)
    result = classifier(folder / "1.png")
    assert isinstance(result, ClassificationResult)
    assert result.source == str(folder / "1.png")
    assert [p.rank for p in result.predictions] == [1, 2, 3]
    assert (result.predictions[0].label, result.predictions[0].index) == ("green", 1)
    assert result.predictions[0].probability > 0.9
    assert sum(p.probability for p in result.predictions) == pytest.approx(1, abs=1e-5)


def test_equals_the_plain_computation(classifier: ClassifyPipeline, weights: Path) -> None:
    """Preprocessing, network and softmax by hand, with the network as trained."""
    paths = sorted((ASSETS / "queries").glob("*.jpg"))[:5]
    network = colour_network()
    batch = torch.stack([Preprocess(64)(load_image(path)) for path in paths])
    with torch.no_grad():
        pooled = network.forward_features(batch)[0]
        wanted = network(batch).softmax(-1).numpy()
    results = classifier(paths, top=3)
    assert isinstance(results, list)
    for result, row in zip(results, wanted, strict=True):
        got = {p.index: p.probability for p in result.predictions}
        assert [got[i] for i in range(3)] == pytest.approx(row.tolist(), abs=2e-5)
        assert [p.index for p in result.predictions] == np.argsort(-row).tolist()
    vectors = classifier.features(paths, batch_size=2)
    assert (vectors.shape, vectors.dtype) == ((5, 32), np.float32)
    assert np.allclose(vectors, pooled.numpy(), rtol=1e-4, atol=1e-3)


def test_many_images_stay_in_order(classifier: ClassifyPipeline, folder: Path) -> None:
    paths = sorted(folder.iterdir())
    for batch_size in (1, 4, 32):
        results = classifier(paths, batch_size=batch_size)
        assert isinstance(results, list)
        assert labels(results) == list(COLOURS) * 3
        assert [result.source for result in results] == [str(path) for path in paths]
    assert labels(classifier.run(folder, progress=False)) == list(COLOURS) * 3
    assert labels(classifier.run(str(folder / "[36].png"), progress=False)) == ["red", "red"]
    assert labels(classifier.run([folder / "2.png", folder / "1.png"], progress=False)) == ["blue", "green"]
    assert classifier([]) == []
    assert classifier.features([]).shape == (0, 32)


def test_images_are_read_lazily(classifier: ClassifyPipeline) -> None:
    """A stream of any length: the first results come before the last image is asked for."""
    taken = 0

    def stream():
        nonlocal taken
        while True:
            taken += 1
            yield Image.new("RGB", (64, 64), "blue")

    results = classifier.classify(stream(), batch_size=4)
    assert next(results).predictions[0].label == "blue"
    assert taken < 100
    results.close()  # pyright: ignore[reportAttributeAccessIssue]


def test_images_of_every_kind_agree(classifier: ClassifyPipeline) -> None:
    path = ASSETS / "queries" / "flower.jpg"
    array = load_image(path)
    kinds = [path, str(path), Image.open(path), array, path.read_bytes(), torch.from_numpy(array).permute(2, 0, 1)]
    results = classifier(kinds)
    assert isinstance(results, list)
    for result in results:  # whatever the batch, up to rounding
        assert [p.label for p in result.predictions] == [p.label for p in results[0].predictions]
        wanted = [p.probability for p in results[0].predictions]
        assert [p.probability for p in result.predictions] == pytest.approx(wanted, abs=1e-4)
    assert [result.source for result in results[1:3]] == [str(path), "image 3"]


def test_top(classifier: ClassifyPipeline, folder: Path) -> None:
    for top, wanted in ((1, 1), (2, 2), (99, 3)):
        result = classifier(folder / "0.png", top=top)
        assert isinstance(result, ClassificationResult)
        assert len(result.predictions) == wanted
    with pytest.raises(InputError, match="at least 1, got 0"):
        classifier(folder / "0.png", top=0)
    with pytest.raises(InputError, match="at least 1, got -1"):
        classifier.classify([], batch_size=-1)  # at once, not when the first result is asked for


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(weights: Path, folder: Path, dtype: str) -> None:
    pipe = ClassifyPipeline.create(checkpoint=weights, dtype=dtype)
    assert labels(pipe.run(folder, progress=False)) == list(COLOURS) * 3
    assert pipe.features([folder / "0.png"]).dtype == np.float32


def test_numbers_that_are_not_finite(folder: Path) -> None:
    network = small()
    with torch.no_grad():
        network.head.linear.bias[0] = torch.nan  # pyright: ignore
    with pytest.raises(InputError, match=r"0\.png: the network gives no finite numbers"):
        ClassifyPipeline(network, image_size=64)(folder / "0.png")


def test_out_of_memory_halves_the_batch(
    classifier: ClassifyPipeline, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device with memory for at most two images: one warning, the same results."""
    real = classifier.model.forward_features

    def narrow(batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if len(batch) > 2:
            raise torch.OutOfMemoryError("no room")
        return real(batch)

    monkeypatch.setattr(classifier.model, "forward_features", narrow)
    with pytest.warns(UserWarning, match="out of memory; continuing with batches of") as caught:
        assert labels(classifier.run(folder, progress=False)) == list(COLOURS) * 3
    assert len(caught) == 1
    monkeypatch.setattr(
        classifier.model, "forward_features", lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError("no room"))
    )
    with pytest.raises(InputError, match="lower --image-size"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classifier(folder / "0.png")


def test_labels(tmp_path: Path) -> None:
    lines, listed = tmp_path / "labels.txt", tmp_path / "labels.json"
    lines.write_text("tabby cat\n Straße \nTGV 写真\n\n", encoding="utf-8-sig")
    listed.write_text(json.dumps(["tabby cat", "Straße", "TGV 写真"]))
    for source in (lines, str(listed), ["tabby cat", "Straße", "TGV 写真"]):
        assert ClassifyPipeline(small(), labels=source).classes == ("tabby cat", "Straße", "TGV 写真")
    assert ClassifyPipeline(small()).classes == ("class 0", "class 1", "class 2")
    assert (len(imagenet_classes()), imagenet_classes()[281]) == (1000, "tabby")
    lines.write_text("a\nb\n")
    with pytest.raises(InputError, match=r"labels\.txt: names 2 classes, but the network has 3"):
        ClassifyPipeline(small(), labels=lines)
    with pytest.raises(InputError, match="the labels name 4 classes, but the network has 3"):
        ClassifyPipeline(small(), labels=["a"] * 4)
    for content in (b"a\n\nb", b"[1, 2, 3]", b'{"0": "a"}', b"[oops", b"\xff\xfe\x00"):
        lines.write_bytes(content)
        with pytest.raises(InputError, match=r"labels\.txt: .*JSON list"):
            ClassifyPipeline(small(), labels=lines)
    with pytest.raises(InputError, match=r"gone\.txt: no such file, expected a file of labels"):
        ClassifyPipeline(small(), labels=tmp_path / "gone.txt")
