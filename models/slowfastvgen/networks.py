"""The networks of `slowfastvgen_nano`: ModelScope's video UNet and a CLIP text encoder, small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visionzoo.diffusion import text_config
from visionzoo.errors import InputError, require, unknown
from visionzoo.weights import load_checkpoint, read_checkpoint

from ..toy_world import toy_tokenizer

__all__ = ["SlowFastNano", "SlowFastNanoConfig", "build", "start_from_images"]

FILES = {"unet": "diffusion_pytorch_model.safetensors", "text_encoder": "model.safetensors"}
"""Parts and their files in a folder of diffusers."""


@dataclass(frozen=True)
class SlowFastNanoConfig:
    """Sizes of `SlowFastNano`.

    Attributes:
        channels: of the UNet's levels.
        plain: number of levels without attention, from the finest one on.
        layers: residual blocks per level.
        head: width of an attention head; divides the channels of levels with attention.
        groups: of its group norms; divides all channels.
        latent_channels: those of the autoencoder.
        latent_size: sides of the latents for training.
        text_width, text_layers, text_heads: of the text encoder.
    """

    channels: tuple[int, ...] = (48, 80, 96)
    plain: int = 1
    layers: int = 1
    head: int = 16
    groups: int = 16
    latent_channels: int = 8
    latent_size: int = 12
    text_width: int = 96
    text_layers: int = 2
    text_heads: int = 4


class SlowFastNano(nn.Module):
    """A video UNet and the text encoder that is trained with it.

    The temporal transformers start with outputs of zero, as the temporal convolutions do anyway, so that a new network treats
    each frame alone.

    Attributes:
        config: its sizes.
        unet: `SlowFastUNet`.
        text_encoder: transformers' CLIPTextModel.
        tokenizer: transformers' CLIPTokenizer over the toy world's words.
    """

    def __init__(self, config: SlowFastNanoConfig):
        super().__init__()
        from transformers import CLIPTextModel

        from .unet import SlowFastUNet

        self.config = config
        self.tokenizer = toy_tokenizer()
        self.text_encoder = CLIPTextModel(
            text_config(self.tokenizer, config.text_width, config.text_layers, config.text_heads)
        )
        plain, deeper = config.plain, len(config.channels) - config.plain
        make: Any = SlowFastUNet
        self.unet = make(
            sample_size=config.latent_size,
            in_channels=config.latent_channels,
            out_channels=config.latent_channels,
            layers_per_block=config.layers,
            block_out_channels=tuple(config.channels),
            down_block_types=("DownBlock3D",) * plain + ("CrossAttnDownBlock3D",) * deeper,
            up_block_types=("CrossAttnUpBlock3D",) * deeper + ("UpBlock3D",) * plain,
            cross_attention_dim=config.text_width,
            attention_head_dim=config.head,
            norm_num_groups=config.groups,
        )
        for name, module in self.unet.named_modules():
            if name.endswith("proj_out") and ("temp_attentions" in name or name.startswith("transformer_in")):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Texts to (N, tokens, width), with gradients."""
        limit = self.tokenizer.model_max_length
        tokens = self.tokenizer(
            list(texts), padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
        )
        return self.text_encoder(tokens.input_ids.to(self.text_encoder.device))[0]

    def forward(self, latents: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        """Predict from latents (B, C, frames, h, w), timesteps (B,) and the states of `encode`."""
        return self.unet(latents, timesteps, states).sample

    def load_folder(self, folder: Path) -> None:
        """Load the parts of a folder in diffusers' layout.

        Raises:
            WeightsError: a part is missing or does not fit.
        """
        for part, file in FILES.items():
            state = read_checkpoint(folder / part / file)
            network = getattr(self, part)
            if not hasattr(network, "text_model"):  # a level that transformers 5 has removed
                state = {key.removeprefix("text_model."): value for key, value in state.items()}
            load_checkpoint(network, state)


def start_from_images(unet: nn.Module, images: Mapping[str, Tensor]) -> list[str]:
    """Copy the weights of an image UNet (UNet2DConditionModel) into a video UNet of the same widths; return the copied names.

    Layers that both have keep their names; projections of 1 x 1 convolutions become linear ones. What only the video UNet has,
    its temporal layers, keeps its values.

    Raises:
        InputError: no layer fits.
    """
    own = unet.state_dict()
    fits: dict[str, Tensor] = {}
    for key, value in images.items():
        if key not in own:
            continue
        if value.shape != own[key].shape and value.ndim == 4 and value.shape[2:] == (1, 1):
            value = value[..., 0, 0]
        if value.shape == own[key].shape:
            fits[key] = value.to(own[key])
    if not fits:
        raise InputError("no layer of the image network has the name and the shape of one of the video network")
    with torch.no_grad():
        unet.load_state_dict({**own, **fits})
    return sorted(fits)


def build(name: str, **overrides: Any) -> nn.Module:
    """Build the registered network "slowfastvgen_nano" with random weights.

    Args:
        **overrides: fields of `SlowFastNanoConfig`.

    Raises:
        InputError: an unknown field.
        VisionZooError: diffusers is not installed.
    """
    require("diffusers", extra="diffusion", purpose=name)
    known = list(SlowFastNanoConfig.__dataclass_fields__)
    for field in overrides:
        if field not in known:
            raise unknown("field of SlowFastNanoConfig", field, known)
    settings: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in overrides.items()}
    return SlowFastNano(SlowFastNanoConfig(**settings))
