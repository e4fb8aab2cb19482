"""Layers of the video UNet with the weights and names of diffusers' own, that store and copy less."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import (
    TransformerTemporalModel,
    TransformerTemporalModelOutput,
)
from torch import Tensor, nn

__all__ = ["LAYERS", "Checkpointed", "TextCache", "VideoAttnProcessor"]

PIECES = 4
"""Number of pieces of a video's places, if these are computed piece by piece."""

MOST_HEADS = 65_535
"""Limit of CUDA kernels for the number of heads."""


class Checkpointed:
    """A layer of which less is stored, or less computed, with the same values.

    Attributes:
        checkpointing: if set, only inputs are stored for the backward pass, and the rest is computed again.
        equal_halves: the second half of the batch equals the first, so that one half is computed. It is so in front of the first
            attention to text, if the batch is there for two texts.
    """

    checkpointing: Callable[..., Any] | None = None
    equal_halves = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.equal_halves:
            return self._stored(*args, **kwargs)
        half = len(args[0] if args else kwargs["hidden_states"]) // 2
        args = tuple(x[:half] if isinstance(x, Tensor) else x for x in args)
        output = self._stored(*args, **{k: x[:half] if isinstance(x, Tensor) else x for k, x in kwargs.items()})
        return (twice(output[0]),) if isinstance(output, tuple) else twice(output)

    def _stored(self, *args: Any, **kwargs: Any) -> Any:
        forward = super().forward  # pyright: ignore[reportAttributeAccessIssue]
        if self.checkpointing is None or not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return self.checkpointing(functools.partial(forward, **kwargs), *args)


def twice(maps: Tensor) -> Tensor:
    """(B, C, h, w) -> (2 B, C, h, w), in the memory format that it has."""
    return torch.cat([maps, maps])


class TextCache:
    """Text states with their keys and values in every cross-attention, which depend on neither the timestep nor the frame.

    They are kept while no gradients are computed. A cache belongs to one text and to weights that do not change: make a new one
    after fast learning, and when adapters are switched.

    Args:
        states: (B, tokens, width).
    """

    def __init__(self, states: Tensor) -> None:
        self.states = states
        self._projected: dict[Attention, tuple[Tensor, Tensor]] = {}

    def keys_and_values(self, layer: Attention) -> tuple[Tensor, Tensor]:
        """(B, heads, tokens, width) each."""
        if (found := self._projected.get(layer)) is None:
            keys, values = layer.to_k(self.states), layer.to_v(self.states)  # pyright: ignore[reportOptionalCall]
            heads = (layer.heads, -1)
            found = keys.unflatten(2, heads).transpose(1, 2), values.unflatten(2, heads).transpose(1, 2)
            if not torch.is_grad_enabled():
                self._projected[layer] = found
        return found


class VideoAttnProcessor(AttnProcessor2_0):
    """Attention of the video UNet: to a text once for all frames, or over the frames of each place without moving tokens.

    Both are exact. Other attention is diffusers'.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        text: TextCache | None = None,
        frames: int | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            hidden_states: (B * F, h * w, C) for attention to the text, (B, F * h * w, C) for attention over frames.
            text: given in spatial transformers; its batch is B.
            frames: F, given in temporal transformers.
        """
        to_text = text is not None and encoder_hidden_states is not None
        if attention_mask is not None or not (to_text or frames):
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        query = attn.to_q(hidden_states)
        if to_text:
            assert text is not None
            batch = len(text.states)
            # the frames of a video share keys, so they are one long row of queries
            query = query.reshape(batch, -1, attn.heads, query.shape[-1] // attn.heads).transpose(1, 2)
            out = F.scaled_dot_product_attention(query, *text.keys_and_values(attn))
        else:
            assert frames is not None
            key, value = attn.to_k(hidden_states), attn.to_v(hidden_states)  # pyright: ignore[reportOptionalCall]
            out = _over_frames(query, key, value, frames, attn.heads)
        out = out.transpose(1, 2).reshape(*hidden_states.shape[:2], -1)
        return attn.to_out[1](attn.to_out[0](out))  # pyright: ignore[reportOptionalSubscript]


def _over_frames(query: Tensor, key: Tensor, value: Tensor, frames: int, heads: int) -> Tensor:
    """Attention of (B, F * N, heads * width) over F, as (B, N * heads, F, width): each place and head counts as a head."""
    width = query.shape[-1] // heads
    q, k, v = (x.reshape(len(x), frames, -1, width).transpose(1, 2) for x in (query, key, value))
    if q.shape[1] <= MOST_HEADS or not q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v)
    pieces = zip(*(x.split(MOST_HEADS, dim=1) for x in (q, k, v)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(a, b, c) for a, b, c in pieces], dim=1)


class Resnet(Checkpointed, ResnetBlock2D):
    pass


class TemporalConv(Checkpointed, TemporalConvLayer):
    pass


class OverFrames(nn.Conv3d):
    """A convolution over frames alone, kernel (k, 1, 1), as a 2D one over (frames, places), which is faster on CPUs and GPUs."""

    def forward(self, input: Tensor) -> Tensor:
        over_frames = self.kernel_size[1:] == self.stride[1:] == self.dilation[1:] == (1, 1) and self.groups == 1
        if not over_frames or self.padding[1:] != (0, 0) or input.ndim != 5:  # pyright: ignore[reportIndexIssue]
            return super().forward(input)
        maps: Tensor = F.conv2d(
            input.flatten(3),
            self.weight.squeeze(-1),
            self.bias,
            (self.stride[0], 1),
            (int(self.padding[0]), 0),
            (self.dilation[0], 1),
        )
        return maps.unflatten(3, input.shape[3:])


class _KeepsFormat(Transformer2DModel):
    """Returns maps in the memory format channels-last, which the tokens have anyway, instead of copying them to another."""

    def _get_output_for_continuous_inputs(
        self, hidden_states: Tensor, residual: Tensor, batch_size: int, height: int, width: int, inner_dim: int
    ) -> Tensor:
        if self.use_linear_projection:
            hidden_states = self.proj_out(hidden_states)
        maps = hidden_states.reshape(batch_size, height, width, -1).permute(0, 3, 1, 2)
        return residual + (maps if self.use_linear_projection else self.proj_out(maps))


class SpatialTransformer(Checkpointed, _KeepsFormat):
    pass


class _Flat(TransformerTemporalModel):
    """Keeps the tokens of a video in the order of its frames, (B, F * h * w, C): only attention needs the frames of a place."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        timestep: Tensor | None = None,
        class_labels: Tensor | None = None,
        num_frames: int = 1,
        cross_attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Any:
        if not self.is_flat:
            forward: Any = super().forward
            given = (encoder_hidden_states, timestep, class_labels, num_frames, cross_attention_kwargs, return_dict)
            return forward(hidden_states, *given)
        places = hidden_states.shape[2:]
        video = hidden_states.contiguous(memory_format=torch.channels_last).unflatten(0, (-1, num_frames))
        tokens = self.norm(video.transpose(1, 2)).permute(0, 2, 3, 4, 1).flatten(1, 3)
        options = {
            "encoder_hidden_states": encoder_hidden_states,
            "timestep": timestep,
            "cross_attention_kwargs": {**(cross_attention_kwargs or {}), "frames": num_frames},
            "class_labels": class_labels,
        }
        maps = self.transform(tokens, options).reshape(len(hidden_states), *places, -1).permute(0, 3, 1, 2)
        output = hidden_states + maps
        return TransformerTemporalModelOutput(sample=output) if return_dict else (output,)

    @property
    def is_flat(self) -> bool:
        """Whether all attention can be computed in this order; other processors than ours need another one."""
        blocks: Any = self.transformer_blocks
        layers = [layer for block in blocks for layer in (block.attn1, block.attn2)]
        return all(isinstance(layer.processor, VideoAttnProcessor) for layer in layers)

    def transform(self, tokens: Tensor, options: dict[str, Any]) -> Tensor:
        """Everything between norm and residual: (B, F * N, C) -> (B, F * N, C). The N places do not interact.

        Args:
            options: arguments of the blocks.
        """
        tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens, **options)
        return self.proj_out(tokens)


class TemporalTransformer(Checkpointed, _Flat):
    """With checkpointing, a part of the places is computed at a time: with adapters in float32, these layers would otherwise need
    most memory by far. The tokens after the norm are then stored, too."""

    def _stored(self, *args: Any, **kwargs: Any) -> Any:
        return _Flat.forward(self, *args, **kwargs) if self.is_flat else super()._stored(*args, **kwargs)

    def transform(self, tokens: Tensor, options: dict[str, Any]) -> Tensor:
        whole = functools.partial(super().transform, options=options)
        if self.checkpointing is None or not torch.is_grad_enabled():
            return whole(tokens)
        order = (options["cross_attention_kwargs"]["frames"], -1)
        pieces = [piece.flatten(1, 2) for piece in tokens.unflatten(1, order).chunk(PIECES, dim=2)]
        made = [self.checkpointing(whole, piece).unflatten(1, order) for piece in pieces]
        return torch.cat(made, dim=2).flatten(1, 2)


LAYERS: dict[type, type] = {
    ResnetBlock2D: Resnet,
    TemporalConvLayer: TemporalConv,
    nn.Conv3d: OverFrames,
    Transformer2DModel: SpatialTransformer,
    TransformerTemporalModel: TemporalTransformer,
}
"""diffusers' classes of layers -> ours."""
