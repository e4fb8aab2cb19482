"""Published files of Video-XL: every key has its place, nothing is missing or left over, and messages name the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.tiny_diffusion import SMALL_DECODER, memory_encoder
from visionzoo.errors import WeightsError
from visionzoo.models.longanimation import PromptTokens, VideoXLMemoryEncoder
from visionzoo.models.longanimation.beacon import BeaconLayer
from visionzoo.models.longanimation.videoxl_vision import VisionTower

LEVELS = (0, 1, -1)
TOWER = "model.vision_tower.vision_tower."
OLD = f"{TOWER}vision_model."
PROMPT = PromptTokens((1, 2), (3,))

State = dict[str, Tensor]
Change = Callable[[State], None]


def save_published(folder: Path, change: Change = lambda state: None, **options: Any) -> VideoXLMemoryEncoder:
    """A tiny network in the published layout: two shards with an index, all layers and the head, old names of CLIP's part."""
    encoder = memory_encoder(vocab_size=300, ratio=4, levels=LEVELS)
    layer, tower = BeaconLayer(encoder.language), VisionTower(encoder.vision, whole=True)
    state = {f"model.layers.3.{name}": value for name, value in layer.state_dict().items()}
    state |= {f"model.vision_tower.{name}": value for name, value in tower.state_dict().items()}
    state |= {"lm_head.weight": torch.zeros(300, 32), "model.norm.weight": torch.ones(32)} | encoder.state_dict()
    state = {key.replace(OLD, TOWER).replace(TOWER, OLD): value.clone() for key, value in state.items()}
    state[f"{OLD}embeddings.position_ids"] = torch.arange(17)[None]
    change(state)
    folder.mkdir(parents=True)
    files = {key: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, key in enumerate(state)}
    for file in set(files.values()):
        save_file({key: state[key] for key in state if files[key] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    config = SMALL_DECODER | {"vocab_size": 300, "beacon_window": 8, "beacon_ratio": [4], "mm_vision_select_layer": -1}
    config |= {"vision_config": sizes(encoder), "beacon_sink_size": 0, "beacon_param": ["q", "k", "v"]} | options
    (folder / "config.json").write_text(json.dumps(config))
    save_tokenizer(folder)
    return encoder


def sizes(encoder: VideoXLMemoryEncoder) -> dict[str, int]:
    return {name: value for name, value in vars(encoder.vision).items() if name not in ("select_layer", "pool")}


def save_tokenizer(folder: Path) -> None:
    """A tokenizer of Qwen2 that knows bytes and its marks."""
    from transformers import Qwen2Tokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = {letter: number for number, letter in enumerate(bytes_to_unicode().values())}
    tokenizer = Qwen2Tokenizer(vocab=letters | {"<|endoftext|>": 256}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.save_pretrained(folder)


def load(folder: Path, **options: Any) -> VideoXLMemoryEncoder:
    return VideoXLMemoryEncoder.from_folder(folder, levels=LEVELS, **{"dtype": torch.float32, **options})


def same(a: VideoXLMemoryEncoder, b: VideoXLMemoryEncoder) -> bool:
    frames = torch.rand(3, 3, 18, 20, generator=torch.Generator().manual_seed(0))
    return torch.equal(a.encode(frames, PROMPT), b.encode(frames, PROMPT))


def test_every_weight_is_loaded(tmp_path: Path) -> None:
    wanted = save_published(tmp_path / "xl")
    loaded = load(tmp_path / "xl")
    state = loaded.state_dict()
    assert state.keys() == wanted.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in wanted.state_dict().items())
    assert not any(value.is_meta for value in (*loaded.parameters(), *loaded.buffers()))
    assert same(loaded, wanted)
    half = load(tmp_path / "xl", dtype=torch.bfloat16)
    assert {value.dtype for value in half.parameters()} == {torch.bfloat16}
    assert half.encode(torch.rand(2, 3, 16, 16), PROMPT).isfinite().all()


def test_the_prompt_is_that_of_the_chat_template(tmp_path: Path) -> None:
    save_published(tmp_path / "xl")
    loaded = load(tmp_path / "xl")
    prompt = loaded.prompt_tokens("Which color?")
    decode = loaded.tokenizer.decode
    before = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    assert decode(prompt.before) == before
    assert decode(prompt.after) == "\nWhich color?<|im_end|>\n<|im_start|>assistant\n"
    mark = loaded.tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert [token for token in prompt.before if token == mark] == [mark, mark]  # marks are one token each


def test_the_selected_layer_of_clip_comes_from_the_checkpoint(tmp_path: Path) -> None:
    wanted = save_published(tmp_path / "xl", mm_vision_select_layer=-2)
    loaded = load(tmp_path / "xl")
    assert loaded.vision.depth == wanted.vision.depth - 1
    frames = torch.rand(1, 3, 16, 16)
    tower = wanted.model.vision_tower
    pixels = torch.rand(1, 3, 16, 16)
    states = tower.vision_tower(pixels, output_hidden_states=True).hidden_states
    assert torch.allclose(loaded.model.vision_tower(pixels), states[-2][:, 1:], atol=1e-6)
    assert loaded.encode(frames, PROMPT).isfinite().all()


def test_shards_without_clip_take_it_from_its_own_folder(tmp_path: Path) -> None:
    tower: State = {}

    def without_vision(state: State) -> None:
        for key in [key for key in state if key.startswith(TOWER)]:
            tower[key.removeprefix(TOWER)] = state.pop(key)

    wanted = save_published(tmp_path / "xl", without_vision)
    with pytest.raises(WeightsError, match=r"hold no vision network.*clip-vit-large-patch14-336.*vision="):
        load(tmp_path / "xl")
    clip = tmp_path / "clip-vit-large-patch14-336"
    clip.mkdir()
    save_file({**tower, "text_model.final_layer_norm.weight": torch.ones(4)}, clip / "model.safetensors")
    (clip / "config.json").write_text(json.dumps({"vision_config": sizes(wanted)}))
    assert same(load(tmp_path / "xl"), wanted)
    assert same(load(tmp_path / "xl", vision=clip), wanted)


def dropped(key: str) -> Change:
    return lambda state: state.__delitem__(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dropped("model.layers.1.self_attn.beacon_k_proj.bias"), r"1 of \d+ keys are missing"),
        (dropped(f"{OLD}embeddings.class_embedding"), r"1 of \d+ keys are missing"),
        (lambda state: state.update({"model.layers.4.mlp.up_proj.weight": torch.ones(1)}), "1 are unexpected"),
        (
            lambda state: state.update({"model.mm_projector.0.bias": torch.ones(31)}),
            "mm_projector.0.bias is 31, expected 32",
        ),
    ],
    ids=["missing", "missing in CLIP", "unexpected", "shape"],
)
def test_keys_that_do_not_fit(tmp_path: Path, change: Change, message: str) -> None:
    save_published(tmp_path / "xl", change)
    with pytest.raises(WeightsError, match=message):
        load(tmp_path / "xl")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", r"config\.json: no such file.*VideoXL_weight_8"),
        ("model-00002-of-00002.safetensors", r"model-00002-of-00002\.safetensors: no such file.*copy it from"),
        ("tokenizer.json", r"holds no tokenizer; copy tokenizer\.json"),
    ],
)
def test_missing_files(tmp_path: Path, missing: str, message: str) -> None:
    save_published(tmp_path / "xl")
    (tmp_path / "xl" / missing).unlink()
    with pytest.raises(WeightsError, match=message):
        load(tmp_path / "xl")


def test_other_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no such folder.*sy1998/Video_XL"):
        load(tmp_path / "none")
    save_published(tmp_path / "xl", beacon_pos="append")
    with pytest.raises(WeightsError, match=r"config\.json: beacon_pos is 'append'; only 'interleave' is supported"):
        load(tmp_path / "xl")
    save_published(tmp_path / "cut")
    shard = tmp_path / "cut" / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="model-00001-of-00002.safetensors: damaged or truncated"):
        load(tmp_path / "cut")
