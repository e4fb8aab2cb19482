"""Builds the registered networks of LongAnimation with random weights."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from visionzoo.errors import require, unknown

from .lineart import LineartConfig, LineartGenerator
from .nano import nano_parts
from .video_vae import VideoAutoencoderConfig, make_video_vae

__all__ = ["build"]

VIDEO_NETWORK: dict[str, Any] = {
    "sample_height": 300,
    "sample_width": 300,
    "sample_frames": 81,
    "num_attention_heads": 48,
    "num_layers": 42,
    "in_channels": 32,
    "time_embed_dim": 512,
    "ofs_embed_dim": 512,
    "patch_size_t": 2,
    "patch_bias": False,
    "use_rotary_positional_embeddings": True,
}
"""Configuration of CogVideoX1.5-5B-I2V, where it differs from diffusers' defaults."""


def build(name: str, **overrides: Any) -> nn.Module:
    """Build "longanimation", the video network, "longanimation_sketchdit", "_dglm" or "_lineart", other parts of it, or the video
    network "longanimation_nano" or the autoencoder "longanimation_nano_vae" of a small LongAnimation.

    Args:
        **overrides: arguments of `SketchDiT` or `DynamicMemoryFusion`, or fields of `LineartConfig`, `LongAnimationNanoConfig` or
            `VideoAutoencoderConfig`.

    Raises:
        InputError: an unknown one.
        MissingDependencyError: diffusers is not installed.
    """
    if name == "longanimation_lineart":
        _check(overrides, LineartConfig)
        return LineartGenerator(LineartConfig(**overrides))
    require("diffusers", extra="colorize", purpose=name)
    if name == "longanimation_nano":
        return nano_parts(**overrides)["transformer"]
    if name == "longanimation_nano_vae":
        _check(overrides, VideoAutoencoderConfig)
        settings: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in overrides.items()}
        return make_video_vae(VideoAutoencoderConfig(**settings))
    if name == "longanimation":
        from .transformer import LongAnimationTransformer

        network: Any = LongAnimationTransformer
        _check(overrides, network)
        return network(**{**VIDEO_NETWORK, **overrides})
    from .memory_fusion import DynamicMemoryFusion
    from .sketch_dit import SketchDiT

    kind: Any = SketchDiT if name == "longanimation_sketchdit" else DynamicMemoryFusion
    _check(overrides, kind)
    return kind(**overrides)


def _check(overrides: dict[str, Any], kind: Any) -> None:
    known = [each for each in inspect.signature(kind).parameters if each != "self"]
    for field in overrides:
        if field not in known:
            raise unknown(f"field of {kind.__name__}", field, known)
