"""Cases of the networks: published keys, SketchDiT, the video network with a control signal, and DGLM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from visionzoo.models.longanimation import (
    DynamicMemoryFusion,
    LineartGenerator,
    LongAnimationTransformer,
    SketchDiT,
    rotary_embedding,
)
from visionzoo.weights import load_checkpoint, to_official

from ..case import Case, different_keys
from .hooks import record

OWN = {"sketchdit": SketchDiT, "dglm": DynamicMemoryFusion, "lineart": LineartGenerator}
"""Beginnings of the tables of published keys."""
DIT_16 = {"sample_height": 300, "sample_width": 300, "sample_frames": 81, "num_attention_heads": 48, "in_channels": 32,
          "time_embed_dim": 512, "ofs_embed_dim": 512, "patch_size_t": 2, "patch_bias": False}  # fmt: skip


def keys(case: Case) -> list[str]:
    """Keys that differ from the published ones; the number of parameters has to be right, too."""
    different = []
    with torch.device("meta"):
        built: dict[str, nn.Module] = {name: kind() for name, kind in OWN.items()}
        blocks = case.data["base transformer number of blocks"]
        transformer = LongAnimationTransformer(**DIT_16, num_layers=blocks, use_rotary_positional_embeddings=True)
    for name, network in built.items():
        table = next(value for title, value in case.data.items() if title.startswith(f"{name} ("))
        different += different_keys(to_official(network), table)
        assert sum(value.numel() for value in network.parameters()) == case.data["parameters"][name]
    first = {key: value for key, value in transformer.state_dict().items() if not key.startswith("transformer_blocks.")}
    first |= {key: value for key, value in transformer.state_dict().items() if key.startswith("transformer_blocks.0.")}
    table = next(value for title, value in case.data.items() if title.startswith("base transformer ("))
    different += different_keys(first, table)
    assert sum(value.numel() for value in transformer.parameters()) == case.data["parameters"]["base transformer"]
    return different


def configured(kind: Any, case: Case) -> Any:
    """A network with a case's configuration and seeded weights, in eval mode; the case's other settings are left out."""
    known = kind._get_init_keys(kind)
    network = kind(**{key: value for key, value in case.config.items() if key in known})
    return load_checkpoint(network, case.state()).eval()


def inputs(case: Case) -> dict[str, Tensor]:
    """The inputs by their arguments' names, which are in parentheses if the seeds have others."""
    found = {}
    for name, *_ in case.specs():
        text, _, argument = name.partition(" (")
        found[argument.rstrip(")") or text] = case.input(name)
    return found


def sketchdit(case: Case) -> dict[str, Tensor]:
    network, given = configured(SketchDiT, case), inputs(case)
    tables = rotary_embedding(network, given["hidden_states"])
    last = case.config["num_layers"] - 1
    names = {
        "time_embedding": "time_embedding",
        "ofs_embedding": "ofs_embedding",
        "patch_embed": "patch_embed(text+video)",
        "transformer_blocks.0": "block0",
        f"transformer_blocks.{last}": f"block{last}",
    }
    with record(network, names) as found:
        signal = network(**given, image_rotary_emb=tables)
    return {**streams(found), "control_signal": signal, "rope_cos": tables[0], "rope_sin": tables[1]}


def controlled_dit(case: Case) -> dict[str, Tensor]:
    network, given = configured(LongAnimationTransformer, case), inputs(case)
    given["image_rotary_emb"] = rotary_embedding(network, given["hidden_states"])  # pyright: ignore[reportArgumentType]
    signal, scale = given.pop("control_signal"), case.config["control_scale"]
    last = case.config["num_layers"] - 1
    names = {f"transformer_blocks.{i}": f"block{i}_before_injection" for i in (0, 1, 2, last)}
    with record(network, names) as found:
        predicted = network(**given, control_hidden_states=signal, control_scale=scale).sample
    found = streams(found)
    return {**found, "noise_pred": predicted, "noise_pred_without_control": network(**given).sample}


def streams(found: dict[str, Any]) -> dict[str, Tensor]:
    """Outputs of blocks by stream."""
    split = {}
    for name, value in found.items():
        if isinstance(value, tuple):
            split |= {f"{name}.video": value[0], f"{name}.text": value[1]}
        else:
            split[name] = value
    return split


def dglm(case: Case) -> dict[str, Tensor]:
    network = configured(DynamicMemoryFusion, case)
    control = case.input("control_signal")
    names = {}
    for i in range(case.config["depth"]):
        names[f"levels.{i}.key_mapping"] = f"key_mapping_{i}"
        names[f"levels.{i}.value_mapping"] = f"value_mapping_{i}"
        names[f"levels.{i}.attention"] = f"layer{i}_attn_out(before residual)"
        names[f"levels.{i}.feed_forward"] = f"layer{i}_ff_out(before residual)"
    with record(network, names) as found:
        memory = network.project(case.input("global_memory"), case.input("local_memory"))
        fused = network(control, memory)
    return {**found, "dglm_output": network.residual(control, memory), "control_plus_dglm": fused}


KINDS: dict[str, Callable[[Case], Any]] = {
    "keys": keys,
    "sketchdit": sketchdit,
    "controlled_dit": controlled_dit,
    "dglm": dglm,
}
