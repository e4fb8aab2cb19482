"""The toy world's networks: diffusers' and transformers' own classes, small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from visionzoo.data.toy_world import vocabulary
from visionzoo.diffusion import text_config, word_tokenizer
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


@dataclass(frozen=True)
class TextToImageConfig:
    """Sizes of the text-to-image network.

    Attributes:
        channels: of the UNet's levels.
        plain: number of levels without attention, from the finest one on.
        layers: residual blocks per level.
        heads: of its attention.
        groups: of its group norms; divides all channels.
        latent_channels: those of the autoencoder.
        latent_size: sides of the latents for training.
        text_width, text_layers, text_heads: of the text encoder.
    """

    channels: tuple[int, ...] = (48, 80, 112)
    plain: int = 0
    layers: int = 1
    heads: int = 4
    groups: int = 16
    latent_channels: int = 8
    latent_size: int = 16
    text_width: int = 96
    text_layers: int = 2
    text_heads: int = 4


class TextToImage(nn.Module):
    """A denoising UNet and the text encoder that is trained with it.

    Attributes:
        config: its sizes.
        unet: diffusers' UNet2DConditionModel.
        text_encoder: transformers' CLIPTextModel.
        tokenizer: transformers' CLIPTokenizer over the toy world's words.
    """

    def __init__(self, config: TextToImageConfig):
        super().__init__()
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
        from transformers import CLIPTextModel

        self.config = config
        self.tokenizer = toy_tokenizer()
        text = text_config(self.tokenizer, config.text_width, config.text_layers, config.text_heads)
        self.text_encoder = CLIPTextModel(text)
        plain, deeper = config.plain, len(config.channels) - config.plain
        make: Any = UNet2DConditionModel
        self.unet = make(
            sample_size=config.latent_size,
            in_channels=config.latent_channels,
            out_channels=config.latent_channels,
            layers_per_block=config.layers,
            block_out_channels=tuple(config.channels),
            down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",) * deeper,
            up_block_types=("CrossAttnUpBlock2D",) * deeper + ("UpBlock2D",) * plain,
            cross_attention_dim=config.text_width,
            attention_head_dim=config.heads,  # diffusers means the number of heads
            norm_num_groups=config.groups,
        )

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Texts to (N, tokens, width), with gradients."""
        limit = self.tokenizer.model_max_length
        ids = self.tokenizer(
            list(texts), padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
        ).input_ids
        return self.text_encoder(ids.to(self.text_encoder.device))[0]

    def forward(self, latents: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        """Predict from noisy latents (N, C, h, w), timesteps (N,) and the states of `encode`."""
        return self.unet(latents, timesteps, states).sample


def toy_tokenizer() -> Any:
    """A CLIP tokenizer in which every word of the toy world is one token."""
    return word_tokenizer(word for word in vocabulary() if word != ",")


def noise_schedule() -> Any:
    """The schedule that the toy world's networks are trained with: Stable Diffusion's, with v-prediction."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def build(name: str, **overrides: Any) -> nn.Module:
    """Build a registered network with random weights.

    Args:
        name: "toy_vae" or "toy_text_to_image".
        **overrides: fields of its configuration, `AutoencoderConfig` or `TextToImageConfig`.

    Raises:
        InputError: an unknown field.
        VisionZooError: diffusers is not installed.
    """
    require("diffusers", extra="diffusion", purpose="a network of the toy world")
    config_type, make = {
        "toy_vae": (AutoencoderConfig, _autoencoder),
        "toy_text_to_image": (TextToImageConfig, TextToImage),
    }[name]
    known = list(config_type.__dataclass_fields__)
    for field in overrides:
        if field not in known:
            raise unknown(f"field of {config_type.__name__}", field, known)
    settings: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in overrides.items()}
    return make(config_type(**settings))


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
        scaling_factor=1.0,  # given, or `from_config` would ignore the value that training finds
    )


__all__ = ["AutoencoderConfig", "TextToImage", "TextToImageConfig", "build", "noise_schedule", "toy_tokenizer"]
