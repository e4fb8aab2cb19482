"""Published files of Video-XL: config.json, shards of safetensors and the tokenizer of `VideoXL_weight_8`."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from visionzoo.errors import InputError, WeightsError
from visionzoo.io.head import read_head
from visionzoo.weights import misfit

from .beacon import BeaconConfig, BeaconLayer
from .videoxl_stream import PromptTokens
from .videoxl_vision import VisionConfig, VisionTower

if TYPE_CHECKING:
    from .videoxl import VideoXLMemoryEncoder

__all__ = ["chat_prompt", "load_folder", "published_keys", "read_sizes", "unused_keys"]

REPOSITORY, CLIP = "sy1998/Video_XL", "clip-vit-large-patch14-336"
TOWER = "model.vision_tower.vision_tower."
RATIO = 8
"""Beacon ratio of the published memory; the network was trained with several."""

FIXED = {
    "beacon_attn": "full-coverage",
    "beacon_pos": "interleave",
    "beacon_param": ["q", "k", "v"],
    "beacon_sink_size": 0,
    "beacon_attend_prev": True,
    "mm_projector_type": "mlp2x_gelu",
    "hidden_act": "silu",
}
"""Options of config.json for which there is one implementation."""

CLIP_PARTS = ("vision_model.", "embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm.")
"""Beginnings of the names of the vision network in files of CLIP, of older and newer versions of transformers."""


class Stored(NamedTuple):
    """Where a published weight is."""

    file: Path
    name: str
    shape: tuple[int, ...]


Encoder = TypeVar("Encoder", bound="VideoXLMemoryEncoder")


def load_folder(
    cls: type[Encoder],
    folder: str | os.PathLike[str],
    vision: str | os.PathLike[str] | None,
    levels: Sequence[int],
    dtype: torch.dtype,
    device: torch.device | str,
) -> Encoder:
    """See `VideoXLMemoryEncoder.from_folder`."""
    place = Path(folder)
    if not place.is_dir():
        raise WeightsError(
            f"{place}: no such folder; expected a copy of the folder VideoXL_weight_8 of {REPOSITORY}: config.json, "
            "model-0000N-of-00004.safetensors, and the tokenizer"
        )
    language, eyes = read_sizes(place / "config.json", levels)
    shards = _shards(place)
    found = published_keys(shards)
    if not any(key.startswith(TOWER) for key in found):
        clip = _clip_folder(place, vision)
        eyes = _clip_sizes(_json(clip / "config.json", f"the configuration of openai/{CLIP}"), eyes)
        tower = published_keys([clip / "model.safetensors"])
        found |= {TOWER + key: stored for key, stored in tower.items() if key.startswith(CLIP_PARTS)}
    tokenizer = _tokenizer(place)
    with torch.device("meta"):
        encoder = cls(language, eyes)
    own = encoder.state_dict()
    places = {_our_name(key, own): stored for key, stored in found.items()}
    unused = {_our_name(key, own) for key in unused_keys(language, eyes)} - own.keys()
    shapes = {key: torch.empty(stored.shape, device="meta") for key, stored in places.items() if key not in unused}
    if problem := misfit(own, shapes):
        raise WeightsError(f"{place}: does not fit {cls.__name__}: {problem}")
    state = _read({key: places[key] for key in own}, dtype, device)
    encoder.load_state_dict(state, assign=True)
    encoder.model.vision_tower.restore_buffers()
    encoder.tokenizer = tokenizer
    return encoder.eval().requires_grad_(False)


def _read(places: dict[str, Stored], dtype: torch.dtype, device: torch.device | str) -> dict[str, Tensor]:
    """Read weights file by file, and convert each at once."""
    state: dict[str, Tensor] = {}
    for file in sorted({stored.file for stored in places.values()}):
        with safe_open(file, framework="pt") as opened:
            for key, stored in places.items():
                if stored.file == file:
                    state[key] = opened.get_tensor(stored.name).to(device, dtype)
    return state


def read_sizes(path: Path, levels: Sequence[int] = BeaconConfig.levels) -> tuple[BeaconConfig, VisionConfig]:
    """The sizes of a network from its config.json; without a `vision_config` in it, the vision network is CLIP ViT-L/14-336.

    Raises:
        WeightsError: the file is missing or damaged, or asks for what is not implemented.
    """
    config = _json(path, f"the configuration of Video-XL; it is in VideoXL_weight_8 of {REPOSITORY}")
    for name, value in FIXED.items():
        if config.get(name, value) != value:
            raise WeightsError(f"{path}: {name} is {config[name]!r}; only {value!r} is supported")
    window = config.get("beacon_window", BeaconConfig.window)
    if config.get("beacon_stride", window) != window:
        raise WeightsError(
            f"{path}: beacon_stride is {config['beacon_stride']}; only beacon_window, {window}, is supported"
        )
    ratios = config.get("beacon_ratio", [RATIO])
    ratios = ratios if isinstance(ratios, list) else [ratios]
    names = [name for name in BeaconConfig.__dataclass_fields__ if name not in ("window", "ratio", "levels")]
    if missing := [name for name in names if name not in config and name not in ("rope_theta", "rms_norm_eps")]:
        raise WeightsError(f"{path}: has no {', '.join(missing)}; copy the file from {REPOSITORY} again")
    try:
        language = BeaconConfig(
            **{name: config[name] for name in names if name in config},
            window=window,
            ratio=ratios[0] if len(ratios) == 1 else RATIO,
            levels=tuple(levels),
        )
        eyes = VisionConfig(select_layer=config.get("mm_vision_select_layer", VisionConfig.select_layer))
        if "vision_config" in config:
            eyes = _clip_sizes(config["vision_config"], eyes)
    except (InputError, TypeError) as error:
        raise WeightsError(f"{path}: {error}") from error
    return language, eyes


def _clip_sizes(config: Mapping[str, Any], published: VisionConfig) -> VisionConfig:
    """The sizes of a CLIP network from its config.json, with the layer and the pooling of Video-XL."""
    config = config.get("vision_config", config)
    names = set(VisionConfig.__dataclass_fields__) - {"select_layer", "pool"}
    return dataclasses.replace(published, **{name: config[name] for name in names if name in config})


def _json(path: Path, expected: str) -> dict[str, Any]:
    read_head(path, expected, WeightsError)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read ({error}); copy the file again") from error
    if not isinstance(config, dict):
        raise WeightsError(f"{path}: holds a {type(config).__name__}; expected {expected}")
    return config


def _shards(place: Path) -> list[Path]:
    """The files of weights. Raises `WeightsError` if one that the index names is missing."""
    index = place / "model.safetensors.index.json"
    if index.is_file():
        names = sorted({*_json(index, "the index of the shards").get("weight_map", {}).values()})
        files = [place / name for name in names]
    else:
        files = sorted(place.glob("*.safetensors"))
    if not files:
        raise WeightsError(
            f"{place}: holds no weights; copy model-0000N-of-00004.safetensors from VideoXL_weight_8 of {REPOSITORY} there"
        )
    for file in files:
        read_head(file, f"a shard of Video-XL; copy it from VideoXL_weight_8 of {REPOSITORY}", WeightsError)
    return files


def _clip_folder(place: Path, given: str | os.PathLike[str] | None) -> Path:
    candidates = [Path(given)] if given is not None else [place / CLIP, place.parent / CLIP]
    for folder in candidates:
        if (folder / "model.safetensors").is_file():
            return folder
    names = " and ".join(str(folder / "model.safetensors") for folder in candidates)
    raise WeightsError(
        f"{place}: its shards hold no vision network ({TOWER}*), and there is no {names}; copy openai/{CLIP} "
        f"(config.json, model.safetensors) to {candidates[0]}, or pass its folder as vision="
    )


def published_keys(files: Iterable[Path]) -> dict[str, Stored]:
    """Key -> where it is stored, from the heads of safetensors files.

    Raises:
        WeightsError: a file is damaged.
    """
    found: dict[str, Stored] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for key in opened.keys():  # noqa: SIM118
                    found[key] = Stored(file, key, tuple(opened.get_slice(key).get_shape()))
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file}: damaged or truncated safetensors file ({error}); download it again") from error
    return found


def unused_keys(language: BeaconConfig, vision: VisionConfig) -> set[str]:
    """Published keys that the memory encoder does not need: the head, and what comes after the layers that are read."""
    with torch.device("meta"):
        layer = BeaconLayer(language).state_dict()
        tower = VisionTower(vision, whole=True).state_dict()
    keys = {f"model.layers.{index}.{name}" for index in range(language.num_hidden_layers) for name in layer}
    keys |= {f"model.vision_tower.{name}" for name in tower}
    # older versions of transformers saved the numbers 0 to 576, too
    return keys | {"lm_head.weight", "model.norm.weight", f"{TOWER}vision_model.embeddings.position_ids"}


def _our_name(key: str, own: dict[str, Any]) -> str:
    """transformers 5 has removed a level from the names of CLIP's vision network, which published files have."""
    old = f"{TOWER}vision_model."
    if any(name.startswith(old) for name in own):
        return key if not key.startswith(TOWER) or key.startswith(old) else old + key.removeprefix(TOWER)
    return TOWER + key.removeprefix(old) if key.startswith(old) else key


def _tokenizer(place: Path) -> Any:
    from transformers import AutoTokenizer

    if not (place / "tokenizer.json").is_file() and not all(
        (place / n).is_file() for n in ("vocab.json", "merges.txt")
    ):
        raise WeightsError(
            f"{place}: holds no tokenizer; copy tokenizer.json, or vocab.json and merges.txt, and tokenizer_config.json from "
            f"VideoXL_weight_8 of {REPOSITORY} there"
        )
    try:
        return AutoTokenizer.from_pretrained(str(place), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{place}: its tokenizer cannot be read ({' '.join(str(error).split())[:200]})") from error


def chat_prompt(tokenizer: Any, question: str) -> PromptTokens:
    """The tokens of Qwen's chat template around the video; the parts before and after it are tokenized separately, as published.

    Raises:
        InputError: the tokenizer does not know the template's marks.
    """
    before = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    after = f"\n{question}<|im_end|>\n<|im_start|>assistant\n"
    marks = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    if any(mark is None or mark == tokenizer.unk_token_id for mark in marks):
        raise InputError("the tokenizer does not know <|im_start|> and <|im_end|>; expected that of Qwen2 or Video-XL")
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in (before, after)]
    return PromptTokens(tuple(ids[0]), tuple(ids[1]))
