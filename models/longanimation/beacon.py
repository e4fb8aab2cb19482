"""The language model of Video-XL (arXiv 2409.14485): a Qwen2 decoder whose beacon tokens compress windows of visual tokens.

After every `ratio` visual tokens follows one beacon token, with projections of its own. Within a window, attention is causal
over the memory and the window. Only the beacons' keys and values stay in the memory when the window closes. Keys are kept
before the rotary embedding, so that a token's position is its place among what is remembered, not in the video.

Shapes: B = 1 sequence, N tokens, Hk heads of keys, D their width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP, Qwen2RMSNorm

from visionzoo.attention import attention, attention_with_lse, merge_attention, segment_attention
from visionzoo.errors import InputError

__all__ = ["BeaconAttention", "BeaconConfig", "BeaconDecoder", "BeaconLayer", "KeysValues"]

KeysValues = tuple[Tensor, Tensor]
"""Keys before the rotary embedding, and values, (1, Hk, N, D) each."""


@dataclass(frozen=True)
class BeaconConfig:
    """Sizes of the decoder; the defaults are those of Video-XL 7B.

    Attributes:
        vocab_size: rows of the embedding table.
        hidden_size, intermediate_size: widths of the residual stream and inside the MLPs.
        num_hidden_layers: of the published network. Layers after the last of `levels` are not built.
        num_attention_heads, num_key_value_heads: the first is a multiple of the second, and divides `hidden_size`.
        rope_theta, rms_norm_eps: of the rotary embedding and of the norms.
        window: number of visual tokens in a window, a multiple of `ratio`.
        ratio: number of visual tokens that one beacon compresses.
        levels: layers whose keys and values are read out; negative ones count from the end, -1 is the last.
    """

    vocab_size: int = 152_064
    hidden_size: int = 3584
    intermediate_size: int = 18_944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    window: int = 1440
    ratio: int = 8
    levels: tuple[int, ...] = (-9, -5, -1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if self.hidden_size % heads or heads % groups or self.hidden_size // heads % 2:
            raise InputError(
                f"hidden_size {self.hidden_size}, {heads} heads, {groups} heads of keys: expected a multiple of the heads, "
                "which are a multiple of those of the keys, and heads of even width"
            )
        if self.ratio < 1 or self.window < self.ratio or self.window % self.ratio:
            raise InputError(f"window is {self.window}; expected a multiple of ratio, {self.ratio}")
        if not self.levels or not all(
            -self.num_hidden_layers <= level < self.num_hidden_layers for level in self.levels
        ):
            raise InputError(f"levels are {self.levels}; expected layers of {self.num_hidden_layers}")

    @property
    def head_dim(self) -> int:
        """D, the width of a head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def read_layers(self) -> tuple[int, ...]:
        """The levels, counted from 0."""
        return tuple(level % self.num_hidden_layers for level in self.levels)

    @property
    def depth(self) -> int:
        """Number of layers that are built: those up to the last level."""
        return max(self.read_layers) + 1

    @property
    def heads_kept(self) -> int:
        """Heads of keys of all built layers together, which a memory keeps for every token."""
        return self.depth * self.num_key_value_heads

    @property
    def memory_width(self) -> int:
        """Width of a token of the read-out: Hk * D."""
        return self.num_key_value_heads * self.head_dim


class BeaconAttention(nn.Module):
    """Causal attention with grouped queries; beacons have projections of their own, except that of the output.

    Args:
        keys_only: build only what computes keys and values, as nothing uses the output of the last layer.
    """

    def __init__(self, config: BeaconConfig, keys_only: bool = False):
        super().__init__()
        self.head_dim = config.head_dim
        width, narrow = config.hidden_size, config.memory_width
        for prefix in ("", "beacon_"):
            if not keys_only:
                self.add_module(f"{prefix}q_proj", nn.Linear(width, width))
            self.add_module(f"{prefix}k_proj", nn.Linear(width, narrow))
            self.add_module(f"{prefix}v_proj", nn.Linear(width, narrow))
        if not keys_only:
            self.o_proj = nn.Linear(width, width, bias=False)

    def project(self, name: str, x: Tensor, ratio: int) -> Tensor:
        """Project tokens (1, N, C) to (1, heads, N, D); if `ratio` is not 0, every (ratio + 1)-th token is a beacon."""
        plain, beacon = self.get_submodule(f"{name}_proj"), self.get_submodule(f"beacon_{name}_proj")
        if ratio:
            x = x.unflatten(1, (-1, ratio + 1))
            out = torch.cat([plain(x[:, :, :-1]), beacon(x[:, :, -1:])], 2).flatten(1, 2)
        else:
            out = plain(x)
        return out.unflatten(2, (-1, self.head_dim)).transpose(1, 2)

    def forward(self, x: Tensor, new: KeysValues, past: Sequence[KeysValues], turn: Rotation, ratio: int) -> Tensor:
        """Attend from tokens to what is remembered and, causally, to each other.

        Args:
            x: (1, N, C).
            new: keys and values of the same tokens.
            past: pieces of the memory, in the order of their positions.
            turn: rotary embedding from position 0 on.
            ratio: as for `project`.
        """
        start, count = sum(keys.shape[2] for keys, _ in past), x.shape[1]
        q = turn(self.project("q", x, ratio), start)
        k, v = turn(new[0], start), new[1]
        causal = torch.ones(count, count, dtype=torch.bool, device=x.device).tril() if count > 1 else None
        if start:
            pieces, place = [], 0
            for keys, values in past:
                pieces.append((turn(keys, place), values))
                place += keys.shape[2]
            # nothing of the memory is masked, so its part needs no mask that would grow with it
            out = merge_attention(
                [attention_with_lse(q, k, v, mask=causal), segment_attention(q, pieces, return_lse=True)]
            )[0]
        else:
            out = attention(q, k, v, mask=causal)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class Rotation:
    """Rotary embedding (arXiv 2104.09864) of heads in two halves, for positions 0 to `count` - 1."""

    def __init__(self, width: int, theta: float, count: int, like: Tensor):
        exponents = torch.arange(0, width, 2, device=like.device, dtype=torch.float32) / width
        angles = torch.outer(torch.arange(count, device=like.device, dtype=torch.float32), theta**-exponents)
        angles = torch.cat([angles, angles], 1)
        self.cos, self.sin = angles.cos().to(like.dtype), angles.sin().to(like.dtype)

    def __call__(self, x: Tensor, start: int) -> Tensor:
        """Rotate (1, heads, N, D), whose first token is at position `start`."""
        part = slice(start, start + x.shape[2])
        first, second = x.chunk(2, -1)
        return x * self.cos[part] + torch.cat([-second, first], -1) * self.sin[part]


class BeaconLayer(nn.Module):
    """A decoder layer; with `keys_only`, only its first norm and the projections of keys and values."""

    def __init__(self, config: BeaconConfig, keys_only: bool = False):
        super().__init__()
        self.self_attn = BeaconAttention(config, keys_only)
        self.input_layernorm = Qwen2RMSNorm(config.hidden_size, config.rms_norm_eps)
        if not keys_only:
            sizes = Qwen2Config(hidden_size=config.hidden_size, intermediate_size=config.intermediate_size)
            self.mlp = Qwen2MLP(sizes)
            self.post_attention_layernorm = Qwen2RMSNorm(config.hidden_size, config.rms_norm_eps)

    def keys_values(self, normed: Tensor, ratio: int) -> KeysValues:
        return self.self_attn.project("k", normed, ratio), self.self_attn.project("v", normed, ratio)

    def forward(
        self, x: Tensor, normed: Tensor, new: KeysValues, past: Sequence[KeysValues], turn: Rotation, ratio: int
    ) -> Tensor:
        x = x + self.self_attn(normed, new, past, turn, ratio)
        return x + self.mlp(self.post_attention_layernorm(x))


class BeaconDecoder(nn.Module):
    """The embeddings and layers, up to the last level. There is no final norm and no head, as only keys and values are read.

    Attributes:
        config: its sizes.
    """

    def __init__(self, config: BeaconConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.beacon_embed_tokens = nn.Embedding(1, config.hidden_size)
        last = config.depth - 1
        self.layers = nn.ModuleList(BeaconLayer(config, keys_only=index == last) for index in range(config.depth))

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Token ids to (1, N, C)."""
        table = self.embed_tokens.weight
        if wrong := [index for index in ids if not 0 <= index < len(table)]:
            raise InputError(
                f"token {wrong[0]} is not in the vocabulary of {len(table)}; use the model's own tokenizer"
            )
        return self.embed_tokens(torch.tensor([*ids], dtype=torch.int64, device=table.device))[None]

    def with_beacons(self, visual: Tensor) -> Tensor:
        """Insert a beacon after every `ratio` of the visual tokens: (N, C) -> (1, N + N / ratio, C)."""
        groups = visual.unflatten(0, (-1, self.config.ratio))
        beacon = self.beacon_embed_tokens.weight.expand(len(groups), 1, -1).to(visual)
        return torch.cat([groups, beacon], 1).flatten(0, 1)[None]

    def forward(
        self,
        x: Tensor,
        past: Callable[[int], Sequence[KeysValues]],
        *,
        ratio: int = 0,
        keep: slice = slice(None),
    ) -> KeysValues:
        """Process new tokens after those that are remembered.

        Args:
            x: (1, N, C) of `embed` or `with_beacons`.
            past: layer -> its remembered keys and values, in the order of their positions.
            ratio: 0 for text, the configuration's for visual tokens with beacons.
            keep: which of the new tokens to return.

        Returns:
            Keys (before the rotary embedding) and values of all layers, (1, depth * Hk, kept, D) each, layer by layer.
        """
        turn, kept, layers = None, [], cast("list[BeaconLayer]", [*self.layers])
        for index, layer in enumerate(layers):
            pieces = past(index)
            if turn is None:
                count = sum(keys.shape[2] for keys, _ in pieces) + x.shape[1]
                turn = Rotation(self.config.head_dim, self.config.rope_theta, count, x)
            normed = layer.input_layernorm(x)
            new = layer.keys_values(normed, ratio)
            kept.append(tuple(_copied(tensor[:, :, keep]) for tensor in new))
            if index < len(layers) - 1:
                x = layer(x, normed, new, pieces, turn, ratio)
        keys, values = zip(*kept, strict=True)
        return torch.cat(keys, 1), torch.cat(values, 1)

    def read_out(self, keys: Tensor, values: Tensor) -> Iterator[KeysValues]:
        """The levels' parts of what `forward` returns, in the order of `config.levels`."""
        heads = self.config.num_key_value_heads
        for layer in self.config.read_layers:
            part = slice(layer * heads, (layer + 1) * heads)
            yield keys[:, part], values[:, part]


def _copied(part: Tensor) -> Tensor:
    """A copy, unless autograd needs the original anyway, so that the tokens that are not kept can be freed."""
    return part if part.requires_grad else part.clone()
