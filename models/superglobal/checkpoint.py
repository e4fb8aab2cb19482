"""Converts published checkpoints to our key names and back.

CVNet's files (which SuperGlobal uses) have pycls' names: `encoder_q.s1.b1.f.a.weight`. EfficientNet-Lite's names come from
the TensorFlow port. Pure functions on state dicts; `visionzoo.weights` handles files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..efficientnet_lite import checkpoint as efficientnet_lite

PREFIXES = ("encoder_q.", "globalmodel.", "module.encoder_q.", "module.globalmodel.")
"""Prefixes under which the published files keep the global network."""

UNUSED = re.compile(r"^(conv2ds|cv_learner|encoder_k|seb1|seb2|sefc)\b|^(queue|classifier)")
"""Parts of the published modules that the global descriptor never reads: the local reranker, training state, leftovers."""

_RULES = [
    (re.compile(r"^stem\.conv\."), "backbone.conv1."),
    (re.compile(r"^stem\.bn\."), "backbone.bn1."),
    (re.compile(r"^head\.pool\."), "pool."),
    (re.compile(r"^head\.fc\."), "fc."),
]
_BLOCK = re.compile(r"^s(\d)\.b(\d+)\.(.+)$")
_IN_BLOCK = {"proj": "downsample.0", "bn": "downsample.1"} | {
    f"f.{letter}{norm}": f"{'bn' if norm else 'conv'}{i}" for i, letter in enumerate("abc", 1) for norm in ("", "_bn")
}
_FROM_BLOCK = {ours: theirs for theirs, ours in _IN_BLOCK.items()}


def to_ours(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A published state dict under our key names; unknown keys stay unchanged (and are reported as unexpected).

    It recognises CVNet and SuperGlobal modules (any of `PREFIXES`, or none), EfficientNet-Lite files, and a timm backbone's own file.
    """
    if any(key.startswith("_blocks.") for key in state):
        return efficientnet_to_ours(state, model)
    inner = [key for key in model.state_dict() if key.startswith("backbone.net.")]
    if inner and all(key.removeprefix("backbone.net.") in state for key in inner):
        return timm_to_ours(state, model)
    for prefix in PREFIXES:
        if any(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            break
    ours = {_to_our_key(key): value for key, value in state.items() if not UNUSED.match(key)}
    return _with_counters(ours, model)


def to_official(state: Mapping[str, Tensor], prefix: str = "encoder_q.") -> dict[str, Tensor]:
    """Our state dict of a ResNet variant under the names of the published files."""
    return {prefix + _to_official_key(key): value for key, value in state.items()}


def _to_our_key(key: str) -> str:
    block = _BLOCK.match(key)
    if block:
        stage, index, rest = block.groups()
        part, _, leaf = rest.rpartition(".")
        return f"backbone.layer{stage}.{int(index) - 1}.{_IN_BLOCK.get(part, part)}.{leaf}"
    for pattern, replacement in _RULES:
        if pattern.match(key):
            return pattern.sub(replacement, key)
    return key


def _to_official_key(key: str) -> str:
    block = re.match(r"^backbone\.layer(\d)\.(\d+)\.(.+)\.(\w+)$", key)
    if block:
        stage, index, part, leaf = block.groups()
        return f"s{stage}.b{int(index) + 1}.{_FROM_BLOCK[part]}.{leaf}"
    for ours, theirs in (
        ("backbone.conv1.", "stem.conv."),
        ("backbone.bn1.", "stem.bn."),
        ("pool.", "head.pool."),
        ("fc.", "head.fc."),
    ):
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    return key


def _with_counters(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Batch norm's step counters, which old files lack and inference does not use."""
    for key in model.state_dict():
        if (
            key.endswith("num_batches_tracked")
            and key not in state
            and key.replace("num_batches_tracked", "running_var") in state
        ):
            state[key] = torch.tensor(0)
    return state


def timm_to_ours(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Convert a timm network's own file, for a model with that backbone. The classifier is dropped; the pooling exponent stays."""
    prefix = "backbone.net."
    return {
        key: state[key.removeprefix(prefix)] if key.startswith(prefix) else value
        for key, value in model.state_dict().items()
        if key.startswith((prefix, "pool."))
    }


def efficientnet_to_ours(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Convert names of the TensorFlow port (`_blocks.0._depthwise_conv.weight`) to timm's names under `backbone.net.`.

    The classifier is dropped, as a descriptor has none. The pooling exponent, which such a file lacks, stays.
    """
    prefix = "backbone.net."
    ours = {key: value for key, value in model.state_dict().items() if key.startswith("pool.")}
    converted = efficientnet_lite.to_ours(state, model.get_submodule(prefix.removesuffix(".")))
    return {**ours, **{prefix + key: value for key, value in converted.items()}}
