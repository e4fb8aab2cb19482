"""`Interpolator`: an IFNet as a part of a diffusers pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from tests import tiny
from visionzoo.diffusion.folders import import_own
from visionzoo.errors import InputError, WeightsError
from visionzoo.models.lovecon import IFNet, Interpolator
from visionzoo.pipelines.interpolate import InterpolatePipeline


class Smoothing(DiffusionPipeline):
    """A pipeline with the part."""

    def __init__(self, interpolator: Interpolator):
        super().__init__()
        self.register_modules(interpolator=interpolator)


@pytest.fixture
def network() -> IFNet:
    """In half precision, with weights that float32 would not keep by chance."""
    import copy

    return copy.deepcopy(tiny.ifnet()).half()  # pyright: ignore[reportReturnType]


def test_a_folder_of_a_pipeline_loads_again_bit_equal(network: IFNet, tmp_path: Path) -> None:
    Smoothing(Interpolator.of(network)).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["interpolator"] == ["visionzoo.models.lovecon.interpolator", "Interpolator"]
    import_own(tmp_path, ["interpolator"])
    again: Any = Smoothing.from_pretrained(tmp_path, torch_dtype=torch.float16)
    part = again.interpolator
    assert (part.config, part.dtype, part.training) == (network.config, torch.float16, False)
    assert all(torch.equal(value, part.state_dict()[key]) for key, value in network.state_dict().items())
    frames = torch.rand(2, 1, 3, 40, 48)
    assert torch.equal(part.middle_frame(*frames), network.middle_frame(*frames))


def test_the_part_shares_the_weights_of_its_network(network: IFNet) -> None:
    part = Interpolator.of(network)
    assert part.blocks is network.blocks
    assert Interpolator.of(part) is part


def test_its_weights_file_is_a_checkpoint(network: IFNet, tmp_path: Path) -> None:
    Interpolator.of(network).save_pretrained(tmp_path, variant="fp16")
    file = tmp_path / "diffusion_pytorch_model.fp16.safetensors"
    pipe = InterpolatePipeline.create(checkpoint=file, device="cpu", dtype="float32")
    assert pipe.config == network.config
    again = Interpolator.from_pretrained(tmp_path, torch_dtype=torch.float32, variant="fp16")
    assert again.dtype == torch.float32
    assert torch.equal(again.blocks[0].flow_head[0].weight, network.blocks[0].flow_head[0].weight.float())  # pyright: ignore


def test_broken_folders_are_refused_with_the_file(network: IFNet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: holds no configuration of an IFNet"):
        Interpolator.from_pretrained(tmp_path)
    Interpolator.of(network).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "depth": 3}))
    with pytest.raises(InputError, match=r"config\.json: holds no configuration .*no field 'depth'"):
        Interpolator.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "width": 16}))
    with pytest.raises(WeightsError, match="does not fit"):
        Interpolator.from_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"fp16\.safetensors: no such file"):
        Interpolator.from_pretrained(tmp_path, variant="fp16")
    with pytest.raises(InputError, match="safetensors only"):
        Interpolator.of(network).save_pretrained(tmp_path, safe_serialization=False)
