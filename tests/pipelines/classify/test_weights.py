"""Weights of every origin: files with and without metadata, published ones, saved pipelines."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from PIL import Image

import visionzoo
from visionzoo.cards import WeightSource
from visionzoo.errors import InputError
from visionzoo.io.image import load_image
from visionzoo.labels import imagenet_classes
from visionzoo.models.shvit import Preprocess, SHViTConfig
from visionzoo.models.shvit.checkpoint import to_official, to_timm
from visionzoo.pipelines.classify import ClassificationResult, ClassifyPipeline
from visionzoo.weights import WeightsError, read_metadata, save_safetensors

from .networks import SMALL, facts, small


def test_metadata_decides_and_arguments_win(weights: Path) -> None:
    pipe = ClassifyPipeline.create("shvit_s1.official", checkpoint=weights, image_size=96, labels=["a", "b", "c"])
    assert (pipe.image_size, pipe.classes, pipe.config.embed_dim) == (96, ("a", "b", "c"), (16, 24, 32))
    with pytest.raises(InputError, match=r"colours\.safetensors: holds weights of shvit_s1, not of shvit_s2"):
        ClassifyPipeline.create("shvit_s2", checkpoint=weights)
    with pytest.raises(InputError, match="num_classes|head"):
        ClassifyPipeline.create(checkpoint=weights, num_classes=7)
    with pytest.raises(InputError, match="with a head, but this one has 3 input channels and none"):
        ClassifyPipeline.create(checkpoint=weights, num_classes=0)


def test_damaged_metadata(tmp_path: Path) -> None:
    state = small().state_dict()
    for texts, message in (
        ({"model": "resnet50"}, "'resnet50', which is not a classification model"),
        ({"config": "{"}, "are damaged"),
        ({"config": '"x"'}, "are damaged"),
        ({"classes": '{"a": 1}'}, "are damaged"),
        ({"config": '{"width": 3}'}, "no field 'width'"),
        ({"classes": '["a"]'}, "the labels name 1 class, but the network has 3"),
        ({"image_size": "0"}, "image_size must be at least 1"),
    ):
        save_safetensors(state, tmp_path / "w.safetensors", facts() | texts)
        with pytest.raises(InputError, match=message):
            ClassifyPipeline.create(checkpoint=tmp_path / "w.safetensors")


@pytest.mark.parametrize("form", ["official", "official fused", "timm", "ours", "ours fused", "float16", "distilled"])
def test_a_users_own_file(tmp_path: Path, folder: Path, form: str) -> None:
    """Ten classes, no metadata: the file's head gives their number, and results equal the network's."""
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
    with pytest.raises(WeightsError, match=r"s1\.pth does not fit SHViT: .*give its model with --model NAME"):
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


def test_unknown_models(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="superglobal_r50 is not a classification model"):
        ClassifyPipeline.create("superglobal_r50")
    with pytest.raises(InputError, match="did you mean shvit_s4"):
        ClassifyPipeline.create("shvit_s44")
    with pytest.raises(InputError, match=r"did you mean shvit_s1\.official"):
        ClassifyPipeline.create("shvit_s1.oficial")
    with pytest.raises(InputError, match="SHViT network or a name, got Linear"):
        ClassifyPipeline.create(torch.nn.Linear(1, 1))
    with pytest.raises(InputError, match="need a model name"):
        ClassifyPipeline.create(small(), num_classes=4)
    with pytest.raises(InputError, match="at most 4096, got 5000"):
        ClassifyPipeline(small(), image_size=5000)
    with pytest.raises(InputError, match="image_size must be at least 1"):
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
    """If published weights are not available, the error names a model whose weights are, if there is one."""
    import visionzoo.task as module

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
    assert network.training, "the user's network stays unchanged"
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert isinstance(visionzoo.pipeline("classify", checkpoint=weights), ClassifyPipeline)
    with pytest.raises(InputError, match="cuda:99"):
        made.to("cuda:99")
    with pytest.raises(InputError, match="cuda:99"):
        visionzoo.pipeline("classify", device="cuda:99")
    assert SHViTConfig() == SHViTConfig(), "registered configurations are not touched"
