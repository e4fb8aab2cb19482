"""SHViT's checkpoints: every published form is recognised and converted in both directions, and wrong ones are named."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.golden import seeded
from tests.golden.case import HERE, Case
from visionzoo import create_model, load_checkpoint
from visionzoo.errors import InputError, VisionZooError
from visionzoo.models.shvit import DetectionBackbone, SHViT, SHViTConfig
from visionzoo.models.shvit.checkpoint import ema_weights, to_official, to_ours, to_timm
from visionzoo.models.shvit.detection import DetectionConfig
from visionzoo.weights import read_checkpoint
from visionzoo.weights import to_official as model_to_official

NAMES = ["shvit_s1", "shvit_s2", "shvit_s3", "shvit_s4"]
TINY = SHViTConfig(
    embed_dim=(32, 44, 60), partial_dim=(8, 11, 13), depth=(1, 1, 2), types=("i", "s", "s"), num_classes=5
)


def seeded_network(config: SHViTConfig = TINY, seed: int = 0) -> SHViT:
    model = SHViT(config).eval()
    model.load_state_dict(seeded.fill(model.state_dict(), seed))
    return model


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("name", [*NAMES, "shvit_s1_distill", "shvit_s4_distill"])
def test_published_names_both_ways(name: str) -> None:
    model = create_model(name.removesuffix("_distill"), distillation=name.endswith("distill"))
    case = Case.read(HERE / "shvit" / f"keys_{name.removeprefix('shvit_')}.json")
    published = case.state()
    ours = to_ours(published, model)
    assert ours.keys() == model.state_dict().keys()
    assert same(to_official(ours), published)
    load_checkpoint(model, published)
    assert same(model_to_official(model), published)


@pytest.mark.parametrize("name", NAMES)
def test_timm_names_both_ways(name: str) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(name)
    published = seeded.fill(theirs.state_dict())
    model = load_checkpoint(create_model(name), published)
    assert same(to_timm(model.state_dict()), published)
    theirs.load_state_dict(to_timm(model.state_dict()), strict=True)


def fused_by_timm(model: SHViT) -> dict[str, Tensor]:
    timm = pytest.importorskip("timm")
    from timm.utils.model import reparameterize_model

    c = model.config
    theirs = timm.create_model(
        "shvit_s1",
        embed_dim=c.embed_dim,
        partial_dim=c.partial_dim,
        depth=c.depth,
        types=c.types,
        num_classes=c.num_classes,
    )
    theirs.load_state_dict(to_timm(model.state_dict()))
    return reparameterize_model(theirs.eval()).state_dict()


def test_fused_files_load_into_the_fused_network() -> None:
    """Files with timm's and with the authors' names."""
    model, x = seeded_network(), torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        wanted = model(x)
        for published in (fused_by_timm(model), to_official(model.fuse().state_dict())):
            for pad_to in (1, 8):
                fused = load_checkpoint(SHViT(TINY).fuse(pad_to), published)
                assert (fused(x) - wanted).norm() < 1e-5 * wanted.norm()
        with pytest.raises(VisionZooError, match=r"fused form.*model.fuse\(\)"):
            load_checkpoint(SHViT(TINY), to_official(model.fuse().state_dict()))


def test_fused_files_go_both_ways() -> None:
    model = seeded_network(SHViTConfig(**{**vars(TINY), "distillation": True}))
    fused = model.fuse()
    for convert in (to_official, to_timm):
        again = load_checkpoint(SHViT(model.config).fuse(), convert(fused.state_dict()))
        assert same(again.state_dict(), fused.state_dict())
    with pytest.raises(InputError, match="padded"):
        to_official(model.fuse(8).state_dict())
    with pytest.raises(InputError, match="no distillation head"):
        to_timm(model.state_dict())


def test_a_fused_network_takes_trained_files_too() -> None:
    model, x = seeded_network(), torch.rand(1, 3, 64, 64)
    for state in (model.state_dict(), to_official(model.state_dict()), to_timm(model.state_dict())):
        fused = load_checkpoint(SHViT(TINY).fuse(8), state)
        with torch.no_grad():
            assert (fused(x) - model(x)).norm() < 1e-5 * model(x).norm()


def test_own_state_dicts_round_trip(tmp_path: Path) -> None:
    model = seeded_network()
    for network, fresh in ((model, SHViT(TINY)), (model.fuse(8), SHViT(TINY).fuse(8))):
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, tmp_path / "own.safetensors")
        assert same(load_checkpoint(fresh, tmp_path / "own.safetensors").state_dict(), network.state_dict())


def test_training_files_load_without_running_code(tmp_path: Path) -> None:
    """The authors' training program saves its command line as a Namespace, which torch refuses by default."""
    model = seeded_network()
    published = {f"module.{key}": value for key, value in to_official(model.state_dict()).items()}
    averaged = to_official(seeded_network(seed=1).state_dict())
    content = {
        "model": published,
        "model_ema": averaged,
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]},
        "epoch": 299,
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(lr=1e-3, model="shvit_s1", mixup_prob=1.0, data_path=None),
    }
    torch.save(content, tmp_path / "train.pth")
    loaded = load_checkpoint(SHViT(TINY), tmp_path / "train.pth")
    assert same(loaded.state_dict(), model.state_dict())
    file = read_checkpoint(tmp_path / "train.pth", safe_classes=[argparse.Namespace])
    ema = load_checkpoint(SHViT(TINY), ema_weights(file))
    assert same(ema.state_dict(), seeded_network(seed=1).state_dict())
    with pytest.raises(InputError, match="no averaged weights"):
        ema_weights({"model": published})


@pytest.mark.parametrize("wrap", ["bare", "model", "state_dict", "module"])
def test_containers(tmp_path: Path, wrap: str) -> None:
    model = seeded_network()
    published = to_official(model.state_dict())
    content = {
        "bare": published,
        "model": {"model": published},
        "state_dict": {"state_dict": published},
        "module": {f"module.{key}": value for key, value in published.items()},
    }[wrap]
    torch.save(content, tmp_path / "w.pth")
    assert same(load_checkpoint(SHViT(TINY), tmp_path / "w.pth").state_dict(), model.state_dict())


def test_old_files_with_matrices_and_without_counters() -> None:
    model = seeded_network()
    old = {
        key: value.flatten(1) if value.shape[2:] == (1, 1) else value
        for key, value in to_official(model.state_dict()).items()
        if not key.endswith("num_batches_tracked")
    }
    loaded = load_checkpoint(SHViT(TINY), old).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in model.state_dict().items())


def test_a_classifier_file_serves_backbones_without_head() -> None:
    model = seeded_network()
    for changes in ({"features_only": True}, {"num_classes": 0}):
        headless = SHViT(SHViTConfig(**{**vars(TINY), **changes})).eval()
        for state in (to_official(model.state_dict()), to_timm(model.state_dict()), model.state_dict()):
            load_checkpoint(headless, state)
            assert torch.equal(headless.stages[2].blocks[1].ffn.expand.conv.weight, state_tail(model))  # pyright: ignore


def state_tail(model: SHViT) -> Tensor:
    return model.state_dict()["stages.2.blocks.1.ffn.expand.conv.weight"]


def test_mmdetection_files(tmp_path: Path) -> None:
    """Backbone and neck load; the heads are named; and the backbone alone loads into a classifier."""
    config = DetectionConfig(backbone=TINY)
    source = DetectionBackbone(config).eval()
    source.load_state_dict(seeded.fill(source.state_dict()))
    published = to_official(source.state_dict())
    assert "backbone.blocks2.3.mixer.m.qkv.c.weight" in published
    assert "neck.extra_trans_convs.0.conv.bias" in published
    file = {"meta": {"mmdet_version": "2.25.0"}, "state_dict": published}
    torch.save(file, tmp_path / "retinanet.pth")
    assert same(
        load_checkpoint(DetectionBackbone(config), tmp_path / "retinanet.pth").state_dict(), source.state_dict()
    )
    file["state_dict"] = {**published, "bbox_head.retina_cls.weight": torch.zeros(1)}
    with pytest.raises(VisionZooError, match=r"1 are unexpected \(bbox_head"):
        load_checkpoint(DetectionBackbone(config), file)
    load_checkpoint(DetectionBackbone(config), file, strict=False)
    alone = load_checkpoint(SHViT(SHViTConfig(**{**vars(TINY), "features_only": True})), file)
    assert same(alone.state_dict(), source.backbone.state_dict())


def test_misfits_are_grouped() -> None:
    published = Case.read(HERE / "shvit" / "keys_s2.json").state()
    with pytest.raises(VisionZooError, match=r"have another shape \(stages"):
        load_checkpoint(create_model("shvit_s1"), published)
    with pytest.raises(VisionZooError, match=r"head.linear.weight is 1000x448, expected 10x448"):
        load_checkpoint(create_model("shvit_s2", num_classes=10), published)
    with pytest.raises(VisionZooError, match=r"unexpected \(stages|unexpected \(blocks|missing \(stages"):
        load_checkpoint(create_model("shvit_s4"), published)
    with pytest.raises(VisionZooError, match=r"shape|missing"):
        load_checkpoint(create_model("shvit_s1").fuse(8), published)  # pyright: ignore[reportCallIssue]
    with pytest.raises(VisionZooError, match=r"7 of .* missing \(distillation_head\.\* 7\)"):
        load_checkpoint(create_model("shvit_s2", distillation=True), published)
    with pytest.raises(VisionZooError, match="missing.*unexpected"):
        load_checkpoint(create_model("shvit_s1"), {"a.weight": torch.zeros(1)})
