"""What the sketch network and the video network share: inputs, embeddings and blocks of CogVideoX 1.5."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor, nn

from visionzoo.errors import InputError

__all__ = ["OFFSET", "check_inputs", "embed", "rotary_embedding", "run_block"]

OFFSET = 2.0
"""The value of `ofs` that CogVideoX 1.5 was trained with for image to video."""

Rotary = tuple[Tensor, Tensor]


def rotary_embedding(network: Any, latents: Tensor) -> Rotary:
    """Cosines and sines of the video tokens' positions, each (N, head width) float32.

    The table is cut from one for the training size, so that a position has the same angles at every size.

    Args:
        network: a `SketchDiT` or a `LongAnimationTransformer`; its `config` has the patch sizes.
        latents: (B, T, C, h, w); N = T h w / (2 · 2 · 2).
    """
    config = network.config
    _, frames, _, height, width = latents.shape
    side, depth = config.patch_size, config.patch_size_t or 1
    tables: Any = get_3d_rotary_pos_embed(
        embed_dim=config.attention_head_dim,
        crops_coords=None,
        grid_size=(height // side, width // side),
        temporal_size=frames // depth,
        grid_type="slice",
        max_size=(config.sample_height // side, config.sample_width // side),
        device=latents.device,
    )
    return tables


def check_inputs(network: Any, latents: Tensor, ofs: Any, rotary: Rotary | None) -> None:
    """Raise `InputError` for inputs with which CogVideoX 1.5 runs, but computes something else.

    Args:
        latents: (B, T, C, h, w).
        ofs: required if the network has an embedding for it.
        rotary: required if the network has no other positions.
    """
    config = network.config
    name = type(network).__name__
    if latents.ndim != 5 or latents.shape[2] != config.in_channels:
        raise InputError(f"{name} expects latents (B, T, {config.in_channels}, h, w), got {tuple(latents.shape)}")
    side, depth = config.patch_size, config.patch_size_t or 1
    _, frames, _, height, width = latents.shape
    if frames % depth or height % side or width % side:
        raise InputError(
            f"{name} expects a number of latent frames divisible by {depth} and latent sides divisible by {side}, got "
            f"{frames} frames of {height} x {width}; pad the frames at the front, and choose image sides divisible by 16"
        )
    if network.ofs_embedding is not None and ofs is None:
        raise InputError(f"{name} needs ofs, a tensor with the value {OFFSET}")
    if rotary is None and config.use_rotary_positional_embeddings:
        raise InputError(f"{name} needs image_rotary_emb; compute it with rotary_embedding(network, latents)")
    count = frames // depth * (height // side) * (width // side)
    if rotary is not None and rotary[0].shape[0] != count:
        raise InputError(f"image_rotary_emb is for {rotary[0].shape[0]} tokens, but the latents have {count}")


def embed(
    network: Any, latents: Tensor, text: Tensor, timestep: Any, ofs: Any, condition: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Video tokens (B, N, D), text tokens (B, L, D), and the embedding (B, time width) of time and `ofs`.

    Args:
        latents: (B, T, C, h, w).
        text: (B, L, text width).
        timestep, ofs: (B,) or (1,).
        condition: added to the embedding of the time, for distilled networks.
    """
    time = network.time_embedding(network.time_proj(timestep).to(latents.dtype), condition)
    if network.ofs_embedding is not None:
        time = time + network.ofs_embedding(network.ofs_proj(ofs).to(latents.dtype))
    tokens = network.embedding_dropout(network.patch_embed(text, latents))
    text, video = tokens.split([text.shape[1], tokens.shape[1] - text.shape[1]], 1)
    return video, text, time


def run_block(
    network: Any, block: nn.Module, video: Tensor, text: Tensor, time: Tensor, rotary: Rotary | None, extra: Any = None
) -> tuple[Tensor, Tensor]:
    """One block on video (B, N, D) and text (B, L, D), with gradient checkpointing if the network has it enabled."""
    if torch.is_grad_enabled() and network.gradient_checkpointing:
        return network._gradient_checkpointing_func(block, video, text, time, rotary, extra)
    return block(
        hidden_states=video, encoder_hidden_states=text, temb=time, image_rotary_emb=rotary, attention_kwargs=extra
    )
