"""Memories of Video-XL's decoder, from visual tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from visionzoo.models.longanimation import BeaconConfig, MemoryStream, PromptTokens, VideoXLMemoryEncoder, VisionConfig
from visionzoo.models.longanimation.beacon import BeaconLayer
from visionzoo.models.longanimation.videoxl_folder import unused_keys
from visionzoo.weights import load_checkpoint

from ..case import Case, different_keys

SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rope_theta",
    "rms_norm_eps",
)
TEXTS = ("input_ids before the image placeholder", "input_ids after the placeholder")


def keys(case: Case) -> list[str]:
    """Published keys of Video-XL that the encoder neither has nor names as unused, and the reverse; sizes are checked as well."""
    with torch.device("meta"):
        encoder = VideoXLMemoryEncoder()
        layer = BeaconLayer(BeaconConfig())
    own = {f"model.layers.0.{name}": value for name, value in layer.state_dict().items()}
    own |= {key: value for key, value in encoder.state_dict().items() if ".layers." not in key}
    counts, size = case.data["parameters"], sum(value.numel() for key, value in own.items() if not _is_vision(key))
    rest = (
        27 * sum(value.numel() for value in layer.parameters()) + BeaconConfig().hidden_size
    )  # other layers, last norm
    head = math.prod(case.data["video_xl language model, layer 0 and shared keys (28 layers)"]["lm_head.weight"])
    assert size + rest + head == counts["video_xl language model"]
    tables = [value for title, value in case.data.items() if title.startswith("video_xl")]
    published = {key: shape for table in tables for key, shape in table.items() if isinstance(shape, list)}
    unused = unused_keys(encoder.language, encoder.vision)
    own = {key: value for key, value in own.items() if ".vision_tower." not in key}
    return different_keys(own, {key: shape for key, shape in published.items() if key not in unused or key in own})


def _is_vision(key: str) -> bool:
    return key.startswith(("model.vision_tower.", "model.mm_projector."))


def network(case: Case) -> VideoXLMemoryEncoder:
    """The encoder with the case's decoder; the vision part, which the case lacks, keeps its values."""
    c = case.config
    language = BeaconConfig(
        **{name: c[name] for name in SIZES},
        window=c["beacon_window"],
        ratio=c["beacon_ratio"][0],
        levels=(0, *c["memory_layers"]),  # the case has the keys of layer 0, too
    )
    vision = VisionConfig(16, 16, 1, 2, image_size=8, patch_size=4 if language.ratio == 4 else 2, pool=1)
    encoder = VideoXLMemoryEncoder(language, vision).eval()
    own, given = encoder.state_dict(), case.state()
    # nothing uses what a layer makes of the keys and values that are read out last
    last = f"model.layers.{language.depth - 1}."
    unused = [key for key in given if key not in own]
    assert all(key.startswith((last, "model.norm", "lm_head")) for key in unused)
    state = {key: given.get(key, value) for key, value in own.items()}
    load_checkpoint(encoder, state)
    return encoder


def watched(case: Case, encoder: VideoXLMemoryEncoder) -> tuple[MemoryStream, Tensor]:
    """A stream with the case's prompt, and its visual tokens by frame."""
    literal = {name: shape for name, shape, _ in case.data["inputs"]}
    prompt = PromptTokens(*(literal[name] for name in TEXTS))
    (name,) = literal.keys() - set(TEXTS)
    spec = {"name": name, "shape": literal[name], "kind": "normal"}
    tokens = Case(case.path, {**case.data, "inputs": [spec]}).input(name)
    return encoder.open(prompt), tokens.unflatten(0, (-1, encoder.vision.tokens))


def memory(case: Case) -> dict[str, Any]:
    encoder = network(case)
    stream, tokens = watched(case, encoder)
    stream.append_tokens(tokens)
    found = stream.read()
    heads = encoder.language.num_key_value_heads
    held = stream.bank.view()
    beacons = held.times >= 0
    width = encoder.language.ratio + 1  # of the open window, beacons only
    window = stream.bank.count("window")
    beacons[len(held) - window :] = torch.arange(1, window + 1) % width == 0
    first, found = found[:, 0, 0], found[:, :, 1:]
    return {
        "memory": found,
        "memory_keys_level0": found[:, 0, 0],
        "memory_values_level2": found[:, 1, 2],
        "beacon_keys_last_layer": held.keys[:, -heads:, beacons],
        "layer0_keys": first.unflatten(2, (heads, -1)).transpose(1, 2),
    }


KINDS: dict[str, Callable[[Case], Any]] = {"videoxl_memory": memory}
