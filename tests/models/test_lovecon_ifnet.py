"""RIFE's network: what its middle frames must satisfy whatever its weights, and its published file both ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import visionzoo as vz
from tests.golden import seeded
from tests.golden.case import HERE
from visionzoo.errors import InputError
from visionzoo.models.lovecon import IFNet, IFNetConfig, warp
from visionzoo.weights import WeightsError, load_checkpoint, to_official


def network(**settings) -> IFNet:
    """A narrow network with seeded weights."""
    model = IFNet(IFNetConfig(**{"width": 8, "residuals": 1} | settings)).eval().requires_grad_(False)
    model.load_state_dict(seeded.fill(model.state_dict()))
    return model


def without_motion() -> IFNet:
    """A network whose flow is zero and whose mask is 1/2."""
    model = network()
    for block in model.blocks:
        for head in (block.flow_head, block.mask_head):
            head[-1].weight.zero_()
            head[-1].bias.zero_()
    return model


def pair(height: int = 64, width: int = 64, count: int = 1) -> tuple[Tensor, Tensor]:
    return tuple(seeded.tensor(name, (count, 3, height, width)) for name in ("first", "second"))


def test_without_motion_the_middle_is_the_mean() -> None:
    first, second = pair(40, 50)
    model = without_motion()
    torch.testing.assert_close(model.middle_frame(first, second), (first + second) / 2)
    torch.testing.assert_close(model.middle_frame(first, first), first)


def test_the_order_of_the_frames_does_not_matter() -> None:
    first, second = pair()
    stages, swapped = network()(first, second), network()(second, first)
    for one, other in zip(stages, swapped, strict=True):
        torch.testing.assert_close(one.flow, other.flow.roll(2, 1), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(one.frame, other.frame, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(stages[-1].frame, (first + second) / 2, atol=0.05)


def test_equal_frames_are_weighted_equally_and_moved_equally() -> None:
    first, _ = pair()
    last = network()(first, first)[-1]
    torch.testing.assert_close(last.mask, torch.full_like(last.mask, 0.5))
    torch.testing.assert_close(*last.warped)


@pytest.mark.parametrize("size", [(32, 64), (33, 95), (1, 70)])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_any_size_is_padded_and_cropped_back(size: tuple[int, int], scale: float) -> None:
    first, second = pair(*size, count=2)
    middle = network().middle_frame(first, second, scale)
    assert middle.shape == first.shape
    assert middle.min() >= 0
    assert middle.max() <= 1 + 1e-6


def test_a_batch_is_the_same_as_its_frames_one_by_one() -> None:
    first, second = pair(32, 32, count=3)
    together = network().middle_frame(first, second)
    alone = [network().middle_frame(*frames) for frames in zip(first.split(1), second.split(1), strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_scale_changes_the_resolution_of_the_flow() -> None:
    first, second = pair()
    coarse = network()(first, second, 0.5)[-1].flow
    assert coarse.shape == (1, 4, 64, 64)
    assert not torch.allclose(coarse, network()(first, second)[-1].flow, atol=0.1)


def test_half_precision_keeps_flows_in_float32() -> None:
    first, second = pair()
    last, half = network()(first, second)[-1], network().bfloat16()(first.bfloat16(), second.bfloat16())[-1]
    assert half.flow.dtype == half.frame.dtype == torch.float32
    assert (half.flow - last.flow).norm() < 0.05 * last.flow.norm()


def test_warp_follows_the_flow_and_repeats_borders() -> None:
    image = seeded.tensor("image", (1, 3, 9, 12))
    flow = torch.tensor([2.0, -1.0])[None, :, None, None].expand(1, 2, 9, 12)  # two columns to the right, one row up
    moved = warp(image, flow)
    torch.testing.assert_close(moved[..., 1:, :-2], image[..., :-1, 2:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moved[..., 0, :-2], image[..., 0, 2:], rtol=1e-4, atol=1e-5)


def test_wrong_frames_are_one_line() -> None:
    model, (first, second) = network(), pair()
    with pytest.raises(InputError, match=r"one size, got \(1, 3, 64, 64\) .* and \(1, 3, 64, 32\)"):
        model.middle_frame(first, second[..., :32])
    with pytest.raises(InputError, match=r"\(B, 3, H, W\) of floats .*uint8"):
        model.middle_frame(first.byte(), second.byte())
    with pytest.raises(InputError, match=r"got \(3, 64, 64\)"):
        model(first[0], second[0])
    with pytest.raises(InputError, match="frames are 50 x 64, expected multiples of 32; middle_frame takes any size"):
        model(first[..., :50], second[..., :50])
    with pytest.raises(InputError, match=r"scale must be one of 0.25, 0.5, 1, 2, 4, got 3"):
        model.middle_frame(first, second, 3)
    with pytest.raises(InputError, match="positive even number, got 7"):
        vz.create_model("rife_hdv3", width=7)


# The published file


def published_file(path: Path, *, prefix: str = "module.") -> Path:
    keys = json.loads((HERE / "lovecon" / "keys_ifnet.json").read_text(encoding="utf-8"))["keys"]
    state = {key.replace("ifnet.", prefix, 1): torch.zeros(shape) for key, shape in keys.items()}
    torch.save(seeded.fill(state), path)
    return path


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_the_published_file_loads_without_its_teacher(prefix: str, tmp_path: Path) -> None:
    path = published_file(tmp_path / "flownet.pkl", prefix=prefix)
    stored = torch.load(path)
    model = vz.create_model("rife_hdv3", checkpoint=path)
    official = to_official(model)
    assert len(stored) == 160
    assert {key.removeprefix("module.") for key in official} == {
        name for key in stored if not (name := key.removeprefix("module.")).startswith("block_tea.")
    }
    assert all(torch.equal(value, stored[key.replace("module.", prefix, 1)]) for key, value in official.items())


def test_keys_outside_module_are_dropped(tmp_path: Path) -> None:
    state = torch.load(published_file(tmp_path / "flownet.pkl"))
    load_checkpoint(IFNet(), state | {"steps": torch.zeros(1)})


def test_our_own_file_and_a_wrong_one(tmp_path: Path) -> None:
    model = network()
    again = load_checkpoint(network(), to_official(model))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    with pytest.raises(WeightsError, match="does not fit IFNet.*another shape"):
        load_checkpoint(network(), published_file(tmp_path / "flownet.pkl"))
