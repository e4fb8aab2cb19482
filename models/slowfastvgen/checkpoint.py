"""Converts ModelScope's text-to-video UNet (text2video_pytorch_model.pth) to the names of diffusers' `UNet3DConditionModel` and back.

Facts about the published file: input and output blocks are numbered through all levels, with a place for each downsampling; the
temporal convolutions are inside the residual blocks, under "temopral_conv"; the projections of temporal transformers are convolutions
of width 1 over frames, whose weights have a third axis.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "conv_in": "input_blocks.0.0",
    "transformer_in": "input_blocks.0.1",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_PLACES = {"resnets": "0", "temp_convs": "0.temopral_conv", "attentions": "1", "temp_attentions": "2"}
_LAYER = re.compile(r"(down_blocks|up_blocks)\.(\d+)\.(resnets|temp_convs|attentions|temp_attentions)\.(\d+)\.(.+)")
_SAMPLER = re.compile(r"(down_blocks|up_blocks)\.(\d+)\.(?:down|up)samplers\.0\.conv\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|temp_convs|attentions|temp_attentions)\.(\d+)\.(.+)")
_PROJECTION = re.compile(r"(transformer_in|.*temp_attentions\.\d+)\.proj_(in|out)\.weight")


def official_names(keys: Iterable[str]) -> dict[str, str]:
    """Our name of each weight -> ModelScope's."""
    keys = list(keys)
    layers = 1 + max(int(match[4]) for key in keys if (match := _LAYER.match(key)) and match[1] == "down_blocks")
    attends = {
        match[2]
        for key in keys
        if (match := _LAYER.match(key)) and match[1] == "up_blocks" and match[3] == "attentions"
    }
    return {key: _official(key, layers, attends) for key in keys}


def _official(key: str, layers: int, attends: set[str]) -> str:
    if match := _LAYER.match(key):
        side, level, kind, number, rest = match.groups()
        inside = "input_blocks" if side == "down_blocks" else "output_blocks"
        index = (layers + 1) * int(level) + int(number) + (side == "down_blocks")
        return f"{inside}.{index}.{_PLACES[kind]}.{_inner(kind, rest)}"
    if match := _SAMPLER.match(key):
        side, level, rest = match.groups()
        index = (layers + 1) * (int(level) + 1)
        if side == "down_blocks":
            return f"input_blocks.{index}.op.{rest}"
        return f"output_blocks.{index - 1}.{3 if level in attends else 1}.conv.{rest}"
    if match := _MIDDLE.match(key):
        kind, number, rest = match.groups()
        place = int(_PLACES[kind][0]) + 3 * int(number)
        return f"middle_block.{place}{_PLACES[kind][1:]}.{_inner(kind, rest)}"
    for ours, theirs in _ENDS.items():
        if key.startswith(f"{ours}."):
            return theirs + key.removeprefix(ours)
    return key


def _inner(kind: str, rest: str) -> str:
    head, _, tail = rest.partition(".")
    return f"{_RESNET[head]}.{tail}" if kind == "resnets" else rest


def to_ours(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """ModelScope's state dict under the names of `model`; unknown keys stay.

    Args:
        model: a `UNet3DConditionModel`.
    """
    ours = {theirs: key for key, theirs in official_names(model.state_dict()).items()}
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        name = ours.get(key, key)
        found[name] = value.squeeze(-1) if _PROJECTION.fullmatch(name) and value.ndim == 3 else value
    return found


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under ModelScope's names and with its shapes."""
    return {
        theirs: state[key].unsqueeze(-1) if _PROJECTION.fullmatch(key) else state[key]
        for key, theirs in official_names(state).items()
    }
