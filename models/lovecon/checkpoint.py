"""Converts RIFE's published `flownet.pkl` ("HDv3", also in ControlVideo and LOVECon) to our key names and back.

The file also holds `block_tea`, the teacher of RIFE's training, which saw the true middle frame as well. Inference never uses it,
and `IFNet` has no such block: `to_ours` drops it, and `to_official` cannot restore it, so that the published code loads its result
with `strict=False` only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

TEACHER = "block_tea."
"""Prefix of the keys that are dropped."""

_RULES = (
    (r"^blocks\.(\d+)\.", r"block\1."),
    (r"\.down\.", ".conv0."),
    (r"\.residuals\.(\d+)\.", r".convblock\1."),
    (r"\.flow_head\.", ".conv1."),
    (r"\.mask_head\.", ".conv2."),
)
"""Rules from our names to the published ones."""


def official_name(key: str) -> str:
    """Our name of a weight -> the published one: "blocks.0.residuals.1.0.0.weight" -> "block0.convblock1.0.0.weight"."""
    for pattern, replacement in _RULES:
        key = re.sub(pattern, replacement, key)
    return key


def to_ours(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A published state dict under the names of `model`, with or without the prefix "module."; unknown keys stay.

    If some keys have the prefix, the others are dropped, as in the published code.

    Args:
        model: an `IFNet`.
    """
    prefix = "module."
    if any(key.startswith(prefix) for key in state):
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    ours = {official_name(key): key for key in model.state_dict()}
    return {ours.get(key, key): value for key, value in state.items() if not key.startswith(TEACHER)}


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under the published names, with "module." and without the teacher."""
    return {f"module.{official_name(key)}": value for key, value in state.items()}
