"""Classifying pictures: right numbers, files of every origin, nothing lost when something goes wrong."""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import visionzoo
from visionzoo.cards import WeightSource
from visionzoo.cli import main
from visionzoo.errors import InputError, VisionZooError
from visionzoo.io.image import load_image
from visionzoo.labels import imagenet_classes
from visionzoo.models.shvit import Preprocess, SHViT, SHViTConfig
from visionzoo.models.shvit.checkpoint import to_official, to_timm
from visionzoo.pipelines.classify import ClassificationResult, ClassifyPipeline
from visionzoo.weights import WeightsError, read_metadata, save_safetensors

from ..io.odd_files import dds
from .conftest import ASSETS

SMALL: dict[str, Any] = {"embed_dim": [16, 24, 32], "partial_dim": [8, 8, 8], "depth": [1, 1, 1]}
COLOURS = ("red", "green", "blue")


def small(classes: int = 3, **more: Any) -> SHViT:
    """A network of no use, but whose every weight counts: its norms have seen colours and noise."""
    torch.manual_seed(classes)
    network = visionzoo.create_model("shvit_s1", **{**SMALL, "num_classes": classes, **more})
    assert isinstance(network, SHViT)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            module.momentum = None  # the plain mean of what is seen
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        network.train()(torch.randn(64, 3, 1, 1) + 0.3 * torch.randn(64, 3, 64, 64))
    return network.eval()


def colour_network() -> SHViT:
    """Knows red, green and blue: its head answers with the plain colour whose pooled vector is nearest."""
    network = small(3)
    swatches = torch.stack([Preprocess(64)(np.asarray(Image.new("RGB", (64, 64), name))) for name in COLOURS])
    with torch.no_grad():
        means = network.forward_features(swatches)[0]
        centre = means.mean(0)
        spread = (means - centre).pow(2).sum(-1).mean()
        head: Any = network.head
        head.norm.running_mean.copy_(centre)
        head.norm.running_var.fill_(1 - head.norm.eps)
        head.norm.weight.fill_(1)
        head.norm.bias.fill_(0)
        head.linear.weight.copy_(8 * (means - centre) / spread)
        head.linear.bias.copy_(-4 * (means - centre).pow(2).sum(-1) / spread)
    return network


def facts(classes: int = 3, **more: Any) -> dict[str, str]:
    config = {**SMALL, "num_classes": classes}
    return {"model": "shvit_s1", **{k: json.dumps(v) for k, v in {"config": config, "image_size": 64, **more}.items()}}


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "colours.safetensors"
    save_safetensors(colour_network().state_dict(), path, facts(classes=3) | {"classes": json.dumps(COLOURS)})
    return path


@pytest.fixture(scope="session")
def classifier(weights: Path) -> ClassifyPipeline:
    return ClassifyPipeline.create(checkpoint=weights)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Red, green and blue pictures, nine of them, in the order of their names."""
    path = tmp_path / "pictures"
    path.mkdir()
    for number in range(9):
        Image.new("RGB", (80 + number, 70), COLOURS[number % 3]).save(path / f"{number}.png")
    return path


def labels(results: list[ClassificationResult]) -> list[str]:
    return [result.predictions[0].label for result in results]


def run(capsys: pytest.CaptureFixture, *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


# Right answers


def test_says_what_is_there(classifier: ClassifyPipeline, folder: Path) -> None:
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


def test_many_pictures_stay_in_order(classifier: ClassifyPipeline, folder: Path) -> None:
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


def test_pictures_are_taken_as_needed(classifier: ClassifyPipeline) -> None:
    """A stream of any length: the first results come before the last picture is asked for."""
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


def test_pictures_of_every_kind_agree(classifier: ClassifyPipeline) -> None:
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
    with pytest.raises(InputError, match="at least 1; got 0"):
        classifier(folder / "0.png", top=0)
    with pytest.raises(InputError, match="at least 1; got -1"):
        classifier.classify([], batch_size=-1)  # at once, not when the first result is asked for


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(weights: Path, folder: Path, dtype: str) -> None:
    pipe = ClassifyPipeline.create(checkpoint=weights, dtype=dtype)
    assert labels(pipe.run(folder, progress=False)) == list(COLOURS) * 3
    assert pipe.features([folder / "0.png"]).dtype == np.float32


# Pictures that are odd or broken


def test_odd_pictures(classifier: ClassifyPipeline, tmp_path: Path) -> None:
    made = {
        "dot.png": Image.new("RGB", (1, 1), "red"),
        "grey.png": Image.new("L", (50, 40), 200),
        "strip.png": Image.new("RGB", (1, 5000), "blue"),
        "wide.png": Image.new("RGB", (5000, 1), "blue"),
        "alpha.png": Image.new("RGBA", (60, 60), (255, 0, 0, 255)),
        "palette.gif": Image.new("RGB", (60, 60), "red").quantize(4),
        "deep.png": Image.fromarray(np.full((60, 60), 60000, np.uint16)),
        "cmyk.jpg": Image.new("CMYK", (60, 60), (0, 250, 250, 0)),
    }
    for name, picture in made.items():
        picture.save(tmp_path / name)
    got = dict(zip(made, labels(classifier.run([tmp_path / name for name in made], progress=False)), strict=True))
    wanted = {"dot.png": "red", "strip.png": "blue", "wide.png": "blue", "alpha.png": "red", "palette.gif": "red"}
    assert {name: got[name] for name in wanted} == wanted


def break_file(path: Path, how: str) -> None:
    if how == "of a rare kind":
        path.write_bytes(dds(93))
    elif how == "truncated":
        path.write_bytes((ASSETS / "queries" / "cat.jpg").read_bytes()[:3000])
    else:
        path.write_text({"empty": "", "text": "these are words"}[how])


@pytest.mark.parametrize("how", ["empty", "text", "truncated", "of a rare kind"])
def test_a_broken_picture(classifier: ClassifyPipeline, folder: Path, tmp_path: Path, how: str) -> None:
    """Alone it is an error; among others it is reported, and the others are done."""
    break_file(folder / "4.jpg", how)
    with pytest.raises(InputError, match=r"4\.jpg"):
        classifier(folder / "4.jpg")
    with pytest.raises(InputError, match=r"4\.jpg"):
        classifier.features([folder / "0.png", folder / "4.jpg"])
    with pytest.raises(InputError, match=r"4\.jpg"):
        classifier.run(folder / "4.jpg", progress=False)
    with pytest.warns(UserWarning, match=r"4\.jpg: .*; skipped") as caught:
        results = classifier.run(folder, tmp_path / "out.npz", progress=False, batch_size=2)
    assert len(caught) == 1
    broken = [result for result in results if result.error]
    assert [(Path(result.source).name, result.predictions) for result in broken] == [("4.jpg", ())]
    assert labels([result for result in results if not result.error]) == list(COLOURS) * 3
    saved = np.load(tmp_path / "out.npz")
    assert len(saved["features"]) == 9
    assert not any(path.endswith("4.jpg") for path in saved["paths"])
    assert sum(row["error"] is not None for row in json.loads((tmp_path / "out.npz.json").read_text())["results"]) == 1


def test_nothing_can_be_read(classifier: ClassifyPipeline, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        classifier(tmp_path / "no.jpg")
    with pytest.raises(InputError, match="no such file or folder"):
        classifier.run(tmp_path / "no", progress=False)
    (tmp_path / "hollow").mkdir()
    with pytest.raises(InputError, match="no images found"):
        classifier.run(tmp_path / "hollow", progress=False)
    for file in folder.iterdir():
        file.write_bytes(b"")
    with (
        pytest.raises(InputError, match=r"none of the 9 images can be read, e\.g\. .*0\.png"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        classifier.run(folder, tmp_path / "out.html", progress=False)
    assert not (tmp_path / "out.html").exists()
    with pytest.raises(InputError, match=r"image 2: an array of shape \(5,\) is not an image"):
        classifier([Image.new("RGB", (9, 9)), np.zeros(5, np.uint8)])


def test_numbers_that_are_not_finite(folder: Path) -> None:
    network = small()
    with torch.no_grad():
        network.head.linear.bias[0] = torch.nan  # pyright: ignore
    with pytest.raises(InputError, match=r"0\.png: the network gives no finite numbers"):
        ClassifyPipeline(network, image_size=64)(folder / "0.png")


def test_out_of_memory_halves_the_batch(
    classifier: ClassifyPipeline, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that takes two pictures at most: one warning, the same answers."""
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


# Writing results


@pytest.mark.parametrize("name", ["out.json", "out.csv", "out.html", "out.png", "out.jpg", "out.webp", "out.npz"])
def test_run_writes_by_the_ending(classifier: ClassifyPipeline, folder: Path, tmp_path: Path, name: str) -> None:
    results = classifier.run(folder, tmp_path / name, progress=False, top=2)
    record = name if name == "out.json" else f"{name}.json"
    saved = json.loads((tmp_path / record).read_text())
    assert saved["results"] == json.loads(json.dumps([result.to_dict() for result in results]))
    assert saved["options"]["weights"] == classifier.fingerprint
    assert saved["environment"]["versions"]["torch"]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted({"pictures", record, name})
    if name == "out.csv":
        rows = list(csv.DictReader((tmp_path / name).open(newline="")))
        assert len(rows) == 18
        assert rows[2]["source"] == str(folder / "1.png")
        assert (rows[2]["rank"], rows[2]["label"], rows[2]["index"]) == ("1", "green", "1")
        assert float(rows[2]["probability"]) == results[1].predictions[0].probability
    elif name == "out.html":
        page = (tmp_path / name).read_text()
        assert page.count("data:image/jpeg") == 9
        assert page.count(f"{results[0].predictions[0].probability:.1%}") >= 1
    elif name == "out.npz":
        stored = np.load(tmp_path / name)
        assert stored["features"].dtype == np.float32
        assert np.array_equal(stored["features"], classifier.features(sorted(folder.iterdir())))
        assert stored["paths"].tolist() == [result.source for result in results]
    elif name != "out.json":
        assert Image.open(tmp_path / name).size[0] > 500
    before = (tmp_path / name).read_bytes()
    with pytest.raises(InputError, match="exists already.*--overwrite"):
        classifier.run(folder, tmp_path / name, progress=False)
    assert (tmp_path / name).read_bytes() == before
    classifier.run(folder / "0.png", tmp_path / name, progress=False, overwrite=True)
    assert (tmp_path / name).read_bytes() != before


def test_labels_cannot_break_the_page(folder: Path, tmp_path: Path) -> None:
    pipe = ClassifyPipeline(small(), image_size=64, labels=["<script>alert(1)</script>", 'a, "b"', "é 写真"])
    pipe.run(folder / "0.png", tmp_path / "out.html")
    assert "<script>" not in (tmp_path / "out.html").read_text(encoding="utf-8")
    pipe.run(folder / "0.png", tmp_path / "out.csv", overwrite=True)
    assert {row["label"] for row in csv.DictReader((tmp_path / "out.csv").open(encoding="utf-8"))} == set(pipe.classes)


def test_features_beside_another_output(classifier: ClassifyPipeline, folder: Path, tmp_path: Path) -> None:
    classifier.run(folder, tmp_path / "out.csv", progress=False, features=tmp_path / "vectors.npz")
    assert len(np.load(tmp_path / "vectors.npz")["features"]) == 9
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.csv", "out.csv.json", "pictures", "vectors.npz"]
    with pytest.raises(InputError, match=r"vectors\.npz: exists already"):
        classifier.run(folder, tmp_path / "new.csv", progress=False, features=tmp_path / "vectors.npz")
    with pytest.raises(InputError, match=r"written as \.npz"):
        classifier.run(folder, progress=False, features=tmp_path / "vectors.txt")
    with pytest.raises(InputError, match="one file"):
        classifier.run(folder, tmp_path / "a.npz", progress=False, features=tmp_path / "b.npz")


def test_outputs_that_cannot_be(classifier: ClassifyPipeline, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"written as \.html, .*\.npz"):
        classifier.run(folder, tmp_path / "out.docx", progress=False)
    with pytest.raises(InputError, match="make it first"):
        classifier.run(folder, tmp_path / "no" / "out.csv", progress=False)
    many = [folder / "0.png", *(folder / f"{number}.bmp" for number in range(300))]
    for path in many[1:]:
        Image.new("RGB", (4, 4)).save(path)
    with pytest.raises(InputError, match=r"301 images do not fit into one \.webp image; write an \.html page"):
        classifier.run(many, tmp_path / "out.webp", progress=False)


# Weights


def test_metadata_decides_and_arguments_win(weights: Path) -> None:
    pipe = ClassifyPipeline.create("shvit_s1.official", checkpoint=weights, image_size=96, labels=["a", "b", "c"])
    assert (pipe.image_size, pipe.classes, pipe.config.embed_dim) == (96, ("a", "b", "c"), (16, 24, 32))
    with pytest.raises(InputError, match=r"colours\.safetensors: holds weights of shvit_s1, not of shvit_s2"):
        ClassifyPipeline.create("shvit_s2", checkpoint=weights)
    with pytest.raises(InputError, match="num_classes|head"):
        ClassifyPipeline.create(checkpoint=weights, num_classes=7)
    with pytest.raises(InputError, match="with a head, this one has 3 input channels and none"):
        ClassifyPipeline.create(checkpoint=weights, num_classes=0)


def test_damaged_metadata(tmp_path: Path) -> None:
    state = small().state_dict()
    for texts, says in (
        ({"model": "resnet50"}, "'resnet50', which is not a classification model"),
        ({"config": "{"}, "are damaged"),
        ({"config": '"x"'}, "are damaged"),
        ({"classes": '{"a": 1}'}, "are damaged"),
        ({"config": '{"width": 3}'}, "no field 'width'"),
        ({"classes": '["a"]'}, "the labels name 1 classes, but the network has 3"),
        ({"image_size": "0"}, "size of at least 1"),
    ):
        save_safetensors(state, tmp_path / "w.safetensors", facts() | texts)
        with pytest.raises(InputError, match=says):
            ClassifyPipeline.create(checkpoint=tmp_path / "w.safetensors")


@pytest.mark.parametrize("form", ["official", "official fused", "timm", "ours", "ours fused", "float16", "distilled"])
def test_a_users_own_file(tmp_path: Path, folder: Path, form: str) -> None:
    """Ten classes, no metadata: the file's head says how many, and the numbers are the network's."""
    network = small(10, distillation=form == "distilled")
    state = network.state_dict()
    path = tmp_path / ("w.pth" if form.startswith("official") or form == "distilled" else "w.safetensors")
    if form == "official":
        torch.save({"model": to_official(state), "epoch": 3, "args": argparse.Namespace(lr=1e-3)}, path)
    elif form == "official fused":
        torch.save(to_official(network.fuse().state_dict()), path)
    elif form == "distilled":
        torch.save({"model": to_official(state)}, path)
    elif form == "timm":
        save_safetensors(to_timm(state), path)
    else:
        state = network.fuse().state_dict() if form == "ours fused" else state
        half = form == "float16"
        save_safetensors({k: v.half() if half and v.is_floating_point() else v for k, v in state.items()}, path)
    pipe = ClassifyPipeline.create("shvit_s1", checkpoint=path, image_size=64, **SMALL)
    assert pipe.classes == tuple(f"class {index}" for index in range(10))
    with torch.no_grad():
        wanted = network(Preprocess(64)(load_image(folder / "1.png"))[None]).softmax(-1)[0]
    result = pipe(folder / "1.png", top=10)
    assert isinstance(result, ClassificationResult)
    got = {p.index: p.probability for p in result.predictions}
    assert [got[i] for i in range(10)] == pytest.approx(wanted.tolist(), abs=1e-3 if form == "float16" else 2e-5)


def test_weights_of_another_model(tmp_path: Path) -> None:
    visionzoo_s1 = visionzoo.create_model("shvit_s1")
    torch.save(visionzoo_s1.state_dict(), tmp_path / "s1.pth")
    with pytest.raises(WeightsError, match=r"s1\.pth does not fit SHViT: .*name its model: --model NAME"):
        ClassifyPipeline.create(checkpoint=tmp_path / "s1.pth")
    with pytest.raises(WeightsError, match=r"s1\.pth does not fit SHViT") as caught:
        ClassifyPipeline.create("shvit_s2", checkpoint=tmp_path / "s1.pth")
    assert "--model" not in str(caught.value)
    pipe = ClassifyPipeline.create("shvit_s1", checkpoint=tmp_path / "s1.pth")
    assert (pipe.image_size, len(pipe.classes), pipe.classes[281]) == (224, 1000, "tabby")
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth does not fit SHViT"):
        ClassifyPipeline.create("shvit_s1", checkpoint=tmp_path / "other.pth")
    (tmp_path / "text.safetensors").write_text("no weights")
    for name in ("text.safetensors", "gone.safetensors", "gone.pth"):
        with pytest.raises(WeightsError, match=name):
            ClassifyPipeline.create(checkpoint=tmp_path / name)


def test_models_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="superglobal_r50 is not a classification model"):
        ClassifyPipeline.create("superglobal_r50")
    with pytest.raises(InputError, match="did you mean shvit_s4"):
        ClassifyPipeline.create("shvit_s44")
    with pytest.raises(InputError, match=r"did you mean shvit_s1\.official"):
        ClassifyPipeline.create("shvit_s1.oficial")
    with pytest.raises(InputError, match="SHViT network or a name, got Linear"):
        ClassifyPipeline.create(torch.nn.Linear(1, 1))
    with pytest.raises(InputError, match="go with a name"):
        ClassifyPipeline.create(small(), num_classes=4)
    with pytest.raises(InputError, match="at most 4096; got 5000"):
        ClassifyPipeline(small(), image_size=5000)
    with pytest.raises(InputError, match="size of at least 1"):
        ClassifyPipeline(small(), image_size=0)


def test_published_weights_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says where to put the file; put there, it is found, under its tag too."""
    for name, file in (("shvit_s4", "shvit_s4.in1k.safetensors"), ("shvit_s1.official", "shvit_s1.pth")):
        with pytest.raises(WeightsError, match=rf"put the file at .*{file}"):
            ClassifyPipeline.create(name)
    home = tmp_path / "home" / "weights"
    home.mkdir(parents=True)
    monkeypatch.setenv("VISIONZOO_HOME", str(tmp_path / "home"))
    torch.save({"model": to_official(visionzoo.create_model("shvit_s1").state_dict())}, home / "shvit_s1.pth")
    pipe = ClassifyPipeline.create("shvit_s1.official")
    assert (pipe.name, pipe.image_size, pipe.classes) == ("shvit_s1.official", 224, imagenet_classes())


def test_a_bundled_model_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where published weights cannot be had, the error names a model whose weights are here, if there is one."""
    import visionzoo.task_pipeline as module

    real = module.model_card

    def card(name: str):
        from dataclasses import replace

        sources = tuple(replace(source, bundled=None) for source in real(name).weights)
        if name == "shvit_s2":
            sources = (*sources, WeightSource("shvit_s2.here", "here.safetensors", "MIT", bundled="here.safetensors"))
        return replace(real(name), weights=sources)

    monkeypatch.setattr(module, "model_card", card)
    with pytest.raises(WeightsError, match=r"or use --model shvit_s2\.here, whose weights come with visionzoo"):
        ClassifyPipeline.create("shvit_s4")


# Names of classes


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


# The pipeline object


@pytest.mark.parametrize("fused", [False, True])
def test_save_and_load(tmp_path: Path, folder: Path, fused: bool) -> None:
    network = small(10)
    pipe = ClassifyPipeline(
        network.fuse() if fused else network, image_size=48, labels=[f"{i}!" for i in range(10)], dtype="bfloat16"
    )
    pipe.save_pretrained(tmp_path / "p")
    wanted = ClassifyPipeline(network, image_size=48, labels=pipe.classes).run(folder, progress=False)
    for again in (
        ClassifyPipeline.from_pretrained(tmp_path / "p"),
        ClassifyPipeline.create(checkpoint=tmp_path / "p" / "model.safetensors"),
    ):
        assert (again.image_size, again.classes, again.config) == (48, pipe.classes, pipe.config)
        for one, other in zip(again.run(folder, progress=False, top=10), wanted, strict=True):
            assert one.predictions[0].label == other.predictions[0].label
            assert one.predictions[0].probability == pytest.approx(other.predictions[0].probability, abs=1e-4)
    for broken in ("{}", "nonsense", '{"model": "x", "image_size": 3, "classes": [], "config": {"zzz": 1}}'):
        (tmp_path / "p" / "pipeline.json").write_text(broken)
        with pytest.raises(InputError, match="no saved classification pipeline"):
            ClassifyPipeline.from_pretrained(tmp_path / "p")
    with pytest.raises(InputError, match="no saved classification pipeline"):
        ClassifyPipeline.from_pretrained(tmp_path)


def test_what_is_saved_keeps_its_name(classifier: ClassifyPipeline, tmp_path: Path) -> None:
    classifier.save_pretrained(tmp_path)
    assert read_metadata(tmp_path / "model.safetensors")["model"] == "shvit_s1"
    again = ClassifyPipeline.from_pretrained(tmp_path)
    assert (again.name, again.fingerprint) == ("shvit_s1", classifier.fingerprint)


def test_pipeline_by_name(weights: Path) -> None:
    network = small().train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    made = visionzoo.pipeline("classify", model=network, image_size=32)
    assert isinstance(made, ClassifyPipeline)
    assert made.to("cpu") is made
    made(Image.new("RGB", (9, 9)))
    assert network.training, "the user's network stays as it is"
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert isinstance(visionzoo.pipeline("classify", checkpoint=weights), ClassifyPipeline)
    with pytest.raises(InputError, match="cuda:99"):
        made.to("cuda:99")
    with pytest.raises(InputError, match="cuda:99"):
        visionzoo.pipeline("classify", device="cuda:99")
    assert SHViTConfig() == SHViTConfig(), "registered configurations are not touched"


# The command


def test_help(capsys: pytest.CaptureFixture) -> None:
    code, out, _ = run(capsys, "classify", "--help")
    assert code == 0
    for word in (
        "Usage: visionzoo classify",
        "Example",
        "visionzoo classify PHOTOS --top 3 -o result.html",
        "--labels",
    ):
        assert word in out
    assert "classify" in run(capsys, "--help")[1]


def test_command_prints(capsys: pytest.CaptureFixture, weights: Path, folder: Path) -> None:
    code, out, _ = run(capsys, "classify", folder / "0.png", "--checkpoint", weights)
    assert code == 0
    first = out.splitlines()[0].split()
    assert (first[0], first[-1]) == ("1", "red")
    assert first[1].endswith("%")
    assert set(first[2]) <= set("█▏▎▍▌▋▊▉#")
    assert len(out.splitlines()) == 3
    code, out, _ = run(capsys, "classify", folder, "--checkpoint", weights)
    assert [line.split()[1] for line in out.splitlines()] == list(COLOURS) * 3
    assert out.splitlines()[8].endswith("8.png")
    code, out, _ = run(capsys, "classify", folder / "[01].png", "--checkpoint", weights, "--top", 2)
    lines = out.splitlines()
    assert len(lines) == 6
    assert lines[3].endswith("1.png")
    assert lines[4].endswith("green")


def test_command_as_json_and_files(capsys: pytest.CaptureFixture, weights: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "broken.jpg").write_text("words")
    words = ["classify", folder, "--checkpoint", weights, "-o", tmp_path / "r.csv", "--features", tmp_path / "f.npz"]
    code, out, err = run(capsys, *words, "--json", "--top", 1)
    assert code == 1, "one of the files cannot be read"
    rows = json.loads(out)
    assert [row["predictions"][0]["label"] for row in rows if not row["error"]] == list(COLOURS) * 3
    assert [Path(row["source"]).name for row in rows if row["error"]] == ["broken.jpg"]
    assert "broken.jpg" in err
    assert "Traceback" not in err
    code, out, err = run(capsys, *words, "--overwrite")
    assert code == 1
    assert "r.csv" in err
    assert "f.npz" in err
    assert run(capsys, *words)[0] == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["gone.jpg"], r"gone\.jpg: no such file or folder"),
        (["text.jpg"], r"text\.jpg: not an image"),
        (["text.jpg", "empty.jpg"], "none of the 2 images can be read"),
        (["good.png", "--top", "0"], "at least 1; got 0"),
        (["good.png", "--batch-size", "0"], "batch_size is .* at least 1"),
        (["good.png", "--image-size", "0"], "size of at least 1"),
        (["good.png", "-o", "out.txt"], r"out\.txt: results are written as"),
        (["good.png", "-o", "good.png"], r"good\.png: exists already"),
        (["good.png", "--labels", "text.jpg"], r"text\.jpg: names 1 classes, but the network has 3"),
        (["good.png", "--model", "superglobal_r50"], "is not a classification model"),
        (["good.png", "--model", "shvit_s3"], "holds weights of shvit_s1, not of shvit_s3"),
        (["good.png", "--checkpoint", "text.jpg"], r"text\.jpg: is not a checkpoint"),
        (["good.png", "--device", "cuda:77"], "not available"),
        ([], "inputs|INPUTS"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch, weights: Path, words: list[str], says: str
) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.jpg").write_text("words")
    (tmp_path / "empty.jpg").touch()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "good.png")
    given = words if "--checkpoint" in words else [*words, "--checkpoint", weights]
    code, out, err = run(capsys, "classify", *given)
    errors = [line for line in err.splitlines() if line.startswith("visionzoo: error: ")]
    assert code == 2
    assert len(errors) == 1
    assert re.search(says, errors[0])
    assert "Traceback" not in out + err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["empty.jpg", "good.png", "text.jpg"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_interrupted(weights: Path, folder: Path, tmp_path: Path) -> None:
    """Ctrl-C in the middle: one honest line, exit code 130, and an older result stays as it was."""
    shutil.copy(ASSETS / "queries" / "temple.jpg", folder / "0000.jpg")
    for number in range(1, 3000):  # more than can be done before the signal comes, however late
        os.link(folder / "0000.jpg", folder / f"{number:04}.jpg")
    (tmp_path / "out.json").write_text("older")
    worker = subprocess.Popen(
        [sys.executable, "-m", "visionzoo", "classify", folder, "--checkpoint", weights, "-o", tmp_path / "out.json",
         "--overwrite", "--batch-size", "2"],
        cwd=Path(visionzoo.__file__).parent.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background inherits that it is ignored
    )  # fmt: skip
    assert worker.stdout is not None
    worker.stdout.readline()
    worker.send_signal(signal.SIGINT)
    _, err = worker.communicate(timeout=60)
    assert worker.returncode == 130
    assert "of 3009 images are done and kept in" in err
    assert "run the same command again to resume" in err
    assert "Traceback" not in err
    assert (tmp_path / "out.json").read_text() == "older"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.json", "out.json.part", "pictures"]


def test_an_interrupted_run_resumes(
    classifier: ClassifyPipeline, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done is not computed again, unless the file has changed; other settings begin again."""
    want = classifier.run(folder, progress=False)
    stopped: list[str] = []

    def stop(result: ClassificationResult) -> None:
        stopped.append(result.source)
        if len(stopped) == 5:
            raise KeyboardInterrupt

    message = "interrupted; 5 of 9 images are done and kept in .*out.npz.part: run the same command again to resume"
    with pytest.raises(KeyboardInterrupt, match=message):
        classifier.run(folder, tmp_path / "out.npz", progress=False, on_result=stop)
    assert not (tmp_path / "out.npz").exists()
    Image.new("RGB", (50, 50), "blue").save(folder / "0.png")
    seen: list[str] = []
    real = classifier._prepare
    monkeypatch.setattr(classifier, "_prepare", lambda named: seen.append(Path(named[0]).name) or real(named))
    got = classifier.run(folder, tmp_path / "out.npz", progress=False)
    assert sorted(seen) == ["0.png", "5.png", "6.png", "7.png", "8.png"]
    assert labels(got) == ["blue", *labels(want)[1:]]
    assert got[1:] == want[1:]
    saved = np.load(tmp_path / "out.npz")
    assert np.allclose(saved["features"], classifier.features(sorted(folder.iterdir())), atol=1e-5)
    assert not (tmp_path / "out.npz.part").exists()
    (tmp_path / "out.csv.part").write_text("a file of mine")
    with pytest.raises(InputError, match="out.csv.part: exists and was not made by this command"):
        classifier.run(folder, tmp_path / "out.csv", progress=False)


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
    monkeypatch.setattr("visionzoo.pipelines.classify.pipeline.compile_ahead", lambda *_: pytest.fail("compiled again"))
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
        ({"runtime": "onnxruntime", "compile": True}, "compile is the runtime compiled"),
    ],
)
def test_runtimes_that_do_not_go_together_are_refused(weights: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ClassifyPipeline.create(checkpoint=weights, **options)
