"""The encoder: Swin Transformer V2 (arXiv 2111.09883) on patches of 256 x 256 pixels, with maps of four stages.

Shapes: P patches, h x w map, C channels, s window side, L = s * s positions of a window, n windows of a map. Maps are
(P, h, w, C) inside and (P, C, h, w) views of the same memory outside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .windows import MLP, PositionBias, WindowAttention, attend_windows, stochastic_depth

PATCH = 256
"""Side of a patch in pixels."""
_STEM, _WINDOW = 4, 16


class ContinuousBias(PositionBias):
    """A bias from a small network on offsets in log scale (section 3.3 of the Swin V2 paper)."""

    coordinates: Tensor

    def __init__(self, heads: int, size: int, side: int, shift: int):
        super().__init__(size, side, shift)
        self.hidden = nn.Linear(2, 512)
        self.output = nn.Linear(512, heads, bias=False)
        offset = torch.arange(1 - size, size, dtype=torch.float32) * 8 / max(size - 1, 1)
        offset = offset.sign() * torch.log2(1 + offset.abs()) / math.log2(8)
        y, x = torch.meshgrid(offset, offset, indexing="ij")
        self.register_buffer("coordinates", torch.stack([y.flatten(), x.flatten()], 1), persistent=False)

    def offsets(self) -> Tensor:
        table = self.output(F.relu(self.hidden(self.coordinates.to(self.hidden.weight.dtype))))
        return 16 * table.sigmoid()


class CosineAttention(WindowAttention):
    """Scores are cosines between queries and keys, multiplied by a learned factor per head of at most 100."""

    def __init__(self, dim: int, heads: int, size: int, side: int, shift: int):
        super().__init__(dim, heads)
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))  # keys have no bias
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.position_bias = ContinuousBias(heads, size, side, shift)

    def biases(self) -> Tensor:
        """Bias of queries, keys and values, (3 C,)."""
        return torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])

    def scale(self) -> Tensor:
        """Factor of the cosines, (heads, 1, 1)."""
        return self.logit_scale.clamp(max=math.log(100.0)).exp()

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self._heads(F.linear(x, self.qkv.weight, self.biases()))
        return (F.normalize(q, dim=-1) * self.scale()).to(v.dtype), F.normalize(k, dim=-1).to(v.dtype), v


class EncoderBlock(nn.Module):
    """Attention and MLP, each followed by a norm before the residual. (P, h, w, C) -> same."""

    def __init__(self, dim: int, heads: int, side: int, *, shifted: bool, drop_path: float):
        super().__init__()
        self.size = min(_WINDOW, side)
        self.shift = self.size // 2 if shifted and side > self.size else 0
        self.attention = CosineAttention(dim, heads, self.size, side, self.shift)
        self.norm1 = nn.LayerNorm(dim)
        self.mlp = MLP(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.drop_path = stochastic_depth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.norm1(attend_windows(self.attention, x, self.size, self.shift)))
        return x + self.drop_path(self.norm2(self.mlp(x)))


class PatchMerging(nn.Module):
    """Joins 2 x 2 neighbours: (P, h, w, C) -> (P, h / 2, w / 2, 2 C)."""

    def __init__(self, dim: int):
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        patches, height, width, channels = x.shape
        x = x.reshape(patches, height // 2, 2, width // 2, 2, channels)
        # the published order: down a column first, then the next column
        return self.norm(self.reduction(x.permute(0, 1, 3, 4, 2, 5).flatten(3)))


class EncoderStage(nn.Module):
    """Patch merging (none in the first stage), then the blocks. (P, h, w, C) -> (P, h', w', C')."""

    def __init__(self, index: int, embed_dim: int, depth: int, heads: int, drop_path: Sequence[float]):
        super().__init__()
        dim, side = embed_dim << index, PATCH // _STEM >> index
        self.merge = PatchMerging(dim // 2) if index else nn.Identity()
        self.blocks = nn.Sequential(
            *(EncoderBlock(dim, heads, side, shifted=i % 2 == 1, drop_path=drop_path[i]) for i in range(depth))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.merge(x))


class PatchEmbed(nn.Module):
    """A 4 x 4 convolution with stride 4 and a norm. (P, 3, h, w) -> (P, h / 4, w / 4, C)."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, _STEM, _STEM)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class SwinV2Encoder(nn.Module):
    """Patches (P, 3, 256, 256) -> maps [(P, C, 64, 64), (P, 2C, 32, 32), (P, 4C, 16, 16), (P, 8C, 8, 8)].

    Patches do not see each other. The maps are channels-last in memory.
    """

    def __init__(self, embed_dim: int, depths: Sequence[int], heads: Sequence[int], drop_path: float = 0.0):
        super().__init__()
        self.patch_embed: nn.Module = PatchEmbed(embed_dim)
        rates = [drop_path * i / max(sum(depths) - 1, 1) for i in range(sum(depths))]
        starts = [sum(depths[:i]) for i in range(len(depths))]
        self.stages = nn.ModuleList(
            EncoderStage(i, embed_dim, depth, heads[i], rates[starts[i] :]) for i, depth in enumerate(depths)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, EncoderBlock):  # a new block is the identity
                nn.init.zeros_(module.norm1.weight)
                nn.init.zeros_(module.norm2.weight)

    def forward(self, patches: Tensor) -> list[Tensor]:
        x = self.patch_embed(patches)
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x.permute(0, 3, 1, 2))
        return maps
