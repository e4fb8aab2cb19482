"""A small LongAnimation for the toy world, with random weights: the classes of the published one, a few million parameters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from visionzoo.data.toy_world import vocabulary
from visionzoo.errors import InputError, require, unknown

from .videoxl_stream import PromptTokens

__all__ = ["INFLATED", "NANO_PROMPT", "LongAnimationNanoConfig", "nano_parts", "open_video_vae"]

INFLATED = "inflated"
"""In place of a folder: the toy world's image autoencoder, inflated and not trained further."""

NANO_PROMPT = PromptTokens((1, 2, 3), (4, 5))
"""What comes before and after the frames in the memory encoder of a small LongAnimation, which has no tokenizer."""


@dataclass(frozen=True)
class LongAnimationNanoConfig:
    """Sizes of the networks that a small LongAnimation consists of, besides its autoencoder.

    Attributes:
        heads, head: number and width of the attention heads of the video network, SketchDiT and DGLM. `head` is a multiple of 16.
        layers, sketch_layers: blocks of the video network and of SketchDiT.
        time: width of the embeddings of the timestep and of `ofs`.
        latent_channels: those of the autoencoder.
        text_width, text_layers, text_heads, text_length: of the T5 text encoder.
        memory_width, memory_layers, memory_heads: of the memory encoder. The memory is half as wide.
        vision_width, vision_layers: of the memory encoder's vision network.
        image, patch: sides of what it sees of a frame and of its patches, in pixels.
        pool: side of the squares of visual tokens that are averaged.
        ratio, window: visual tokens per beacon, and frames per window.
        levels: number of last layers of the memory encoder that DGLM reads; not all, as beacons of the first layer know nothing yet.
    """

    heads: int = 4
    head: int = 32
    layers: int = 4
    sketch_layers: int = 2
    time: int = 64
    latent_channels: int = 8
    text_width: int = 64
    text_layers: int = 1
    text_heads: int = 4
    text_length: int = 24
    memory_width: int = 64
    memory_layers: int = 3
    memory_heads: int = 4
    vision_width: int = 48
    vision_layers: int = 2
    image: int = 64
    patch: int = 16
    pool: int = 1
    ratio: int = 1
    window: int = 16
    levels: int = 2

    def __post_init__(self) -> None:
        if self.head % 16:
            raise InputError(f"head must be a multiple of 16, which rotary positions divide, got {self.head}")
        if not 1 <= self.levels < self.memory_layers:
            raise InputError(
                f"levels must be at least 1 and less than memory_layers={self.memory_layers}, as beacons of the first layer know "
                f"nothing of the video, got {self.levels}"
            )


def nano_parts(**overrides: Any) -> dict[str, Any]:
    """The parts of a small LongAnimation with random weights, in training mode, without an autoencoder.

    Args:
        **overrides: fields of `LongAnimationNanoConfig`.

    Returns:
        transformer, sketch_dit, memory_fusion, memory_encoder, text_encoder, tokenizer, scheduler.

    Raises:
        InputError: an unknown field, or sizes that do not fit together.
    """
    require("diffusers", extra="colorize", purpose="a small LongAnimation")
    known = list(LongAnimationNanoConfig.__dataclass_fields__)
    for field in overrides:
        if field not in known:
            raise unknown("field of LongAnimationNanoConfig", field, known)
    return _parts(LongAnimationNanoConfig(**overrides))


def _parts(config: LongAnimationNanoConfig) -> dict[str, Any]:
    from diffusers.schedulers.scheduling_dpm_cogvideox import CogVideoXDPMScheduler
    from transformers import T5Config, T5EncoderModel

    from .beacon import BeaconConfig
    from .memory_fusion import DynamicMemoryFusion
    from .sketch_dit import SketchDiT
    from .transformer import LongAnimationTransformer
    from .videoxl_vision import VisionConfig

    tokenizer = _tokenizer(config.text_length)
    shared: dict[str, Any] = {
        "num_attention_heads": config.heads,
        "attention_head_dim": config.head,
        "in_channels": 2 * config.latent_channels,
        "text_embed_dim": config.text_width,
        "max_text_seq_length": config.text_length,
        "time_embed_dim": config.time,
        "ofs_embed_dim": config.time,
        "patch_size": 2,
        "patch_size_t": 2,
        "patch_bias": False,
        "sample_height": 300,
        "sample_width": 300,
        "sample_frames": 81,
        "use_rotary_positional_embeddings": True,
    }
    width = config.heads * config.head
    language = BeaconConfig(
        vocab_size=8,
        hidden_size=config.memory_width,
        intermediate_size=2 * config.memory_width,
        num_hidden_layers=config.memory_layers,
        num_attention_heads=config.memory_heads,
        num_key_value_heads=config.memory_heads // 2,
        window=config.window * (config.image // config.patch // config.pool) ** 2,
        ratio=config.ratio,
        rope_theta=100.0,
        levels=tuple(range(-config.levels, 0)),
    )
    vision = VisionConfig(
        config.vision_width,
        2 * config.vision_width,
        config.vision_layers,
        4,
        image_size=config.image,
        patch_size=config.patch,
        pool=config.pool,
    )
    text = T5Config(
        vocab_size=len(tokenizer),
        d_model=config.text_width,
        d_kv=config.text_width // config.text_heads,
        d_ff=2 * config.text_width,
        num_layers=config.text_layers,
        num_heads=config.text_heads,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
    )
    make_transformer: Any = LongAnimationTransformer
    return {
        "transformer": make_transformer(
            **shared,
            out_channels=config.latent_channels,
            num_layers=config.layers,
            timestep_activation_fn="silu",
            use_learned_positional_embeddings=False,
        ),
        "sketch_dit": SketchDiT(**shared, num_layers=config.sketch_layers),
        "memory_fusion": DynamicMemoryFusion(
            dim=width,
            heads=config.heads,
            dim_head=config.head,
            depth=config.levels,
            memory_dim=language.memory_width,
            mapping_hidden=(width, width),
            ff_mult=2,
        ),
        "memory_encoder": _memory_encoder(language, vision),
        "text_encoder": T5EncoderModel(text),
        "tokenizer": tokenizer,
        "scheduler": CogVideoXDPMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            set_alpha_to_one=True,
            snr_shift_scale=1.0,
            clip_sample=False,
        ),
    }


@torch.no_grad()
def _memory_encoder(language: Any, vision: Any) -> Any:
    """A memory encoder with random weights, always the same: random features, of which DGLM learns what it needs.

    With plain random weights, beacons would attend to all of a window alike and all become the same. With equal biases of queries
    and keys, attention falls with the distance, because of the rotary positions; only so in the first layer, as the keys of the
    others are read. Embeddings are as small as those of Qwen2, so that beacons are mostly what they attend to.
    """
    from .videoxl import VideoXLMemoryEncoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = VideoXLMemoryEncoder(language, vision)
    for name, weight in encoder.model.named_parameters():
        if name.startswith("layers.0.") and name.endswith(("q_proj.bias", "k_proj.bias")):
            weight.fill_(2.0)
        elif "embed_tokens" in name:
            weight.mul_(0.02)
    return encoder


def _tokenizer(length: int) -> Any:
    """A T5 tokenizer in which every word of the toy world is one token."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words = [(f"▁{word}", -3.0) for word in vocabulary() if word != ","]
    make: Any = T5Tokenizer
    return make(vocab=[*special, *words], extra_ids=0, model_max_length=length)


def open_video_vae(folder: str | Path | None = None) -> Any:
    """Load an AutoencoderKLCogVideoX in float32 and eval mode. One that sees one frame takes frames one by one, see `frame_by_frame`.

    Args:
        folder: that diffusers wrote; None or "inflated" is the toy world's image autoencoder as a video autoencoder, without any
            training.

    Raises:
        InputError: the folder does not exist or holds no such autoencoder.
    """
    require("diffusers", extra="colorize", purpose="a video autoencoder")
    from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX

    from ..toy_world import open_vae
    from .frame_vae import frame_by_frame
    from .video_vae import VideoAutoencoderConfig, inflate, make_video_vae

    if folder is None or folder == INFLATED:
        network, image = make_video_vae(VideoAutoencoderConfig()), open_vae()
        inflate(network, image)
        network.register_to_config(scaling_factor=image.config.scaling_factor)
        return frame_by_frame(network.eval())
    place = Path(folder)
    if not (place / "config.json").is_file():
        raise InputError(
            f"{place}: is no folder of a video autoencoder (config.json is missing); train one: "
            "visionzoo fit --config longanimation/vae"
        )
    try:
        return frame_by_frame(AutoencoderKLCogVideoX.from_pretrained(place, torch_dtype=torch.float32).eval())
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{place}: holds no video autoencoder that diffusers can load ({error})") from error
