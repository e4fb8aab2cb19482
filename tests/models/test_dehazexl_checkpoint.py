"""DehazeXL's checkpoints: each published form is recognised and converted in both directions, and wrong ones are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.golden import seeded
from tests.golden.case import HERE
from visionzoo import create_model, load_checkpoint
from visionzoo.errors import InputError, VisionZooError
from visionzoo.models.dehazexl import DehazeXL, DehazeXLConfig
from visionzoo.models.dehazexl.checkpoint import derived_differences, to_official, to_ours, variant
from visionzoo.weights import to_official as model_to_official

KEYS = json.loads((HERE / "dehazexl" / "keys.json").read_text(encoding="utf-8"))
SMALL = {"embed_dim": 24, "depths": (2, 2, 2, 2), "heads": (1, 2, 4, 8), "decoder_heads": (8, 4, 2, 1)}


def network(**changes: object) -> DehazeXL:
    return DehazeXL(DehazeXLConfig(**{**SMALL, **changes})).eval()  # pyright: ignore[reportArgumentType]


def seeded_network(**changes: object) -> DehazeXL:
    model = network(**changes)
    model.load_state_dict(seeded.fill(model.state_dict()))
    return model


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("upsample", ["transposed", "shuffle"])
def test_published_names_both_ways(upsample: str) -> None:
    model = seeded_network(upsample=upsample)
    published = to_official(model.state_dict())
    assert variant(published) == upsample
    assert same(to_ours(published, model), model.state_dict())
    again = load_checkpoint(network(upsample=upsample), published)
    assert same(model_to_official(again), published)


def test_shapes_are_the_published_ones() -> None:
    published = to_official(network().state_dict())
    assert {key: list(value.shape) for key, value in published.items()} == KEYS["tiny"]


def test_upsampling_is_the_published_convolution() -> None:
    model = seeded_network()
    published, x = to_official(model.state_dict()), torch.rand(2, 5, 4, 12)
    weight, bias = (published[f"decoder.up_x2.expand.{part}"] for part in ("weight", "bias"))
    want = torch.nn.functional.conv_transpose2d(x.permute(0, 3, 1, 2), weight, bias, stride=2).permute(0, 2, 3, 1)
    with torch.no_grad():
        assert torch.allclose(model.decoder.up_x2(x), want, atol=1e-6)


@pytest.mark.parametrize("wrap", ["bare", "state_dict", "module"])
def test_containers(tmp_path: Path, wrap: str) -> None:
    model = seeded_network()
    published = to_official(model.state_dict())
    content = {
        "bare": published,
        "state_dict": {"state_dict": published, "epoch": 3},
        "module": {f"module.{key}": value for key, value in published.items()},
    }[wrap]
    torch.save(content, tmp_path / "w.pth")
    assert same(load_checkpoint(network(), tmp_path / "w.pth").state_dict(), model.state_dict())


def test_derived_buffers_may_be_missing_and_are_checked() -> None:
    model = seeded_network()
    published = to_official(model.state_dict())
    assert derived_differences(published, model) == []
    weights = {key: value for key, value in published.items() if not key.endswith(("attn_mask", "position_index"))}
    assert len(weights) < len(published)
    assert same(load_checkpoint(network(), weights).state_dict(), model.state_dict())
    key = "decoder.layers_up.2.blocks.1.attn_mask"
    assert derived_differences({**published, key: torch.zeros_like(published[key])}, model) == [key]


def test_the_error_names_the_other_network() -> None:
    model = network()
    with pytest.raises(InputError, match=r"upsample='shuffle', this one has 'transposed'.*'dehazexl_dam'"):
        load_checkpoint(model, to_official(network(upsample="shuffle").state_dict()))
    with pytest.raises(InputError, match="'dehazexl'"):
        load_checkpoint(network(upsample="shuffle"), to_official(model.state_dict()))


def test_unexpected_keys_need_strict_false() -> None:
    published = {**to_official(seeded_network().state_dict()), "encoder.model.head.weight": torch.zeros(2)}
    with pytest.raises(VisionZooError, match=r"1 are unexpected \(encoder"):
        load_checkpoint(network(), published)
    assert same(load_checkpoint(network(), published, strict=False).state_dict(), seeded_network().state_dict())


def test_misfits_are_grouped() -> None:
    with pytest.raises(VisionZooError, match=r"encoder.patch_embed.proj.weight is 24x3x4x4, expected 32x3x4x4"):
        load_checkpoint(network(embed_dim=32), to_official(network().state_dict()))


def test_fused_networks_have_no_published_form() -> None:
    fused = seeded_network().fuse()
    with pytest.raises(InputError, match="no published form"):
        to_official(fused.state_dict())
    with pytest.raises(InputError, match=r"then fuse\(\)"):
        load_checkpoint(fused, to_official(network().state_dict()))


def test_own_files_round_trip(tmp_path: Path) -> None:
    model = seeded_network()
    torch.save(model.state_dict(), tmp_path / "own.pth")
    assert same(load_checkpoint(network(), tmp_path / "own.pth").state_dict(), model.state_dict())


def test_the_encoder_is_timms() -> None:
    """With timm's file, the encoder gives timm's maps; from a whole file, it loads its part."""
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("swinv2_tiny_window16_256").eval()
    theirs.load_state_dict(seeded.fill(theirs.state_dict()))
    encoder = load_checkpoint(create_model("dehazexl").encoder, theirs.state_dict())  # pyright: ignore[reportArgumentType]
    x = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = theirs.forward_intermediates(x, intermediates_only=True, norm=False)
        for ours, map_ in zip(encoder(x), want, strict=True):
            assert (ours - map_).norm() < 1e-5 * map_.norm()
    model = seeded_network()
    alone = load_checkpoint(network().encoder, to_official(model.state_dict()))
    assert same(alone.state_dict(), model.encoder.state_dict())
