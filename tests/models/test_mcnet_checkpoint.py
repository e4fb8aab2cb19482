"""MCNet's checkpoints: published files of each form are recognised and converted in both directions, and wrong ones are named."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import visionzoo as vz
from tests.golden import seeded
from tests.golden.case import HERE
from tests.models.test_mcnet_model import SMALL, images, network
from visionzoo.errors import InputError
from visionzoo.models.mcnet import Discriminator, DiscriminatorConfig, MCNet, MCNetConfig, join_parts, split_parts
from visionzoo.models.mcnet.checkpoint import to_official
from visionzoo.weights import WeightsError, load_checkpoint, read_checkpoint

KEYS = json.loads((HERE / "mcnet" / "keys.json").read_text(encoding="utf-8"))


def empty() -> MCNet:
    return MCNet(MCNetConfig(**SMALL)).eval()


def published_file(model: MCNet, prefix: str = "module.") -> dict[str, Any]:
    """A file like those that the authors' training writes."""
    parts = split_parts(to_official(model.state_dict()))
    file: dict[str, Any] = {
        part: OrderedDict((prefix + key, value) for key, value in state.items()) for part, state in parts.items()
    }
    file["discriminator"] = OrderedDict([(f"{prefix}discs.1.conv.bias", torch.zeros(1))])
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(2))])
    return file | {"optimizer_generator": optimizer.state_dict(), "epoch": 99}


def same(left: nn.Module, right: nn.Module) -> bool:
    one, other = left.state_dict(), right.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_shapes_are_the_published_ones() -> None:
    with torch.device("meta"):
        official = split_parts(to_official(MCNet(MCNetConfig()).state_dict()))
    for part in ("generator", "kp_detector"):
        assert {key: list(value.shape) for key, value in official[part].items()} == KEYS[part]


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_published_file_both_ways(prefix: str, tmp_path: Path) -> None:
    model = network()
    path = tmp_path / "00000099-checkpoint.pth.tar"
    torch.save(published_file(model, prefix), path)
    loaded = read_checkpoint(path)
    again = load_checkpoint(empty(), join_parts(loaded))
    assert same(again, model)
    flat = to_official(again.state_dict())
    assert flat.keys() == {key for key in join_parts(loaded) if not key.startswith("discriminator.")}
    assert vz.weights.to_official(again).keys() == flat.keys()


def test_parts_load_separately() -> None:
    model, other = network(), empty()
    parts = published_file(model)
    load_checkpoint(other.detector, parts["kp_detector"])
    load_checkpoint(other.generator, parts["generator"])
    assert same(model, other)
    third = empty()
    load_checkpoint(third.generator.motion, parts["generator"])
    load_checkpoint(third.detector, join_parts(parts))
    assert same(third.generator.motion, model.generator.motion)
    assert same(third.detector, model.detector)


def test_discriminator() -> None:
    with torch.device("meta"):
        names = {
            f"discriminator.{key}": value for key, value in Discriminator(DiscriminatorConfig()).state_dict().items()
        }
        official = split_parts(to_official(names))["discriminator"]
    assert {key: list(value.shape) for key, value in official.items()} == KEYS["discriminator"]
    judge = Discriminator(DiscriminatorConfig(num_keypoints=4, channels=4))
    state = to_official({f"discriminator.{key}": value for key, value in seeded.fill(judge.state_dict()).items()})
    load_checkpoint(judge, state)
    assert torch.equal(judge.output.weight, state["discriminator.discs.1.conv.weight"])


def test_files_without_counters_or_filters() -> None:
    model = network()
    state = {
        key: value
        for key, value in to_official(model.state_dict()).items()
        if not key.endswith(("num_batches_tracked", "down.weight"))
    }
    again = load_checkpoint(empty(), state)
    assert isinstance(again, MCNet)
    assert torch.equal(
        again(images("source", 1), images("driving", 1)), model(images("source", 1), images("driving", 1))
    )


def test_own_file(tmp_path: Path) -> None:
    model = network()
    vz.weights.save_safetensors(model.state_dict(), tmp_path / "mine.safetensors")
    again = vz.create_model("mcnet", checkpoint=tmp_path / "mine.safetensors", **SMALL)
    assert same(again, model)


def changed(change: Any) -> dict[str, Tensor]:
    state = to_official(network().state_dict())
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("generator.mbUnit.mb"), r"1 of \d+ keys are missing \(generator.memory.mb\)"),
        (
            lambda s: [s.pop(key) for key in list(s) if key.startswith("kp_detector.")],
            r"keys are missing \(detector.\* \d+\)",
        ),
        (
            lambda s: s.update({"generator.final.weight": torch.zeros(3, 5, 7, 7)}),
            "generator.final.weight is 3x5x7x7, expected 3x8x7x7",
        ),
        (
            lambda s: s.update({"generator.extra.weight": torch.zeros(1)}),
            r"1 are unexpected \(generator.extra.weight\)",
        ),
        (lambda s: s.update({"kp_detector.kp.bias": torch.zeros(10)}), "create it with num_keypoints=10"),
        (
            lambda s: s.update({"kp_detector.down.weight": torch.ones(3, 1, 5, 5)}),
            "not the filter for scale_factor=0.25",
        ),
    ],
    ids=["missing", "part", "shape", "unexpected", "keypoints", "filter"],
)
def test_a_wrong_file_is_named(change: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_checkpoint(empty(), changed(change))


def test_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "00000099-checkpoint.pth.tar"
    torch.save(published_file(network()), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeightsError, match=r"00000099-checkpoint.pth.tar: truncated checkpoint"):
        vz.create_model("mcnet", checkpoint=path, **SMALL)


def test_fused_takes_and_gives_no_published_weights() -> None:
    model = network()
    fused = model.fuse()
    with pytest.raises(InputError, match="load them into the network, then fuse"):
        load_checkpoint(fused, to_official(model.state_dict()))
    with pytest.raises(InputError, match="fused network has no published form"):
        to_official(fused.state_dict())


def test_registered() -> None:
    assert vz.list_models("mcnet*", task="reenact") == ["mcnet", "mcnet_nano"]
    with pytest.raises(vz.VisionZooError, match=r"download 00000099-checkpoint.pth.tar from .*MCNET.*put the file at"):
        vz.create_model("mcnet", pretrained=True)


def test_the_identity_code_has_its_published_width_whatever_the_memorys() -> None:
    """The published layers map 512 values to the channels of the memory, even in files with fewer channels."""
    with torch.device("meta"):
        model = MCNet(MCNetConfig(memory_channels=128))
    shapes = {key: tuple(value.shape) for key, value in to_official(model.state_dict()).items()}
    assert shapes["generator.mbUnit.style_route.2.weight"] == (512, 128)
    assert shapes["generator.mbUnit.styleconv.modulated_conv.modulation.weight"] == (128, 512)


def test_a_custom_class_loads_published_weights() -> None:
    class Mine(MCNet):
        pass

    model = network()
    mine = load_checkpoint(Mine(model.config), to_official(model.state_dict()))
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in mine.state_dict().items())
