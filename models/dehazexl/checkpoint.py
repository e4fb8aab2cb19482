"""Converts published DehazeXL checkpoints to our key names and back, and timm's Swin V2 for the encoder.

Pure functions on state dicts; `visionzoo.weights` handles files. Rules turn our names into the published ones; the
other direction looks names up among those that the model's own keys give.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from visionzoo.errors import InputError

from .decoder import TableBias
from .encoder import SwinV2Encoder
from .model import DehazeXL
from .windows import relative_position_index, shift_mask

_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^encoder\.stages\.(\d)\.", r"encoder.model.layers_\1."),
        (r"^encoder\.patch_embed\.", "encoder.model.patch_embed."),
        (r"\.merge\.", ".downsample."),
        (r"\.position_bias\.hidden\.", ".cpb_mlp.0."),
        (r"\.position_bias\.output\.", ".cpb_mlp.2."),
        (r"\.position_bias\.table$", ".relative_position_bias_table"),
        (r"\.attention\.", ".attn."),
        (r"^(bottleneck\.layers\.\d+)\.norm1\.", r"\1.input_layernorm."),
        (r"^(bottleneck\.layers\.\d+)\.norm2\.", r"\1.post_attention_layernorm."),
        (r"^(bottleneck\.layers\.\d+\.mlp)\.(gate|up|down)\.", r"\1.\2_proj."),
        (r"^decoder\.stages\.", "decoder.layers_up."),
        (r"(\.upsample|\.up_x2)\.(weight|bias)$", r"\1.expand.\2"),
    )
)
_DERIVED = ("relative_position_index", "attn_mask", "relative_coords_table")
"""Buffers that published files contain in addition to the weights; here they are computed."""

_UPSAMPLE = re.compile(r"\.(upsample|up_x2)\.expand\.weight$")
_SHIFTED = re.compile(r"^decoder\.layers_up\.(\d)\.blocks\.(\d*[13579])\.attn\.relative_position_bias_table$")


def official_name(key: str) -> str:
    """Our name of a weight -> the authors' name, e.g. "decoder.up_x2.weight" -> "decoder.up_x2.expand.weight"."""
    for pattern, replacement in _RULES:
        key = pattern.sub(replacement, key)
    return key


def variant(state: Mapping[str, Tensor]) -> str | None:
    """The `DehazeXLConfig.upsample` of a published file; None if it cannot be determined."""
    if any(key.endswith("up_x2.norm.weight") for key in state):
        return "shuffle"
    return "transposed" if any(key.endswith("up_x2.expand.bias") for key in state) else None


def to_ours(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A published state dict under the names of `model`; unknown keys stay (and are reported as unexpected).

    Args:
        model: a `DehazeXL`; or its encoder alone, which takes timm's `swinv2_tiny_window16_256` as well.

    Raises:
        InputError: the file is for the other variant, or the network is fused.
    """
    if isinstance(model, SwinV2Encoder):
        return _encoder_to_ours(state, model)
    assert isinstance(model, DehazeXL), type(model)
    if model.is_fused:
        raise InputError("a fused network takes no published weights: load them into the network, then fuse() it")
    found, wanted = variant(state), model.config.upsample
    if found and found != wanted:
        raise InputError(
            f"these weights are of the network with upsample={found!r}, this one has {wanted!r}: create it with "
            f"create_model({model_name(found)!r})"
        )
    state = {key: value for key, value in state.items() if not key.endswith(_DERIVED)}
    names = {official_name(key): key for key in model.state_dict()}
    return {names.get(key, key): _to_rows(key, value) for key, value in state.items()}


def model_name(upsample: str) -> str:
    """The registered name of the network with these upsamplers."""
    return "dehazexl_dam" if upsample == "shuffle" else "dehazexl"


def _encoder_to_ours(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    names = {official_name(f"encoder.{key}").removeprefix("encoder.model."): key for key in model.state_dict()}
    ours = {}
    for key, value in state.items():
        key = re.sub(r"^layers\.", "layers_", key.removeprefix("encoder.").removeprefix("model."))
        # the classifier's last layers, and the rest of a DehazeXL
        if not key.endswith(_DERIVED) and not key.startswith(("head.", "norm.", "bottleneck.", "decoder.")):
            ours[names.get(key, key)] = value
    return ours


def _to_rows(key: str, value: Tensor) -> Tensor:
    """A transposed convolution (C, D, 2, 2) as the rows of a linear layer, the last 1x1 convolution as a matrix."""
    if _UPSAMPLE.search(key) and value.ndim == 4:
        return value.permute(2, 3, 1, 0).flatten(0, 2)
    return value.flatten(1) if key == "decoder.output.weight" else value


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict (of a network that is not fused) under the authors' names, with the buffers of their files.

    Raises:
        InputError: the network is fused, so its position biases cannot be converted back.
    """
    if any(".blocks.blocks." in key for key in state):
        raise InputError("a fused network has no published form: convert the network that it was made from")
    shuffled = any(key.endswith("up_x2.norm.weight") for key in state)
    official: dict[str, Tensor] = {}
    for ours, value in state.items():
        key = official_name(ours)
        if _UPSAMPLE.search(key) and not shuffled:
            value = value.unflatten(0, (2, 2, -1)).permute(3, 2, 0, 1).contiguous()
        elif key == "decoder.output.weight":
            value = value[:, :, None, None]
        official[key] = value
        if key.endswith(".relative_position_bias_table"):
            size = (round(len(value) ** 0.5) + 1) // 2
            official[key.replace("bias_table", "index")] = relative_position_index(size)
            shifted = _SHIFTED.match(key)
            if shifted and int(shifted[1]):
                mask = shift_mask(8 << int(shifted[1]), size, size // 2)
                official[key.replace("attn.relative_position_bias_table", "attn_mask")] = mask
    return official


def derived_differences(state: Mapping[str, Tensor], model: DehazeXL) -> list[str]:
    """Names of derived buffers in a published file that differ from those of this network, as with other window sizes."""
    wanted: dict[str, Any] = {}
    for name, module in model.named_modules():
        if isinstance(module, TableBias):
            block = official_name(f"{name}.table").removesuffix("attn.relative_position_bias_table")
            wanted[f"{block}attn.relative_position_index"] = module.index
            wanted[f"{block}attn_mask"] = module.mask
    return [
        key
        for key, value in wanted.items()
        if key in state and (value is None or not torch.equal(state[key].to(value), value))
    ]
