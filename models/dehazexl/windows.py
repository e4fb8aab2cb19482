"""Attention inside square windows of a map, as both Swin transformers of DehazeXL need it.

Shapes: P patches, h x w map, C channels, s window side, L = s * s positions of a window, n windows of a map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.attention.functional import attention

_HIDDEN = -100.0  # added to scores between parts of a shifted window that are not neighbours; the published value


def split_windows(x: Tensor, size: int) -> Tensor:
    """(P, h, w, C) -> (P, n, L, C), windows and their positions row by row. h and w are multiples of `size`."""
    patches, height, width, channels = x.shape
    x = x.reshape(patches, height // size, size, width // size, size, channels)
    return x.transpose(2, 3).reshape(patches, -1, size * size, channels)


def join_windows(x: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `split_windows`: (P, n, L, C) -> (P, h, w, C)."""
    patches, _, positions, channels = x.shape
    size = round(positions**0.5)
    x = x.reshape(patches, height // size, width // size, size, size, channels)
    return x.transpose(2, 3).reshape(patches, height, width, channels)


def shift_mask(side: int, size: int, shift: int) -> Tensor:
    """Mask (n, L, L): -100 between positions that only rolling a map of `side` by `shift` brings together, else 0."""
    place = torch.arange(side)
    region = (place >= side - size).int() + (place >= side - shift).int()
    regions = (3 * region[:, None] + region).reshape(1, side, side, 1)
    labels = split_windows(regions, size).squeeze(0).squeeze(-1)  # (n, L)
    return _HIDDEN * (labels[:, :, None] != labels[:, None, :]).float()


def relative_position_index(size: int) -> Tensor:
    """Index of the offset from a key to a query among the (2s - 1)^2 offsets, row by row: (L, L) int64."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    y, x = y.flatten(), x.flatten()
    rows = y[:, None] - y + size - 1
    return rows * (2 * size - 1) + x[:, None] - x + size - 1


class PositionBias(nn.Module):
    """The bias for the scores of a window: a learned value per head and offset, plus the mask of shifted windows.

    `forward()` -> (heads, L, L) if all windows have the same bias, (n * heads, L, L) on shifted maps. A subclass computes
    the values per offset; they never depend on the image, so fused blocks compute them once.
    """

    index: Tensor
    mask: Tensor | None

    def __init__(self, size: int, side: int, shift: int):
        super().__init__()
        self.register_buffer("index", relative_position_index(size), persistent=False)
        self.register_buffer("mask", shift_mask(side, size, shift) if shift else None, persistent=False)

    def offsets(self) -> Tensor:
        """((2s - 1)^2, heads)."""
        raise NotImplementedError

    def forward(self) -> Tensor:
        bias = self.offsets()[self.index].permute(2, 0, 1)
        if self.mask is None:
            return bias
        return (self.mask[:, None].to(bias.dtype) + bias).flatten(0, 1)


class WindowAttention(nn.Module):
    """Attention in windows, with its projections. A subclass provides `qkv`, `position_bias` and the scaling of scores."""

    position_bias: nn.Module

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.proj = nn.Linear(dim, dim)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(P, n, L, C) -> q, k, v, each (P, n, heads, L, C / heads), ready for scores that are only q k^T + bias."""
        raise NotImplementedError

    def _heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        patches, windows, positions, _ = qkv.shape
        parts = qkv.reshape(patches, windows, positions, 3, self.heads, -1).permute(3, 0, 1, 4, 2, 5)
        return parts[0], parts[1], parts[2]

    def forward(self, x: Tensor) -> Tensor:
        """(P, n, L, C) -> same."""
        q, k, v = self.project(x)
        bias = self.position_bias()
        # the bias is never copied for each patch: windows join the batch, or the heads if each window has its own mask
        first = 0 if len(bias) == self.heads else 1
        q, k, v = (part.flatten(first, first + 1) for part in (q, k, v))
        out = attention(q, k, v, mask=bias[None].to(q.dtype), scale=1.0)
        out = out.reshape(*x.shape[:2], self.heads, x.shape[2], -1).transpose(2, 3)
        return self.proj(out.flatten(3))


def stochastic_depth(rate: float) -> nn.Module:
    """Skips a block for some items in training. torchvision, which is slow to import, is only imported for a rate above 0."""
    if not rate:
        return nn.Identity()
    from torchvision.ops import StochasticDepth

    return StochasticDepth(rate, "row")


class MLP(nn.Module):
    """Two linear layers with an exact GELU in between."""

    def __init__(self, dim: int, ratio: int = 4):
        super().__init__()
        self.fc1 = nn.Linear(dim, ratio * dim)
        self.fc2 = nn.Linear(ratio * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


def attend_windows(attend: WindowAttention, x: Tensor, size: int, shift: int) -> Tensor:
    """`attend` on the windows of a map (P, h, w, C), shifted down and right by `shift` -> (P, h, w, C)."""
    if shift:
        x = x.roll((-shift, -shift), (1, 2))
    x = join_windows(attend(split_windows(x, size)), x.shape[1], x.shape[2])
    return x.roll((shift, shift), (1, 2)) if shift else x
