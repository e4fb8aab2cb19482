"""SHViT gives the same results as timm's, in every form that users run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.golden import seeded
from tests.golden.case import HERE, Case, compare
from tests.golden.shvit import compute, sampler
from visionzoo import create_model, list_models, model_card
from visionzoo.errors import InputError, VisionZooError
from visionzoo.models.shvit import (
    DetectionBackbone,
    DistillationLoss,
    RepeatedAugmentationSampler,
    SHViT,
    SHViTConfig,
)
from visionzoo.models.shvit.checkpoint import to_timm
from visionzoo.models.shvit.detection import MASK_RCNN, RETINANET, DetectionConfig

NAMES = ["shvit_s1", "shvit_s2", "shvit_s3", "shvit_s4"]
TINY = SHViTConfig(
    embed_dim=(32, 44, 60), partial_dim=(8, 11, 13), depth=(1, 1, 2), types=("i", "s", "s"), num_classes=5
)


def seeded_network(name_or_config: str | SHViTConfig, **changes: object) -> SHViT:
    """Set nontrivial weights and norm statistics, so that folding has an effect."""
    if isinstance(name_or_config, str):
        model = create_model(name_or_config, **changes)
    else:
        model = SHViT(name_or_config).eval()
    assert isinstance(model, SHViT)
    model.load_state_dict(seeded.fill(model.state_dict()))
    return model


def relative(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape
    return float((got.double() - want.double()).norm() / want.double().norm())


# The published network


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_maps_are_those_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    model, theirs = seeded_network(name), timm.create_model(name).eval()
    theirs.load_state_dict(to_timm(model.state_dict()))
    x = torch.rand(2, 3, 96, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert relative(model(x), theirs(x)) < 3e-6  # rounding errors, because maps grow with seeded weights
        model, theirs, x = model.double(), theirs.double(), x.double()
        assert relative(model(x), theirs(x)) < 1e-12
        for ours, wanted in zip(model.features(x), theirs.forward_intermediates(x)[1], strict=True):
            assert relative(ours, wanted) < 1e-12


def test_building_blocks_of_the_published_code() -> None:
    case = Case.read(HERE / "shvit" / "modules_seed0.json")
    with torch.no_grad():
        results = compute(case)
    for got, entry in zip(results, case.data["cases"], strict=True):
        for name, error in compare(got, entry["outputs"]):
            assert error < 1e-6, (entry["module"], name)


def test_a_new_block_is_the_identity() -> None:
    """Training starts from identity blocks; tests with weights would not detect a wrong initial scale."""
    model = create_model("shvit_s1").train()
    assert isinstance(model, SHViT)
    x = torch.rand(2, 224, 4, 4)
    assert torch.equal(model.stages[1].blocks(x), x)  # pyright: ignore[reportCallIssue]
    assert not torch.equal(model.stages[1].downsample[0](torch.rand(2, 128, 4, 4)), x)  # pyright: ignore[reportIndexIssue]
    assert 0.015 < float(model.state_dict()["head.linear.weight"].std()) < 0.025


def test_names_cards_and_missing_weights() -> None:
    assert list_models("shvit_s*") == NAMES
    assert set(NAMES) <= set(list_models(task="classify", pretrained=True))
    card = model_card("shvit_s4")
    assert card.weights[0].hub == ("timm/shvit_s4.in1k", "model.safetensors")
    assert "79.4" in str(card)
    with pytest.raises(VisionZooError, match=r"put the file at .*shvit_s1.in1k.safetensors"):
        create_model("shvit_s1", pretrained=True)


# Inputs


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (17, 33), (100, 131)])
def test_any_size_works_and_the_map_is_rounded_up(size: tuple[int, int]) -> None:
    model = seeded_network(TINY)
    x = torch.rand(2, 3, *size)
    with torch.no_grad():
        maps = model.features(x)
        assert relative(model.fuse()(x), model(x)) < 1e-5
    for value, channels, stride in zip(maps, model.feature_channels, model.feature_strides, strict=True):
        assert value.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride))
    assert torch.isfinite(maps[-1]).all()


@pytest.mark.parametrize("shape", [(1, 1, 64, 64), (1, 4, 64, 64), (3, 64, 64), (1, 3, 0, 64)])
@pytest.mark.parametrize("fused", [False, True])
def test_images_that_do_not_fit_are_named(shape: tuple[int, ...], fused: bool) -> None:
    model = SHViT(TINY).eval()
    with pytest.raises(InputError, match=r"expected images.*got \("):
        (model.fuse() if fused else model)(torch.zeros(shape))


def test_batches_equal_single_images() -> None:
    model = seeded_network(TINY)
    x = torch.rand(3, 3, 64, 96)
    with torch.no_grad():
        assert relative(model(x), torch.cat([model(one[None]) for one in x])) < 1e-5
        assert model(x[:0]).shape == (0, 5)


def test_other_numbers_of_channels() -> None:
    model = seeded_network(SHViTConfig(**{**vars(TINY), "in_chans": 5}))
    with torch.no_grad():
        x = torch.rand(1, 5, 40, 40)
        assert relative(model.fuse(8)(x), model(x)) < 1e-5


@pytest.mark.parametrize(
    "field",
    [
        {"embed_dim": (12, 20, 30)},
        {"types": ("i", "s", "x")},
        {"depth": (1, 2)},
        {"partial_dim": (32, 48, 400)},
        {"num_classes": -1},
        {"out_indices": (2, 1)},
        {"out_indices": ()},
        {"embed_dims": (8, 8, 8)},
    ],
)
def test_settings_that_make_no_sense(field: dict) -> None:
    with pytest.raises(InputError):
        create_model("shvit_s1", **field)


# Heads and features


def test_features_only_is_a_backbone() -> None:
    model = create_model("shvit_s1", features_only=True, out_indices=[0, 2])
    assert isinstance(model, SHViT)
    maps = model(torch.rand(1, 3, 64, 64))
    assert [tuple(x.shape) for x in maps] == [(1, 128, 4, 4), (1, 320, 1, 1)]
    assert model.feature_channels == (128, 320)
    assert model.feature_strides == (16, 64)
    assert not any(key.startswith("head") for key in model.state_dict())
    assert [x.shape for x in model.fuse()(torch.rand(1, 3, 64, 64))] == [x.shape for x in maps]


def test_pooled_vectors_and_new_heads() -> None:
    model = seeded_network(TINY)
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        pooled, last = model.forward_features(x)
        assert torch.allclose(pooled, last.mean((2, 3)))
        model.reset_classifier(0)
        assert torch.equal(model(x), pooled)
        assert relative(model.fuse()(x), pooled) < 1e-5
        model.double().reset_classifier(7, distillation=True)
        assert model(x.double()).shape == (2, 7)
    assert model.config.num_classes == 7
    assert len(model.train()(x.double())) == 2


def test_distilled_heads_are_a_pair_in_training_and_their_mean_after() -> None:
    model = seeded_network(SHViTConfig(**{**vars(TINY), "distillation": True}))
    assert model.distillation_head is not None
    x = torch.rand(4, 3, 64, 64)
    with torch.no_grad():
        pooled = model.forward_features(x)[0]
        wanted = (model.head(pooled) + model.distillation_head(pooled)) / 2
        assert torch.equal(model(x), wanted)
        assert relative(model.fuse()(x), wanted) < 1e-5
    pair = model.train()(x)
    assert isinstance(pair, tuple)
    DistillationLoss("hard")(pair, torch.tensor([0, 1, 2, 3]), torch.rand(4, 5)).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_every_weight_gets_a_gradient() -> None:
    model = seeded_network(TINY).train()
    model(
        torch.rand(2, 3, 160, 160)
    ).square().sum().backward()  # several tokens in the last stage, or q and k get no gradient
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not still


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_the_slopes(batch: int, training: bool) -> None:
    """torch's batch norm gives wrong gradients for one image in an unusual memory order; the attention must avoid it."""
    attention = seeded_network(TINY).double().stages[1].blocks[0].attention.train(training)  # pyright: ignore
    draw = torch.Generator().manual_seed(0)
    x, direction, weights = (torch.randn(batch, 44, 3, 4, dtype=torch.float64, generator=draw) for _ in range(3))
    attention(x)  # in training the running statistics move, but what is measured does not depend on them
    (slope,) = torch.autograd.grad((attention(x.requires_grad_()) * weights).sum(), x)
    with torch.no_grad():
        ahead, behind = ((attention(x + step * direction) * weights).sum() for step in (1e-6, -1e-6))
    assert float((slope * direction).sum()) == pytest.approx(float(ahead - behind) / 2e-6, rel=1e-5)


# The inference form


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pad_to", [1, 8])
def test_fusing_changes_no_output(name: str, pad_to: int) -> None:
    model = seeded_network(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fused = model.fuse(pad_to)
    x = torch.rand(2, 3, 80, 100, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert relative(fused(x), model(x)) < 1e-5
        for ours, wanted in zip(fused.features(x), model.features(x), strict=True):
            assert relative(ours, wanted) < 1e-5
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    if pad_to == 8:
        assert all(p.shape[0] % 8 == 0 for p in fused.stages.parameters())


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 3), st.integers(1, 90), st.integers(1, 90), st.sampled_from([1, 4, 16]))
def test_fused_at_any_size_and_padding(batch: int, height: int, width: int, pad_to: int) -> None:
    model = seeded_network(TINY)
    x = torch.rand(batch, 3, height, width)
    with torch.no_grad():
        assert relative(model.fuse(pad_to)(x), model(x)) < 1e-5


def test_many_tokens_go_to_the_attention_that_holds_no_scores() -> None:
    model = seeded_network(TINY)
    x = torch.rand(1, 3, 544, 544)  # 17 x 17 tokens in the second stage
    with torch.no_grad():
        assert relative(model.fuse()(x), model(x)) < 1e-5


def test_bfloat16_takes_float32_images() -> None:
    model = seeded_network("shvit_s1")
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        out = model.fuse().to(torch.bfloat16)(x)
        assert out.dtype == torch.bfloat16
        assert relative(out, model(x)) < 0.05


def test_a_fused_network_is_for_inference() -> None:
    model = seeded_network(TINY)
    fused = model.fuse()
    assert not any(p.requires_grad for p in fused.parameters())
    x = torch.rand(1, 3, 64, 64, requires_grad=True)
    (wanted,) = torch.autograd.grad(model(x).square().sum(), x)
    (got,) = torch.autograd.grad(fused.train()(x).square().sum(), x)  # as a frozen part of another network
    assert relative(got, wanted) < 1e-4
    with pytest.raises(InputError, match="pad_to"):
        model.fuse(0)


@pytest.mark.parametrize("form", ["trained", "fused", "channels-last"])
def test_compiles_into_one_graph(form: str) -> None:
    model = seeded_network(TINY)
    network: nn.Module = model.fuse() if form == "fused" else model
    if form == "channels-last":
        network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    x = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        assert relative(torch.compile(network, backend="eager", fullgraph=True)(x), model(x)) < 1e-5


# Detection


@pytest.mark.parametrize(("neck", "finest"), [(RETINANET, 8), (MASK_RCNN, 4)])
def test_pyramid_levels(neck, finest: int) -> None:
    model = DetectionBackbone(DetectionConfig(TINY, neck)).eval()
    x = torch.rand(1, 3, 128, 192)
    with torch.no_grad():
        levels = model(x)
        fused = model.fuse()(x)
    assert list(levels) == list("01234")
    assert model.strides == tuple(finest << i for i in range(5))
    for name, stride in zip(levels, model.strides, strict=True):
        assert levels[name].shape == (1, 256, -(-128 // stride), -(-192 // stride))
        assert relative(fused[name], levels[name]) < 1e-5
    model.train()
    assert model.neck.training
    assert not any(m.training for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d))


# Losses and sampler


def test_published_sampler_indices() -> None:
    data = json.loads((HERE / "shvit" / "losses_and_sampler.json").read_text())
    for name, wanted in data["repeated_augmentation_sampler"].items():
        assert sampler(name) == wanted


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 2000), st.integers(1, 9), st.integers(0, 20), st.integers(1, 4))
def test_processes_see_the_same_epoch(count: int, replicas: int, epoch: int, repeats: int) -> None:
    ranks = [RepeatedAugmentationSampler(range(count), replicas, rank, repeats) for rank in range(replicas)]
    for one in ranks:
        one.set_epoch(epoch)
    drawn = [list(one) for one in ranks]
    assert {len(indices) for indices in drawn} == {len(ranks[0])}
    assert all(0 <= index < count for indices in drawn for index in indices)
    dealt = [index for row in zip(*drawn, strict=True) for index in row]
    runs = [dealt[i : i + repeats] for i in range(0, len(dealt) - repeats + 1, repeats)]
    assert all(len(set(run)) == 1 for run in runs)


def test_losses_name_their_missing_inputs() -> None:
    logits = torch.rand(2, 3)
    with pytest.raises(InputError, match="two heads"):
        DistillationLoss("soft")(logits, torch.tensor([0, 1]), logits)
    with pytest.raises(InputError, match="none, hard, soft or match"):
        DistillationLoss("firm")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="rank must be"):
        RepeatedAugmentationSampler(range(10), 2, 2)


def test_golden_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in Path(HERE / "shvit").glob("*.json")) < 2e6
