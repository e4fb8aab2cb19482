"""LongAnimation's networks with their published sizes, the calls of a segment, and what counts their FLOPs.

On the meta device, nothing is computed, and no weights are needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import T5Config, T5EncoderModel

from visionzoo.models.longanimation import (
    DynamicMemoryFusion,
    LineartGenerator,
    LongAnimationTransformer,
    SketchDiT,
    VideoXLMemoryEncoder,
    rotary_embedding,
)

FRAMES, LATENT_FRAMES, TEXT_TOKENS = 81, 22, 226


@torch.no_grad()
def count_flops(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def bfloat16(make: Callable[[], nn.Module]) -> Any:
    with torch.device("meta"):
        return nn.Module.to(make().eval().requires_grad_(False), torch.bfloat16)


def random_weights(network: nn.Module, device: str) -> Any:
    """Give a network of the meta device random weights on another device; neither time nor memory depends on them."""
    network.to_empty(device=device)
    for parameter in network.parameters():
        parameter.normal_(std=0.02)
    if isinstance(network, VideoXLMemoryEncoder):
        encoder: Any = network
        tower = encoder.model.vision_tower.vision_tower
        embeddings = getattr(tower, "vision_model", tower).embeddings
        embeddings.position_ids.copy_(torch.arange(embeddings.num_positions)[None])
    return network


@dataclass(eq=False)
class Networks:
    """All parts; by default with the published sizes, in bfloat16 on the meta device."""

    transformer: Any
    sketch_dit: Any
    memory_fusion: Any
    vae: Any
    memory_encoder: Any
    lineart: nn.Module
    text_encoder: nn.Module
    factor: int = 8
    """Image pixels per latent, along each side."""


def published() -> Networks:
    """The published networks. The line-art network runs in float32."""

    def transformer() -> nn.Module:  # folder `transformer` of CogVideoX1.5-5B-I2V
        return LongAnimationTransformer(
            num_attention_heads=48,
            attention_head_dim=64,
            in_channels=32,
            out_channels=16,
            ofs_embed_dim=512,
            num_layers=42,
            patch_size_t=2,
            patch_bias=False,
            sample_height=300,
            sample_width=300,
            sample_frames=81,
            use_rotary_positional_embeddings=True,
        )

    def vae() -> nn.Module:
        make: Any = AutoencoderKLCogVideoX  # diffusers' types are those of a single level
        return make(
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(128, 256, 256, 512),
        )

    def text_encoder() -> nn.Module:  # T5 v1.1 XXL
        sizes = T5Config(
            d_model=4096,
            d_kv=64,
            d_ff=10240,
            num_layers=24,
            num_heads=64,
            feed_forward_proj="gated-gelu",
            vocab_size=32128,
        )
        return T5EncoderModel(sizes)

    with torch.device("meta"):
        lineart = LineartGenerator().eval()
    return Networks(
        bfloat16(transformer),
        bfloat16(SketchDiT),
        bfloat16(DynamicMemoryFusion),
        bfloat16(vae),
        bfloat16(VideoXLMemoryEncoder),
        lineart,
        bfloat16(text_encoder),
    )


def size_of(*networks: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for network in networks for p in network.parameters())


@dataclass
class Segment:
    """Calls of one segment at a size, for counting.

    Args:
        networks: the parts.
        height, width: of the frames, in pixels.
        rows: 2 evaluates both halves of guidance together, 1 one after the other.
        latent_frames, frames: of a segment, the first with the padding latent.
        device: of the networks.
    """

    networks: Networks
    height: int
    width: int
    rows: int = 2
    latent_frames: int = LATENT_FRAMES
    frames: int = FRAMES
    device: str = "meta"

    def given(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.ones(shape, dtype=dtype, device=self.device)

    @property
    def latents(self) -> Tensor:
        """Sketch and image, or noisy and image latents."""
        parts, factor = self.networks, self.networks.factor
        channels = parts.transformer.config.in_channels
        return self.given(self.rows, self.latent_frames, channels, self.height // factor, self.width // factor)

    def inputs(self) -> tuple[Any, ...]:
        config = self.networks.transformer.config
        text = self.given(self.rows, config.max_text_seq_length, config.text_embed_dim)
        latents = self.latents
        return (
            latents,
            text,
            self.given(self.rows, dtype=torch.int64),
            self.given(1),
            rotary_embedding(self.networks.transformer, latents),
        )

    def sketch(self) -> Tensor:
        latents, text, time, ofs, rotary = self.inputs()
        return self.networks.sketch_dit(latents, text, time, ofs, rotary)

    def predict(self, control: Tensor) -> Tensor:
        latents, text, time, ofs, rotary = self.inputs()
        return self.networks.transformer(
            latents, text, time, ofs=ofs, image_rotary_emb=rotary, control_hidden_states=control
        ).sample

    def remember(self, tokens: int) -> Any:
        """Keys and values of a memory of this many tokens."""
        config = self.networks.memory_fusion.config
        return self.networks.memory_fusion.project(self.given(1, 2, config.depth, tokens, config.memory_dim))

    def step(self, memory: Any) -> Tensor:
        """A denoising step from the second segment on."""
        return self.predict(self.networks.memory_fusion(self.sketch(), memory))

    def signal(self) -> Tensor:
        """Of the shape that `sketch` returns."""
        latents, config = self.latents, self.networks.sketch_dit.config
        _, frames, _, height, width = latents.shape
        return self.given(
            self.rows, frames * height * width // 8, config.num_attention_heads * config.attention_head_dim
        )

    def encode(self) -> Any:
        return self.networks.vae.encode(self.given(1, 3, self.frames, self.height, self.width)).latent_dist.parameters

    def decode(self) -> Tensor:
        factor, vae = self.networks.factor, self.networks.vae
        shape = 1, vae.config.latent_channels, self.latent_frames - 1, self.height // factor, self.width // factor
        return vae.decode(self.given(*shape)).sample

    def draw(self) -> Tensor:
        """Line art of four frames at a time, as the published code does for clips of more than 81 frames."""
        return self.networks.lineart(self.given(4, 3, self.height, self.width, dtype=torch.float32))

    def encode_text(self) -> Tensor:
        return self.networks.text_encoder(self.given(1, TEXT_TOKENS, dtype=torch.int64)).last_hidden_state
