"""The toy world's networks: diffusers' and transformers' own classes, small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from visionzoo.errors import require, unknown


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of the autoencoder.

    Attributes:
        channels: of each level; each level but the last halves the sides.
        latent_channels: channels of the latents.
        layers: residual blocks per level of the encoder; the decoder has one more.
        groups: of the group norms; divides all channels.
    """

    channels: tuple[int, ...] = (16, 32, 64, 96)
    latent_channels: int = 8
    layers: int = 1
    groups: int = 8


def build(name: str, **overrides: Any) -> nn.Module:
    """Build a registered network with random weights; its `config` is that of diffusers.

    Args:
        name: "toy_vae".
        **overrides: fields of its configuration, e.g. of `AutoencoderConfig`.

    Raises:
        InputError: an unknown field.
        VisionZooError: diffusers is not installed.
    """
    require("diffusers", extra="diffusion", purpose="the toy world's networks")
    kinds = {"toy_vae": (AutoencoderConfig, _autoencoder)}
    config_type, make = kinds[name]
    known = list(config_type.__dataclass_fields__)
    for field in overrides:
        if field not in known:
            raise unknown(f"field of {config_type.__name__}", field, known)
    return make(config_type(**overrides))


def _autoencoder(config: AutoencoderConfig) -> nn.Module:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    levels = len(config.channels)
    make: Any = AutoencoderKL  # its annotations name the types of its defaults
    return make(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(config.channels),
        layers_per_block=config.layers,
        latent_channels=config.latent_channels,
        norm_num_groups=config.groups,
        sample_size=128,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


__all__ = ["AutoencoderConfig", "build"]
