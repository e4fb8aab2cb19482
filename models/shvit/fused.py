"""SHViT for inference: as much as possible is folded into weights, and maps are channels-last.

Shapes: B images, h x w map, C channels of a stage, P attended channels. Maps inside are (B, h, w, C), so that 1x1
convolutions are matrix products with the weights unchanged, and queries, keys and values are rows already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.attention import attention
from visionzoo.errors import InputError

from .config import STRIDES, SHViTConfig, check_images, check_indices, squeezed

if TYPE_CHECKING:
    from .model import SHViT

EPS = 1e-5
"""Epsilon of every norm."""


class Conv(nn.Conv2d):
    """A 3x3 convolution with bias on (B, h, w, C) maps; depthwise ones have `groups` = channels."""

    def __init__(self, in_dim: int, dim: int, *, stride: int = 1, groups: int = 1):
        super().__init__(in_dim, dim, 3, stride, 1, groups=groups)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Pointwise(nn.Linear):
    """A 1x1 convolution on (..., h, w, C) maps.

    Which kernel is faster was measured (benchmarks/shvit.py, AMD EPYC): in float32 on the CPU the convolution's, by a third
    at batch 16 and not at all at batch 1; in bfloat16 the matrix product's, by a quarter at batch 1 and not at all at batch 16.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim != 4 or input.dtype != torch.float32 or input.is_cuda:
            return super().forward(input)
        kernel = self.weight[:, :, None, None]
        return F.conv2d(input.permute(0, 3, 1, 2), kernel, self.bias).permute(0, 2, 3, 1)


class FusedFFN(nn.Module):
    """x + FFN(x) on (B, h, w, C)."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.expand = Pointwise(dim, hidden)
        self.project = Pointwise(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.expand(x).relu_())


SMALL = 256
"""Up to this many tokens, two plain products on a CPU are faster (by 0.1 ms per call) than a backend that never holds all scores."""


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T) v for (B, N, D) rows, as (B, N, P)."""
    # torch.export records one path for all sizes, so the number of tokens must not be read
    exporting = torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
    if exporting or (q.device.type == "cpu" and q.shape[1] <= SMALL):
        return torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)), dim=-1), v)
    return attention(q, k, v, scale=1.0)


class FusedAttention(nn.Module):
    """x + SHSA(x) on (B, h, w, C); the norm's affine part and the scale of the scores are in `qkv`.

    Args:
        padded: P rounded up. The norm's statistics are those of P channels; the columns and rows beyond are zero.
    """

    def __init__(self, dim: int, partial_dim: int, padded: int, qk_dim: int):
        super().__init__()
        self.partial_dim, self.padded = partial_dim, padded
        self.widths = (qk_dim, qk_dim, padded)
        self.qkv = Pointwise(padded, 2 * qk_dim + padded)
        self.proj = Pointwise(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        partial = x[..., : self.partial_dim]
        # statistics in float32, as in group_norm: in half precision, the mean alone would lose too many digits
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        var, mean = torch.var_mean(partial.to(wide), dim=(1, 2, 3), correction=0, keepdim=True)
        scale = torch.rsqrt(var + EPS)
        normed = ((x[..., : self.padded].to(wide) - mean) * scale).to(x.dtype)
        q, k, v = self.qkv(normed).flatten(1, 2).split(self.widths, dim=-1)
        attended = _attend(q, k, v).unflatten(1, x.shape[1:3])
        mixed = torch.cat([attended[..., : self.partial_dim], x[..., self.partial_dim :]], dim=-1)
        return x + self.proj(mixed.relu_())


class FusedBlock(nn.Module):
    """Depthwise convolution (its residual is in the centre tap), attention, FFN on (B, h, w, C)."""

    def __init__(self, dim: int, hidden: int, attention: FusedAttention | None = None):
        super().__init__()
        self.local = Conv(dim, dim, groups=dim)
        self.attention = attention
        self.ffn = FusedFFN(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = self.local(x)
        if self.attention is not None:
            x = self.attention(x)
        return self.ffn(x)


class FusedSqueezeExcite(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.reduce = nn.Linear(dim, hidden)
        self.expand = Pointwise(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.expand(self.reduce(x.mean((1, 2))).relu_()).sigmoid_()
        return x * weights[:, None, None]


class FusedPatchMerging(nn.Module):
    """(B, h, w, C) -> (B, ceil(h / 2), ceil(w / 2), D)."""

    def __init__(self, dim: int, out_dim: int, hidden: int, squeezed: int):
        super().__init__()
        self.expand = Pointwise(dim, hidden)
        self.spatial = Conv(hidden, hidden, stride=2, groups=hidden)
        self.se = FusedSqueezeExcite(hidden, squeezed)
        self.project = Pointwise(hidden, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.se(self.spatial(self.expand(x).relu_()).relu_()))


class FusedStage(nn.Module):
    def __init__(self, downsample: nn.Sequential, blocks: nn.Sequential):
        super().__init__()
        self.downsample, self.blocks = downsample, blocks

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class FusedSHViT(nn.Module):
    """The inference form of `SHViT`: the same inputs and, up to rounding, the same outputs as its eval mode.

    Images are taken in any floating dtype and computed in the weights' (`model.fuse().to(torch.bfloat16)`). Made by
    `SHViT.fuse()`, with weights that require no gradient; train the `SHViT` instead. Training mode changes nothing here.
    """

    def __init__(self, config: SHViTConfig, pad_to: int = 1):
        super().__init__()
        if pad_to < 1:
            raise InputError(f"pad_to must be at least 1, got {pad_to}")
        self.config, self.pad_to = config, pad_to
        c = config
        dims = [self._padded(dim) for dim in c.embed_dim]
        self.num_features = c.embed_dim[-1]
        widths = (c.in_chans, *(self._padded(c.embed_dim[0] // part) for part in (8, 4, 2)), dims[0])
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [Conv(before, after, stride=2), nn.ReLU(inplace=True)]
        self.stem = nn.Sequential(*layers[:-1])
        stages = []
        for i, dim in enumerate(dims):
            hidden = self._padded(2 * c.embed_dim[i])
            blocks = nn.Sequential(*(FusedBlock(dim, hidden, self._attention(i)) for _ in range(c.depth[i])))
            down = nn.Sequential()
            if i:
                before, wide = c.embed_dim[i - 1], 4 * c.embed_dim[i - 1]
                down.append(FusedBlock(dims[i - 1], self._padded(2 * before)))
                down.append(FusedPatchMerging(dims[i - 1], dim, self._padded(wide), squeezed(wide)))
                down.append(FusedBlock(dim, hidden))
            stages.append(FusedStage(down, blocks))
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(self.num_features, c.num_classes) if c.heads else nn.Identity()
        self.eval().requires_grad_(False)

    def _padded(self, width: int) -> int:
        return -(-width // self.pad_to) * self.pad_to

    def _attention(self, stage: int) -> FusedAttention | None:
        c = self.config
        if c.types[stage] == "i":
            return None
        padded = min(self._padded(c.partial_dim[stage]), self._padded(c.embed_dim[stage]))
        return FusedAttention(self._padded(c.embed_dim[stage]), c.partial_dim[stage], padded, c.qk_dim[stage])

    @property
    def feature_channels(self) -> tuple[int, ...]:
        return tuple(self.config.embed_dim[i] for i in self.config.out_indices)

    @property
    def feature_strides(self) -> tuple[int, ...]:
        return tuple(STRIDES[i] for i in self.config.out_indices)

    def features(self, x: Tensor, out_indices: Sequence[int] | None = None) -> list[Tensor]:
        """Like `SHViT.features`: maps (B, C, h, w), in channels-last memory."""
        indices = self.config.out_indices if out_indices is None else out_indices
        check_indices(indices)
        check_images(x, self.config.in_chans)
        x = x.to(self.stem[0].weight.dtype).permute(0, 2, 3, 1).contiguous()  # pyright: ignore[reportArgumentType, reportCallIssue]
        x = self.stem(x)
        maps: list[Tensor] = []
        for index in range(max(indices) + 1):
            x = self.stages[index](x)
            if index in indices:
                maps.append(x[..., : self.config.embed_dim[index]].permute(0, 3, 1, 2))
        return maps

    def forward_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Like `SHViT.forward_features`."""
        last = self.features(x, (2,))[0]
        return last.mean((2, 3)), last

    def forward_head(self, pooled: Tensor) -> Tensor:
        """(B, C) -> logits (B, classes)."""
        return self.head(pooled)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        if self.config.features_only:
            return self.features(x)
        return self.forward_head(self.forward_features(x)[0])


# Folding: pure functions on state dicts in our key names; all of it is exact algebra, computed in float64.


def fold_convolutions(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Training form to the published fused form: batch norms and depthwise residuals go into weights and biases."""
    folded: dict[str, Tensor] = {}
    for key, value in state.items():
        unit, _, leaf = key.rpartition(".norm.")
        if not unit or f"{unit}.norm.running_var" not in state:
            if not key.endswith((".conv.weight", ".linear.weight", ".linear.bias")):
                folded[key] = value
            continue
        if leaf != "running_var":
            continue
        slope = state[f"{unit}.norm.weight"].double() / (value.double() + EPS).sqrt()
        shift = state[f"{unit}.norm.bias"].double() - state[f"{unit}.norm.running_mean"].double() * slope
        if f"{unit}.linear.weight" in state:  # the norm comes first
            weight, bias = state[f"{unit}.linear.weight"].double(), state[f"{unit}.linear.bias"].double()
            weight, bias = weight * slope, bias + weight @ shift
        else:
            weight, bias = state[f"{unit}.conv.weight"].double() * slope[:, None, None, None], shift
        if unit.endswith(".local"):
            weight[:, :, 1, 1] += 1
        folded[f"{unit}.weight"], folded[f"{unit}.bias"] = weight.to(value.dtype), bias.to(value.dtype)
    return folded


def fold_attention_and_heads(state: Mapping[str, Tensor], config: SHViTConfig) -> dict[str, Tensor]:
    """The published fused form to ours: the attention's affine norm and scale go into `qkv`, two heads become one."""
    folded = dict(state)
    for stage, qk_dim in enumerate(config.qk_dim):
        for block in range(config.depth[stage] if config.types[stage] == "s" else 0):
            unit = f"stages.{stage}.blocks.{block}.attention"
            if f"{unit}.norm.weight" not in folded or f"{unit}.qkv.weight" not in folded:
                continue
            gain, shift = folded.pop(f"{unit}.norm.weight").double(), folded.pop(f"{unit}.norm.bias").double()
            rows = folded[f"{unit}.qkv.weight"]
            weight = rows.double().flatten(1)
            bias = folded[f"{unit}.qkv.bias"].double() + weight @ shift
            weight = weight * gain
            weight[:qk_dim] *= qk_dim**-0.5
            bias[:qk_dim] *= qk_dim**-0.5
            folded[f"{unit}.qkv.weight"], folded[f"{unit}.qkv.bias"] = weight.to(rows.dtype), bias.to(rows.dtype)
    for leaf in ("weight", "bias"):
        second = folded.pop(f"distillation_head.{leaf}", None)
        if second is not None and f"head.{leaf}" in folded:
            folded[f"head.{leaf}"] = (folded[f"head.{leaf}"] + second) / 2
    return folded


def fit_shapes(state: Mapping[str, Tensor], like: Mapping[str, Tensor], pad_to: int) -> dict[str, Tensor]:
    """1x1 convolutions become matrices, and weights narrower by less than `pad_to` get zeros at the end of each axis."""
    fitted: dict[str, Tensor] = {}
    for key, value in state.items():
        want = like.get(key)
        if want is not None and value.ndim == 4 and want.ndim == 2 and value.shape[2:] == (1, 1):
            value = value.flatten(1)
        if want is not None and value.ndim == want.ndim and value.shape != want.shape:
            short = [b - a for a, b in zip(value.shape, want.shape, strict=True)]
            if all(0 <= gap < pad_to for gap in short):
                value = F.pad(value, [side for gap in reversed(short) for side in (0, gap)])
        fitted[key] = value
    return fitted


def fuse(model: SHViT, pad_to: int = 1) -> FusedSHViT:
    """See `SHViT.fuse`."""
    weight = next(model.parameters())
    fused = FusedSHViT(model.config, pad_to).to(weight.device, weight.dtype)
    state = fold_attention_and_heads(fold_convolutions(model.state_dict()), model.config)
    fused.load_state_dict(fit_shapes(state, fused.state_dict(), pad_to))
    return fused.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
