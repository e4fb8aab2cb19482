"""Converts the published files of LongAnimation to our key names and back.

| file | network | keys |
|---|---|---|
| `control_module.safetensors` | `SketchDiT` | the same |
| `glm_module.safetensors` | `DynamicMemoryFusion` | `_MEMORY`; the matrix `proj_out` is transposed |
| `sk_model.pth` | `LineartGenerator` | `_LINEART` |
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from visionzoo.errors import WeightsError

__all__ = ["check_trained", "official_name", "our_name", "to_official", "to_ours"]

_MEMORY = (
    ("layers.{}.0.norm1.", "levels.{}.attention.norm_memory."),
    ("layers.{}.0.norm2.", "levels.{}.attention.norm_signal."),
    ("layers.{}.0.", "levels.{}.attention."),
    ("layers.{}.1.", "levels.{}.feed_forward."),
    ("key_mapping_{}.", "levels.{}.key_mapping."),
    ("value_mapping_{}.", "levels.{}.value_mapping."),
)
_LINEART = (
    ("model0.", "stem."),
    ("model1.", "down."),
    ("model2.{}.conv_block.", "residuals.{}.layers."),
    ("model3.", "up."),
    ("model4.", "head."),
)
_RULES = (*_MEMORY, *_LINEART)
"""Beginnings of published names and of ours; {} is a number."""
MATRIX, LAYER = "proj_out", "proj_out.weight"
ZEROS = ("zero_conv.weight", LAYER)
"""Layers that start at zero, after which a network has no effect."""


def our_name(key: str) -> str:
    """A published name -> ours: "layers.0.0.to_q.weight" -> "levels.0.attention.to_q.weight"."""
    return LAYER if key == MATRIX else _renamed(key, _RULES)


def official_name(key: str) -> str:
    """Our name -> the published one."""
    return MATRIX if key == LAYER else _renamed(key, [(ours, theirs) for theirs, ours in _RULES])


def to_ours(state: Mapping[str, Tensor], model: nn.Module | None = None) -> dict[str, Tensor]:
    """A published state dict under our names, with or without the prefix "module."; unknown keys stay.

    Args:
        model: not needed; the names tell the networks apart.
    """
    plain = {key.removeprefix("module."): value for key, value in state.items()}
    return {our_name(key): value.T.contiguous() if key == MATRIX else value for key, value in plain.items()}


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under the published names."""
    return {official_name(key): value.T.contiguous() if key == LAYER else value for key, value in state.items()}


def check_trained(network: nn.Module, where: str) -> None:
    """Raise `WeightsError` if a layer that starts at zero still is zero, so that the network has no effect.

    The published code loads files so that keys that do not fit are ignored, which leaves those layers at zero.

    Args:
        network: a `SketchDiT` or a `DynamicMemoryFusion`.
        where: the file, for the message.
    """
    for key, value in network.state_dict().items():
        if key in ZEROS and not value.any():
            raise WeightsError(
                f"{where}: {official_name(key)} is zero throughout, so the {type(network).__name__} would have no effect; the "
                "file is of an untrained network, or damaged: download it again"
            )


def _renamed(key: str, rules: Sequence[tuple[str, str]]) -> str:
    for before, after in rules:
        found = re.match(re.escape(before).replace(r"\{\}", r"(\d+)"), key)
        if found:
            return after.format(*found.groups()) + key[found.end() :]
    return key
