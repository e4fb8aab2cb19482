"""The decoder: Swin Transformer blocks (arXiv 2103.14030) on the maps of a patch, up to its 256 x 256 pixels.

Shapes: P patches, h x w map, C channels. Maps are (P, h, w, C) inside and (P, C, h, w) views of the same memory outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .windows import MLP, PositionBias, WindowAttention, attend_windows, stochastic_depth

Upsampling = Literal["transposed", "shuffle"]
_SIDE, _WINDOW = 8, 8


class TableBias(PositionBias):
    """A bias whose values are learned directly."""

    def __init__(self, heads: int, size: int, side: int, shift: int):
        super().__init__(size, side, shift)
        self.table = nn.Parameter(torch.empty((2 * size - 1) ** 2, heads))
        nn.init.trunc_normal_(self.table, std=0.02)

    def offsets(self) -> Tensor:
        return self.table


class DotAttention(WindowAttention):
    """Scores are products of queries and keys, divided by the square root of the head's width."""

    def __init__(self, dim: int, heads: int, size: int, side: int, shift: int):
        super().__init__(dim, heads)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.position_bias = TableBias(heads, size, side, shift)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self._heads(self.qkv(x))
        return q * q.shape[-1] ** -0.5, k, v


class DecoderBlock(nn.Module):
    """Attention and MLP, each after a norm. (P, h, w, C) -> same."""

    def __init__(self, dim: int, heads: int, side: int, *, shifted: bool, drop_path: float):
        super().__init__()
        self.size = _WINDOW
        self.shift = _WINDOW // 2 if shifted and side > _WINDOW else 0
        self.norm1 = nn.LayerNorm(dim)
        self.attention = DotAttention(dim, heads, _WINDOW, side, self.shift)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim)
        self.drop_path = stochastic_depth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(attend_windows(self.attention, self.norm1(x), self.size, self.shift))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Upsample(nn.Module):
    """Doubles the sides: a linear layer gives each position its 2 x 2 successors. (P, h, w, C) -> (P, 2h, 2w, D).

    "transposed" adds a bias, which is a transposed 2 x 2 convolution of stride 2 (the released network); "shuffle" has a
    LayerNorm instead (the network of the published weights). `weight` is (4 D, C), its rows ordered (down, right, channel).
    """

    def __init__(self, dim: int, out_dim: int, kind: Upsampling):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4 * out_dim, dim))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.bias = self.norm = None
        if kind == "shuffle":
            self.norm = nn.LayerNorm(out_dim)
        else:
            self.bias = nn.Parameter(torch.empty(out_dim).uniform_(-(dim**-0.5), dim**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        patches, height, width, _ = x.shape
        x = F.linear(x, self.weight, None if self.bias is None else self.bias.repeat(4))
        x = x.reshape(patches, height, width, 2, 2, -1).transpose(2, 3).reshape(patches, 2 * height, 2 * width, -1)
        return x if self.norm is None else self.norm(x)


class DecoderStage(nn.Module):
    """Blocks on the concatenated maps, then upsampling. (P, h, w, C) -> (P, 2h, 2w, C / 4)."""

    def __init__(self, dim: int, side: int, depth: int, heads: int, drop_path: Sequence[float], kind: Upsampling):
        super().__init__()
        self.blocks = nn.Sequential(
            *(DecoderBlock(dim, heads, side, shifted=i % 2 == 1, drop_path=drop_path[i]) for i in range(depth))
        )
        self.upsample = Upsample(dim, dim // 4, kind)

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample(self.blocks(x))


class SwinDecoder(nn.Module):
    """The bottleneck's map of each patch and the encoder's four maps -> `channels` values per pixel (P, channels, 256, 256).

    Stage 0 is the deepest. Patches do not see each other.
    """

    def __init__(
        self,
        embed_dim: int,
        depths: Sequence[int],
        heads: Sequence[int],
        upsample: Upsampling = "transposed",
        drop_path: float = 0.0,
        channels: int = 3,
    ):
        super().__init__()
        rates = [drop_path * i / max(sum(depths) - 1, 1) for i in range(sum(depths))]
        stages, stop = [], sum(depths)
        for i, depth in enumerate(depths):  # the deepest stage has the highest rates
            dim = 2 * embed_dim << (3 - i)
            stages.append(DecoderStage(dim, _SIDE << i, depth, heads[i], rates[stop - depth : stop], upsample))
            stop -= depth
        self.stages = nn.ModuleList(stages)
        width = max(embed_dim // 8, 2 * channels if channels > 3 else 3)
        self.up_x2: nn.Module = Upsample(embed_dim // 2, width, upsample)
        self.output: nn.Module = nn.Linear(width, channels, bias=False)

    def forward(self, x: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """
        Args:
            x: (P, 8C, 8, 8), the bottleneck's map of the patches.
            skips: the encoder's maps of the same patches, as it gives them.
        """
        x = x.permute(0, 2, 3, 1)
        for stage, skip in zip(self.stages, reversed(skips), strict=True):
            x = stage(torch.cat([x, skip.permute(0, 2, 3, 1)], -1))
        return self.output(self.up_x2(x)).permute(0, 3, 1, 2)
