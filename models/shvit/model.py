"""SHViT: a small image backbone with single-head attention on a part of the channels (arXiv 2401.16456).

Shapes: B images, C channels of a stage, H x W image, h x w map, N = h * w tokens, P attended ("partial") channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.attention import attention
from visionzoo.config import configure
from visionzoo.stored import remember_stored, stored_of

from .config import STRIDES, SHViTConfig, check_images, check_indices, squeezed

if TYPE_CHECKING:
    from .fused import FusedSHViT


class ConvBN(nn.Module):
    """Convolution without bias, then batch norm, whose scale starts at `scale`. Padding keeps ceil(n / stride)."""

    def __init__(self, in_dim: int, dim: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, scale: float = 1.0):
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(dim)
        nn.init.constant_(self.norm.weight, scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class FFN(nn.Module):
    """1x1 convolution to twice the channels, ReLU, 1x1 convolution back. (B, C, h, w) -> same, without the residual."""

    def __init__(self, dim: int):
        super().__init__()
        self.expand = ConvBN(dim, 2 * dim)
        self.project = ConvBN(2 * dim, dim, scale=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(F.relu(self.expand(x)))


class SingleHeadAttention(nn.Module):
    """SHSA (section 3.2): one head attends on the first P channels, the others pass through. (B, C, h, w) -> same.

    The norm's statistics run over channels and positions (one group), as the released weights need; the paper says
    LayerNorm. There is no positional encoding.
    """

    def __init__(self, dim: int, partial_dim: int, qk_dim: int):
        super().__init__()
        self.widths = (qk_dim, qk_dim, partial_dim)
        self.norm = nn.GroupNorm(1, partial_dim)
        self.qkv = ConvBN(partial_dim, 2 * qk_dim + partial_dim)
        self.proj = ConvBN(dim, dim, scale=0.0)

    def attend(self, x: Tensor) -> Tensor:
        """(B, P, h, w) -> (B, P, h, w)."""
        # split before the axes are swapped: torch's batch norm on the CPU misreads the gradient of one image (B = 1) in
        # swapped memory order, and silently gives a wrong one
        parts = self.qkv(self.norm(x)).split(self.widths, dim=1)
        q, k, v = (part.flatten(2).transpose(1, 2) for part in parts)  # (B, N, width)
        return attention(q, k, v, scale=self.widths[0] ** -0.5).transpose(1, 2).reshape(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        partial = self.widths[2]
        return self.proj(F.relu(torch.cat([self.attend(x[:, :partial]), x[:, partial:]], dim=1)))


class BasicBlock(nn.Module):
    """Depthwise 3x3 convolution, attention (if `partial_dim` is given), FFN; each with a residual. (B, C, h, w) -> same.

    Args:
        local_scale: initial scale of the depthwise convolution's norm: 0 makes a new block the identity.
    """

    def __init__(self, dim: int, partial_dim: int | None = None, qk_dim: int = 16, *, local_scale: float = 0.0):
        super().__init__()
        self.local = ConvBN(dim, dim, 3, groups=dim, scale=local_scale)
        self.attention = SingleHeadAttention(dim, partial_dim, qk_dim) if partial_dim else None
        self.ffn = FFN(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.local(x)
        if self.attention is not None:
            x = x + self.attention(x)
        return x + self.ffn(x)


class SqueezeExcite(nn.Module):
    """Channel weights in (0, 1) from the channels' means. (B, C, h, w) -> same."""

    def __init__(self, dim: int):
        super().__init__()
        self.reduce = nn.Conv2d(dim, squeezed(dim), 1)
        self.expand = nn.Conv2d(squeezed(dim), dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * weights.sigmoid()


class PatchMerging(nn.Module):
    """Halves the resolution: an inverted bottleneck of four times the channels with squeeze and excitation.

    (B, C, h, w) -> (B, D, ceil(h / 2), ceil(w / 2)).
    """

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        hidden = 4 * dim
        self.expand = ConvBN(dim, hidden)
        self.spatial = ConvBN(hidden, hidden, 3, stride=2, groups=hidden)
        self.se = SqueezeExcite(hidden)
        self.project = ConvBN(hidden, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.se(F.relu(self.spatial(F.relu(self.expand(x))))))


class Stage(nn.Module):
    """Downsampling to this resolution (none in the first stage), then the blocks."""

    def __init__(self, previous: int | None, dim: int, depth: int, partial_dim: int | None, qk_dim: int):
        super().__init__()
        self.downsample = nn.Sequential()
        if previous is not None:
            self.downsample.append(BasicBlock(previous, local_scale=1.0))
            self.downsample.append(PatchMerging(previous, dim))
            self.downsample.append(BasicBlock(dim, local_scale=1.0))
        self.blocks = nn.Sequential(*(BasicBlock(dim, partial_dim, qk_dim) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class Head(nn.Module):
    """Batch norm and linear layer on pooled vectors. (B, C) -> (B, classes)."""

    def __init__(self, dim: int, num_classes: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(dim)
        self.linear = nn.Linear(dim, num_classes)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x))


def stem(in_chans: int, dim: int) -> nn.Sequential:
    """Four 3x3 convolutions of stride 2 with ReLU between: (B, in_chans, H, W) -> (B, dim, ceil(H/16), ceil(W/16))."""
    widths = (in_chans, dim // 8, dim // 4, dim // 2, dim)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [ConvBN(before, after, 3, stride=2), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class SHViT(nn.Module):
    """Images (B, 3, H, W), RGB with the ImageNet normalisation, of any size from 1 x 1 -> logits (B, classes).

    In training mode a distilled network gives the pair (head, distillation head), in eval mode their mean. With
    `config.num_classes` 0 it gives pooled vectors (B, C), with `config.features_only` a list of maps.
    Trained at 224 x 224 (S4: 256 x 256). `fuse()` gives the fast form for inference.
    """

    def __init__(self, config: SHViTConfig):
        super().__init__()
        self.config = c = config
        self.stem = stem(c.in_chans, c.embed_dim[0])
        before = (None, *c.embed_dim[:2])
        self.stages = nn.ModuleList(
            Stage(before[i], c.embed_dim[i], c.depth[i], c.partial_dim[i] if c.types[i] == "s" else None, c.qk_dim[i])
            for i in range(3)
        )
        self.num_features, self.stride = c.embed_dim[-1], STRIDES[-1]
        self._make_heads()

    def _make_heads(self) -> None:
        count, classes = self.config.heads, self.config.num_classes
        self.head = Head(self.num_features, classes) if count else nn.Identity()
        self.distillation_head = Head(self.num_features, classes) if count == 2 else None

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels of the maps that `features` returns."""
        return tuple(self.config.embed_dim[i] for i in self.config.out_indices)

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Strides of the maps that `features` returns; a side of n pixels becomes ceil(n / stride)."""
        return tuple(STRIDES[i] for i in self.config.out_indices)

    def features(self, x: Tensor, out_indices: Sequence[int] | None = None) -> list[Tensor]:
        """Maps of the stages `out_indices` (default: the configuration's), strides 16, 32, 64. Later stages do not run."""
        indices = self.config.out_indices if out_indices is None else out_indices
        check_indices(indices)
        check_images(x, self.config.in_chans)
        x = self.stem(x)
        maps: list[Tensor] = []
        for index in range(max(indices) + 1):
            x = self.stages[index](x)
            if index in indices:
                maps.append(x)
        return maps

    def forward_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(pooled vectors (B, C), last map (B, C, ceil(H/64), ceil(W/64)))."""
        last = self.features(x, (2,))[0]
        return last.mean((2, 3)), last

    def forward_head(self, pooled: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(B, C) -> logits (B, classes); the pair of both heads' in training with distillation."""
        if self.distillation_head is None:
            return self.head(pooled)
        pair = self.head(pooled), self.distillation_head(pooled)
        return pair if self.training else (pair[0] + pair[1]) / 2

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor] | list[Tensor]:
        if self.config.features_only:
            return self.features(x)
        return self.forward_head(self.forward_features(x)[0])

    def reset_classifier(self, num_classes: int, distillation: bool | None = None) -> None:
        """New heads with random weights, for another set of classes; 0 for none.

        Args:
            distillation: whether there is a second head; None leaves it unchanged.
        """
        changes: dict[str, Any] = {"num_classes": num_classes}
        if distillation is not None:
            changes["distillation"] = distillation
        self.config = configure(self.config, changes)
        weight = next(self.parameters())
        self._make_heads()
        remember_stored(self, replace(stored_of(self), classes=None))
        self.train(self.training).to(weight.device, weight.dtype)

    def fuse(self, pad_to: int = 1) -> FusedSHViT:
        """A network for inference with the same outputs (relative error about 1e-6 in float32); this one stays unchanged.

        Batch norms, the residual around depthwise convolutions, the attention norm's affine part, the scale of the
        scores and a second head are folded into the weights; maps are channels-last.

        Args:
            pad_to: zero-pad widths to multiples of this, e.g. 8 for tensor cores. Exact, too.
        """
        from .fused import fuse

        fused = fuse(self, pad_to)
        remember_stored(fused, stored_of(self))
        return fused


VARIANTS = {
    "shvit_xs": SHViTConfig(embed_dim=(96, 176, 256), partial_dim=(24, 40, 56)),
    "shvit_s1": SHViTConfig(),
    "shvit_s2": SHViTConfig(embed_dim=(128, 308, 448), partial_dim=(32, 66, 96)),
    "shvit_s3": SHViTConfig(embed_dim=(192, 352, 448), partial_dim=(48, 75, 96), depth=(3, 5, 5)),
    "shvit_s4": SHViTConfig(embed_dim=(224, 336, 448), partial_dim=(48, 72, 96), depth=(4, 7, 6)),
}


def build(name: str, **overrides: Any) -> SHViT:
    """The registered variant `name`, with random weights."""
    return SHViT(configure(VARIANTS[name], overrides))
