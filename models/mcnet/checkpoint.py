"""Converts published MCNet checkpoints to our key names and back.

Pure functions on state dicts; `visionzoo.weights` handles files. A published file holds a dictionary per network (and
their optimizers): `join_parts` joins them, with keys like "kp_detector.kp.weight". Rules turn our names into the published
ones; the other direction looks names up among those that the model's own keys give.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from visionzoo.errors import InputError

from .blocks import gaussian_kernel
from .config import MCNetConfig
from .discriminator import Discriminator
from .generator import Generator
from .keypoints import KeypointDetector
from .memory import MemoryUnit
from .model import MCNet
from .motion import DenseMotion

PARTS = ("generator", "kp_detector", "discriminator")
"""The keys under which a published file holds its networks."""

_PREFIXES: dict[type[nn.Module], tuple[str, str]] = {
    MCNet: ("", ""),
    KeypointDetector: ("detector.", "kp_detector."),
    Generator: ("generator.", "generator."),
    DenseMotion: ("generator.motion.", "generator.dense_motion_network."),
    MemoryUnit: ("generator.memory.", "generator.mbUnit."),
    Discriminator: ("discriminator.", "discriminator."),
}
"""Prefix of a network's keys in our state dict and in theirs."""

_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^detector\.heatmap\.", "kp_detector.kp."),
        (r"^detector\.hourglass\.", "kp_detector.predictor."),
        (r"^detector\.", "kp_detector."),
        (r"^generator\.motion\.", "generator.dense_motion_network."),
        (r"(predictor|hourglass)\.down\.", r"\1.encoder.down_blocks."),
        (r"(predictor|hourglass)\.up\.", r"\1.decoder.up_blocks."),
        (r"^generator\.(up|down)\.", r"generator.\1_blocks."),
        (r"^generator\.residual\.", "generator.resblock."),
        (r"^generator\.memory\.style\.", "generator.mbUnit.style_route."),
        (r"^generator\.memory\.style_conv\.noise_strength$", "generator.mbUnit.styleconv.weight"),
        (r"^generator\.memory\.style_conv\.bias$", "generator.mbUnit.styleconv.activate.bias"),
        (r"^generator\.memory\.style_conv\.", "generator.mbUnit.styleconv.modulated_conv."),
        (r"^generator\.memory\.key_value\.reduce\.", "generator.mbUnit.conv_kv.attention.fc1."),
        (r"^generator\.memory\.key_value\.expand\.", "generator.mbUnit.conv_kv.attention.fc2."),
        (r"^generator\.memory\.key_value\.", "generator.mbUnit.conv_kv."),
        (r"^generator\.memory\.query\.", "generator.mbUnit.query_conv."),
        (r"^generator\.memory\.difference\.", "generator.mbUnit.diff_conv."),
        (r"^generator\.memory\.", "generator.mbUnit."),
        (r"^discriminator\.output\.", "discriminator.discs.1.conv."),
        (r"^discriminator\.blocks\.", "discriminator.discs.1.down_blocks."),
    )
)
_LEVEL = re.compile(r"^(generator\.mbUnit)\.(project|restore|norm)\.(\d)\.")
_LEVEL_NAMES = {"project": "feat_forward_proj", "restore": "conv", "norm": "norm"}

_FILTERS = ("kp_detector.down.weight", "generator.dense_motion_network.down.weight")
"""Low-pass filters that published files contain in addition to the weights; here they are computed."""


def official_name(key: str) -> str:
    """Our name of a weight -> the authors' name, e.g. "generator.memory.restore.0.bias" -> "generator.mbUnit.conv_32.bias"."""
    for pattern, replacement in _RULES:
        key = pattern.sub(replacement, key)
    level = _LEVEL.match(key)
    if level:  # the authors name levels after the width of their maps
        key = f"{level[1]}.{_LEVEL_NAMES[level[2]]}_{32 << int(level[3])}.{key[level.end() :]}"
    return key


def join_parts(loaded: Any) -> Any:
    """A published file's content as one state dict, "generator.*", "kp_detector.*" and "discriminator.*".

    The prefix `module.` of parallel training is dropped, and optimizers are omitted. Anything else is returned unchanged.
    """
    if not isinstance(loaded, Mapping) or not any(isinstance(loaded.get(part), Mapping) for part in PARTS):
        return loaded
    return {
        f"{part}.{key.removeprefix('module.')}": value
        for part in PARTS
        for key, value in (loaded.get(part) or {}).items()
    }


def split_parts(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The inverse of `join_parts`: a dictionary per network, as the authors' code reads it."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = value
    return parts


def to_ours(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A published state dict under the names of `model`; unknown keys stay (and are reported as unexpected).

    Args:
        state: the state dict of a whole file (see `join_parts`), or of one network.
        model: an `MCNet`, or one of its parts, or a `Discriminator`. The detector and the dense motion also load weights of
            first order motion models.

    Raises:
        InputError: the weights have another number of keypoints or another input size of the detector, or the network is fused.
    """
    ours, theirs = next(prefixes for kind, prefixes in _PREFIXES.items() if isinstance(model, kind))
    if isinstance(model, MCNet) and model.is_fused:
        raise InputError("a fused network takes no published weights: load them into the network, then fuse() it")
    state = _qualified(state, theirs)
    if theirs:
        state = {key: value for key, value in state.items() if key.startswith(theirs)}
    else:
        state = {key: value for key, value in state.items() if not key.startswith("discriminator.")}
    config: Any = getattr(model, "config", None)
    if isinstance(config, MCNetConfig):
        _check_keypoints(state, config)
        _check_filters(state, config)
    own = model.state_dict()
    names = {official_name(ours + key): key for key in own}
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        if key not in _FILTERS:
            name = names.get(key, key)
            want = own.get(name)
            # 1x1 convolutions as matrices, and no leading axis of 1
            alike = want is not None and value.numel() == want.numel() and _squeezed(value) == _squeezed(want)
            converted[name] = value.view(want.shape) if want is not None and alike else value
    for key in own:
        if key.endswith("num_batches_tracked") and key.replace("num_batches_tracked", "weight") in converted:
            converted.setdefault(key, torch.tensor(0))  # a counter that old files lack and inference does not use
    return converted


def to_official(state: Mapping[str, Tensor], scale_factor: float = 0.25) -> dict[str, Tensor]:
    """Our state dict (of an `MCNet` that is not fused) under the authors' names, with the filters of their files.

    Args:
        scale_factor: the one in the network's configuration.

    Raises:
        InputError: the network is fused, so its layers cannot be separated again.
    """
    if "generator.memory.kernels" in state:
        raise InputError("a fused network has no published form: convert the network that it was made from")
    official: dict[str, Tensor] = {}
    for ours, value in state.items():
        key = official_name(ours)
        if key.endswith("modulated_conv.weight"):
            value = value.unsqueeze(0)
        elif key.endswith(("fc1.weight", "fc2.weight")):
            value = value[:, :, None, None]
        official[key] = value
    if scale_factor < 1:
        kernel = gaussian_kernel(scale_factor)
        for key in _FILTERS:
            if any(name.startswith(key.removesuffix("down.weight")) for name in official):
                official[key] = kernel.repeat(3, 1, 1, 1)
    return official


def _qualified(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The keys prefixed with the name of the network, without `module.` after it."""
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if not any(key.startswith(tuple(f"{part}." for part in PARTS)) for key in state):
        marks = {"dense_motion_network.": "generator.", "predictor.": "kp_detector.", "discs.": "discriminator."}
        prefix = next((part for mark, part in marks.items() if any(key.startswith(mark) for key in state)), prefix)
        state = {prefix + key: value for key, value in state.items()}
    return {re.sub(r"^(\w+)\.module\.", r"\1.", key): value for key, value in state.items()}


def _check_keypoints(state: Mapping[str, Tensor], config: MCNetConfig) -> None:
    heads = {"kp_detector.kp.bias": 0, "generator.dense_motion_network.mask.bias": 1}
    for key, more in heads.items():
        if key in state and len(state[key]) - more != config.num_keypoints:
            raise InputError(
                f"these weights are for a network with {len(state[key]) - more} keypoints, but this one has {config.num_keypoints}: "
                f"create it with num_keypoints={len(state[key]) - more}"
            )


def _check_filters(state: Mapping[str, Tensor], config: MCNetConfig) -> None:
    kernel = gaussian_kernel(config.scale_factor)
    for key in _FILTERS:
        found = state.get(key)
        if found is not None and (found.shape[2:] != kernel.shape or (found[0, 0].cpu() - kernel).abs().max() > 1e-4):
            raise InputError(
                f"{key} is not the filter for scale_factor={config.scale_factor}: these weights are for another scale_factor"
            )


def _squeezed(value: Tensor) -> list[int]:
    return [size for size in value.shape if size != 1]
