"""A small video autoencoder of CogVideoX's kind, with the weights of an image autoencoder inside.

Its 2D convolutions become the time slice of causal 3D convolutions that sees the current frame, and the other slices are zero.
Without compression of time, the result treats every frame as the image autoencoder does, except for the attention of the middle
blocks, which CogVideoX does not have. With it, this holds for still videos only, as CogVideoX halves time by averaging frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from visionzoo.errors import InputError

__all__ = ["VideoAutoencoderConfig", "inflate", "make_video_vae"]

EXTRA_LOGVAR = -4.0
"""Log variance at which latent channels begin that the image autoencoder lacks."""


@dataclass(frozen=True)
class VideoAutoencoderConfig:
    """Sizes of the video autoencoder.

    Attributes:
        channels: of each level; each level but the last halves the sides.
        latent_channels: channels of the latents.
        time_compression: frames per latent after the first one: 1, 2 or 4. CogVideoX has 4.
        layers: residual blocks per level of the encoder; the decoder has one more.
        groups: of the group norms; divides all channels.
    """

    channels: tuple[int, ...] = (16, 32, 64, 96)
    latent_channels: int = 8
    time_compression: int = 1
    layers: int = 1
    groups: int = 8


def make_video_vae(config: VideoAutoencoderConfig) -> Any:
    """Diffusers' AutoencoderKLCogVideoX with random weights; 9 frames give 9 latents, or 3 with a time compression of 4.

    Raises:
        InputError: another time compression, or more than the levels allow.
    """
    from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX

    time = config.time_compression
    if time not in (1, 2, 4) or time >= 2 ** len(config.channels):
        raise InputError(
            f"time_compression must be 1, 2 or 4, and there must be more levels than halvings of time, got {time} with "
            f"channels={config.channels}"
        )
    levels = len(config.channels)
    make: Any = AutoencoderKLCogVideoX  # its annotations name the types of its defaults
    return make(
        down_block_types=("CogVideoXDownBlock3D",) * levels,
        up_block_types=("CogVideoXUpBlock3D",) * levels,
        block_out_channels=tuple(config.channels),
        latent_channels=config.latent_channels,
        layers_per_block=config.layers,
        norm_num_groups=config.groups,
        temporal_compression_ratio=config.time_compression,
        sample_height=128,
        sample_width=128,
        scaling_factor=1.0,  # given, or `from_config` would ignore the value that training finds
    )


@torch.no_grad()
def inflate(video: nn.Module, image: nn.Module, extra: float = 0.02) -> None:
    """Give a video autoencoder the weights of an image autoencoder (diffusers' AutoencoderKL), in place.

    Args:
        video: of `make_video_vae`, with the same channels, layers and groups.
        image: without quantisation convolutions.
        extra: standard deviation of the weights from and to latent channels that only `video` has.

    Raises:
        InputError: the networks do not have the same sizes, or `image` has more latent channels.
    """
    ours: Any = video.state_dict()
    theirs: Any = image.state_dict()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in ours.items():
        if (
            ".conv_y." in name or ".conv_b." in name
        ):  # the norm is conditioned on the latents; begin with a plain group norm
            parameter.fill_(1.0 if name.endswith("conv_y.conv.bias") else 0.0)
            continue
        source = theirs.get(_image_name(name))
        if source is None:
            raise InputError(
                f"the image autoencoder has no {_image_name(name)}; the two need the same levels and layers"
            )
        if name.startswith("encoder.conv_out"):
            _moments(parameter, source, extra, generator)
        elif name == "decoder.conv_in.conv.weight":
            wider = torch.randn(parameter.shape[:2] + source.shape[2:], generator=generator) * extra
            wider[:, : source.shape[1]] = source
            _fill(name, parameter, wider)
        else:
            _fill(name, parameter, source)


def _image_name(name: str) -> str:
    """The name of a parameter in the image autoencoder."""
    name = name.replace(".norm_layer.", ".").replace(".norm_out.", ".conv_norm_out.")
    if ".downsamplers." in name or ".upsamplers." in name:
        return name
    return name.replace(".conv.", ".")


def _fill(name: str, parameter: Tensor, source: Tensor) -> None:
    """Set a parameter; of a 3D convolution, the slice of the current frame."""
    target = parameter
    if parameter.ndim == 5:
        parameter.zero_()
        target = parameter[:, :, -1]
    if target.shape != source.shape:
        raise InputError(
            f"{name} has the shape {tuple(target.shape)}, that of the image autoencoder {tuple(source.shape)}"
        )
    target.copy_(source)


def _moments(parameter: Tensor, source: Tensor, extra: float, generator: torch.Generator) -> None:
    """Set weights or biases that lead to the means and log variances of the latents."""
    channels, known = len(parameter) // 2, len(source) // 2
    if known > channels:
        raise InputError(f"the image autoencoder has {known} latent channels, the video autoencoder only {channels}")
    is_weight = parameter.ndim == 5
    shape = (len(parameter), *source.shape[1:])
    wider = torch.randn(shape, generator=generator) * extra if is_weight else torch.zeros(shape)
    wider[channels:] = 0.0 if is_weight else EXTRA_LOGVAR
    wider[:known], wider[channels : channels + known] = source[:known], source[known:]
    _fill("encoder.conv_out", parameter, wider)
