"""The bottleneck: the one part where patches of an image see each other, attention over its tokens (one per 32 x 32 pixels).

Exact attention is the default. The published code switches to HyperAttention (arXiv 2310.05869) at 4096 tokens, with new random
projections in every process and new samples in every call; `hyper_attention` computes that from an explicit draw.

Shapes: B images, h x w map of an image, N = h * w tokens, C channels, H heads, D width of a head, R projections, S samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.attention.functional import attention, attention_with_lse, merge_attention
from visionzoo.errors import InputError

_TOKENS = 8192  # tokens per slice through an MLP when no gradients are needed


def position_embedding(
    height: int, width: int, dim: int, *, device: torch.device | None = None, first_row: int = 0
) -> Tensor:
    """Sines and cosines of the column, then of the row, row by row: (height * width, dim) float32.

    Args:
        first_row: the row of the whole map at which this piece begins.
    """
    frequencies = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64, device=device) / (dim // 4))
    x = torch.outer(torch.arange(width, dtype=torch.float64, device=device), frequencies)
    y = torch.outer(torch.arange(first_row, first_row + height, dtype=torch.float64, device=device), frequencies)
    columns = torch.cat([x.sin(), x.cos()], 1).float().expand(height, -1, -1)
    rows = torch.cat([y.sin(), y.cos()], 1).float()[:, None].expand(-1, width, -1)
    return torch.cat([columns, rows], -1).flatten(0, 1)


@dataclass(frozen=True)
class HyperDraw:
    """The random part of one HyperAttention.

    Attributes:
        projections: (D, R) normally distributed; the signs of a token's products with them are its hash.
        samples: (B, H, S) integers below N: the keys, in the order of their hashes, to which all queries attend.
    """

    projections: Tensor
    samples: Tensor


def hash_codes(x: Tensor, projections: Tensor) -> Tensor:
    """(B, H, N, D) -> (B, H, N) Gray codes of the signs of the projections (D, R), in 0 .. 2^R - 1."""
    bits = (x @ projections.to(x.dtype)) > 0
    weights = 2 ** torch.arange(bits.shape[-1], device=x.device)
    code = (bits * weights).sum(-1)
    return code ^ (code >> 1)


def hyper_attention(q: Tensor, k: Tensor, v: Tensor, draw: HyperDraw, block: int) -> tuple[Tensor, Tensor]:
    """Approximate attention in linear time: blocks of tokens with similar hashes, and a sample of all keys.

    Like the published code: zeros that fill the last block take part as keys, and a sampled key inside the query's own block
    counts twice.

    Args:
        q, k, v: (B, H, N, D).
        block: tokens of a block.

    Returns:
        out (B, H, N, D) and lse (B, H, N).
    """
    batch, heads, tokens, width = q.shape
    q_order = hash_codes(q, draw.projections).argsort(dim=-1, stable=True)
    k_order = hash_codes(k, draw.projections).argsort(dim=-1, stable=True)
    q, k, v = _gather(q, q_order), _gather(k, k_order), _gather(v, k_order)

    filled = -tokens % block
    blocks = (F.pad(x, (0, 0, 0, filled)).reshape(batch, -1, block, width) for x in (q, k, v))
    out, lse = attention_with_lse(*blocks)
    near = (out.reshape(batch, heads, -1, width)[:, :, :tokens], lse.reshape(batch, heads, -1)[:, :, :tokens])

    samples = draw.samples.to(q.device)
    out, lse = attention_with_lse(q, _gather(k, samples), _gather(v, samples))
    out, lse = merge_attention([near, (out, lse + math.log(tokens / samples.shape[-1]))])
    back = q_order.argsort(dim=-1)
    return _gather(out, back), lse.gather(2, back)


def _gather(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(2, index[..., None].expand(-1, -1, -1, x.shape[-1]))


class RMSNorm(nn.Module):
    """Computes statistics in float32 for any input, and casts back before multiplying by the weight."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(x.dtype)


class GatedMLP(nn.Module):
    """W_down(GELU(W_gate x) * (W_up x))."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.gate(x)) * self.up(x))


class GlobalAttention(nn.Module):
    """All tokens attend to all. (B, N, C) -> same."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def project(self, x: Tensor, heads: slice = slice(None)) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, C) -> q, k, v, each (B, `heads`, N, C / H); works on a part of the heads or of the tokens, too."""
        weight = self.qkv.weight.unflatten(0, (3, self.heads, -1))[:, heads].flatten(0, 2)
        bias = self.qkv.bias.unflatten(0, (3, self.heads, -1))[:, heads].flatten()
        parts = F.linear(x, weight, bias).unflatten(-1, (3, -1, self.qkv.in_features // self.heads))
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        return q, k, v

    def forward(
        self,
        x: Tensor,
        draw: HyperDraw | None = None,
        block: int = 256,
        *,
        valid: Tensor | None = None,
        heads_at_once: int | None = None,
    ) -> Tensor:
        step = heads_at_once or self.heads
        outs: list[Tensor] = []
        for start in range(0, self.heads, step):
            group = slice(start, start + step)
            q, k, v = self.project(x, group)
            if draw is None:
                out = attention(q, k, v, mask=None if valid is None else valid[:, None, None])
            else:
                out = hyper_attention(q, k, v, HyperDraw(draw.projections, draw.samples[:, group]), block)[0]
            outs.append(out.transpose(1, 2).flatten(2))
        return self.proj(outs[0] if len(outs) == 1 else torch.cat(outs, -1))


class BottleneckLayer(nn.Module):
    """Attention and gated MLP, each after a norm. (B, N, C) -> same."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int):
        super().__init__()
        self.norm1 = RMSNorm(dim)
        self.attention = GlobalAttention(dim, heads)
        self.norm2 = RMSNorm(dim)
        self.mlp = GatedMLP(dim, mlp_ratio * dim)

    def forward(
        self,
        x: Tensor,
        draw: HyperDraw | None = None,
        block: int = 256,
        *,
        valid: Tensor | None = None,
        heads_at_once: int | None = None,
    ) -> Tensor:
        x = x + self.attention(self.norm1(x), draw, block, valid=valid, heads_at_once=heads_at_once)
        return self.feed_forward(x)

    def feed_forward(self, x: Tensor) -> Tensor:
        """The second half, which sees one token at a time; without gradients it works in slices, as its hidden layer is wide."""
        if torch.is_grad_enabled() or x.shape[1] <= _TOKENS:
            return x + self.mlp(self.norm2(x))
        return torch.cat([part + self.mlp(self.norm2(part)) for part in x.split(_TOKENS, 1)], 1)


@dataclass(frozen=True)
class HyperAttentionConfig:
    """When and how the bottleneck approximates its attention; the published settings.

    Attributes:
        projections: number of signs that hash a token.
        block: tokens of a block.
        samples: keys that every query sees.
        min_tokens: with fewer tokens, the attention is exact.
    """

    projections: int = 7
    block: int = 256
    samples: int = 256
    min_tokens: int = 4096


class Bottleneck(nn.Module):
    """The encoder's last map of a whole image (B, C, h, w) -> the map that the decoder reads, of the same shape."""

    def __init__(self, dim: int, depth: int, heads: int, mlp_ratio: int = 4, hyper: HyperAttentionConfig | None = None):
        super().__init__()
        self.heads, self.hyper = heads, hyper
        self.input_proj = nn.Linear(dim, dim)
        self.layers = nn.ModuleList(BottleneckLayer(dim, heads, mlp_ratio) for _ in range(depth))

    def embed(self, x: Tensor, first_row: int = 0) -> Tensor:
        """A map, or rows of it from `first_row` on, (B, C, h, w) -> tokens (B, h * w, C) with their positions."""
        tokens = self.input_proj(x.flatten(2).transpose(1, 2))
        position = position_embedding(x.shape[2], x.shape[3], x.shape[1], device=x.device, first_row=first_row)
        return tokens + position.to(tokens.dtype)

    def draw(self, batch: int, tokens: int, generator: torch.Generator | None = None) -> list[HyperDraw | None]:
        """The random part of each layer's HyperAttention; None where attention is exact.

        Args:
            generator: a generator on the CPU; without one, every call returns the same.
        """
        if self.hyper is None or tokens < self.hyper.min_tokens:
            return [None] * len(self.layers)
        generator = generator or torch.Generator().manual_seed(0)
        width = self.input_proj.in_features // self.heads
        return [
            HyperDraw(
                torch.randn(width, self.hyper.projections, generator=generator),
                torch.randint(tokens, (batch, self.heads, self.hyper.samples), generator=generator),
            )
            for _ in self.layers
        ]

    def forward(
        self,
        x: Tensor,
        draws: Sequence[HyperDraw | None] | None = None,
        *,
        valid: Tensor | None = None,
        heads_at_once: int | None = None,
    ) -> Tensor:
        """
        Args:
            x: (B, C, h, w).
            draws: the random part of each layer's HyperAttention; default `self.draw(B, N)`.
            valid: (B, h, w) boolean; no token attends to those that are False (no image there). Exact attention only.
            heads_at_once: compute this many heads at a time, which takes less memory.
        """
        tokens = self.embed(x)
        draws = self.draw(len(x), tokens.shape[1]) if draws is None else draws
        if valid is not None and any(draw is not None for draw in draws):
            raise InputError("HyperAttention takes no mask; use attention='exact' for images with missing parts")
        keys = None if valid is None else valid.flatten(1)
        block = self.hyper.block if self.hyper else 0
        for layer, draw in zip(self.layers, draws, strict=True):
            if draw is not None:
                draw = HyperDraw(draw.projections.to(x.device), draw.samples.to(x.device))
            tokens = layer(tokens, draw, block, valid=keys, heads_at_once=heads_at_once)
        return tokens.transpose(1, 2).reshape(x.shape)
