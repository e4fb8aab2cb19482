"""Folders of LongAnimation's pipeline, ours and the published ones, and where its networks run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel
from diffusers.pipelines.cogvideo.pipeline_cogvideox_image2video import CogVideoXImageToVideoPipeline
from torch import nn

from tests import tiny, tiny_animation, tiny_diffusion
from tests.tiny_animation import SETTINGS, colored, drawings
from visionzoo.errors import InputError, WeightsError
from visionzoo.models.longanimation import DynamicMemoryFusion, LineartGenerator, LongAnimationTransformer
from visionzoo.pipelines.colorize import LongAnimationPipeline
from visionzoo.weights import save_safetensors, to_official

SIZES: dict[str, Any] = {key: value for key, value in SETTINGS.items() if key != "memory_prompt"}
"""Settings of the tiny pipeline that the published folder does not state."""


def silent(*_: object) -> None:
    """No progress bars."""


def made(pipe: LongAnimationPipeline, **settings: Any) -> np.ndarray:
    return pipe(drawings(25), colored(1)[0], progress=silent, prompt="a red boat", **settings).frames


def published(folder: Path) -> Path:
    """A folder with the files that the authors and CogVideoX publish, in tiny sizes."""
    parts = tiny_animation.parts()
    base = {name: parts[name] for name in ("tokenizer", "text_encoder", "vae", "scheduler")}
    plain = CogVideoXTransformer3DModel(**tiny_animation.TRANSFORMER, out_channels=4, num_layers=2)
    plain.load_state_dict(parts["transformer"].state_dict())
    pipe = CogVideoXImageToVideoPipeline(transformer=plain, **base)
    pipe.save_pretrained(folder / "CogVideoX1.5-5B-I2V")
    fusion = tiny_diffusion._without_zeros(
        DynamicMemoryFusion(dim=32, heads=1, dim_head=96, memory_dim=16, mapping_hidden=(16, 16))
    )
    for network, name in ((parts["sketch_dit"], "control_module"), (fusion, "glm_module")):
        save_safetensors(dict(to_official(network)), folder / "pretrained_weights" / f"{name}.safetensors", {})
    return folder


@pytest.fixture(scope="module")
def authors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    (folder / "pretrained_weights").mkdir()
    return published(folder)


def test_a_saved_folder_loads_with_its_settings(tmp_path: Path) -> None:
    pipe = tiny.colorize()
    pipe.save_pretrained(tmp_path)
    again = LongAnimationPipeline.create(checkpoint=tmp_path, device="cpu")
    assert again.config["segment_frames"] == 17
    assert again.config["memory_prompt"] == [[1, 2, 3], [4, 5]]
    assert again.fingerprint == pipe.fingerprint
    assert np.array_equal(made(again), made(pipe))
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["lineart"] == ["visionzoo.models.longanimation.lineart_model", "LineartModel"]


def test_parts_may_be_missing(tmp_path: Path) -> None:
    """Without memory and line art, the folder loads; asking for the memory names what is missing."""
    pipe = LongAnimationPipeline(**tiny_animation.parts(memory=False, lineart=False), **SETTINGS)
    pipe.save_pretrained(tmp_path)
    again = LongAnimationPipeline.from_pretrained(tmp_path)
    assert again.memory_encoder is None
    assert made(again, memory="none").shape == (16, 32, 32, 3)
    with pytest.raises(
        InputError, match=r"no memory_encoder and no memory_fusion, which memory='both' needs.*--memory none"
    ):
        made(again)


def test_published_files_open(authors: Path) -> None:
    """Video-XL is not among them here, so the memory is off; plain weights of CogVideoX become the video network."""
    pipe = LongAnimationPipeline.create(checkpoint=authors, device="cpu", **SIZES)
    assert pipe.name == "longanimation"
    assert isinstance(pipe.transformer, LongAnimationTransformer)
    assert pipe.scheduler.config["timestep_spacing"] == "trailing"
    assert pipe.memory_fusion is not None
    own = LongAnimationPipeline(**tiny_animation.parts(memory=False, lineart=False), **SETTINGS)
    assert np.array_equal(made(pipe, memory="none"), made(own, memory="none"))
    with pytest.raises(InputError, match=r"no memory_encoder, which memory='both' needs; .*VideoXL_weight_8"):
        made(pipe)


def test_missing_published_files_are_named(authors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CogVideoX1.5-5B-I2V", "pretrained_weights"):
        (tmp_path / name).symlink_to(authors / name)
    (tmp_path / "pretrained_weights").unlink()
    with pytest.raises(
        WeightsError, match=r"has no control_module\.safetensors and no glm_module\.safetensors; expected .*Video_XL"
    ):
        LongAnimationPipeline.create(checkpoint=tmp_path, device="cpu")
    monkeypatch.setenv("VISIONZOO_HOME", str(tmp_path / "home"))
    with pytest.raises(
        WeightsError, match=r"weights/longanimation: holds no weights of LongAnimation; put control_module"
    ):
        LongAnimationPipeline.create("longanimation", device="cpu")
    with pytest.raises(InputError, match="longanimation_dglm is one network of LongAnimation; create the pipeline as"):
        LongAnimationPipeline.create("longanimation_dglm", device="cpu")


@pytest.mark.parametrize("name", ["sketch_dit", "memory_fusion"])
def test_networks_without_effect_are_refused(tmp_path: Path, name: str) -> None:
    """A last layer of zeros is what remains if keys of published files do not fit."""
    parts = tiny_animation.parts(lineart=False)
    last: nn.Linear = parts[name].zero_conv if name == "sketch_dit" else parts[name].proj_out
    nn.init.zeros_(last.weight)
    LongAnimationPipeline(**parts, **SETTINGS).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=name):
        LongAnimationPipeline.from_pretrained(tmp_path)


def test_networks_that_do_not_belong_together_are_refused() -> None:
    parts = tiny_animation.parts(lineart=False)
    parts["memory_fusion"] = DynamicMemoryFusion(
        dim=32, heads=2, dim_head=16, depth=3, memory_dim=8, mapping_hidden=(8, 8)
    )
    with pytest.raises(InputError, match="DGLM takes a memory of 8 values, but 16 are needed"):
        LongAnimationPipeline(**parts, **SETTINGS)


def test_a_line_art_network_of_any_class_is_taken() -> None:
    pipe = LongAnimationPipeline(**{**tiny_animation.parts(), "lineart": LineartGenerator()}, **SETTINGS)
    images = torch.rand(1, 3, 16, 16)
    assert pipe.lineart(images).shape == (1, 1, 16, 16)


# Where it runs


def test_offloading_changes_nothing() -> None:
    """Groups of layers that are kept apart, and a memory encoder that moves; here from and to the CPU."""
    want = made(tiny.colorize())
    pipe = LongAnimationPipeline(**tiny_animation.parts(), **SETTINGS)
    pipe._offload_groups(torch.device("cpu"))
    pipe._memory_placement = "moved"
    assert np.array_equal(made(pipe), want)


def test_unknown_placements_are_refused() -> None:
    with pytest.raises(InputError, match="unknown offload 'disk'; use none, model, sequential, group"):
        LongAnimationPipeline.create(tiny.colorize(), device="cpu", offload="disk")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="unknown memory_placement 'gpu'; use device, moved, host"):
        LongAnimationPipeline.create(tiny.colorize(), device="cpu", memory_placement="gpu")  # pyright: ignore[reportArgumentType]
