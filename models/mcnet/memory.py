"""The facial meta-memory and how a generator's features are completed from it (Sec. 3.2 and 3.3 of arXiv 2307.09906).

Shapes: B frames; a level's features are (B, C, h, w); the memory has M channels at S x S places, the identity code I.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.attention.functional import attention
from visionzoo.errors import InputError
from visionzoo.memory.learned import LearnedBank

from .config import MCNetConfig

ATTENTION_SCALE = 1 / 4
KERNEL_TEMPERATURE = 34.0
LEAK = 0.2

Noise = Literal["none", "fixed", "random"] | Sequence[Tensor]


def draw_noise(noise: Noise, levels: int, batch: int, side: int, rng: torch.Generator | None) -> list[Tensor] | None:
    """The noise in the memory of each level, (batch or 1, 1, side, side) each; None for none.

    Args:
        noise: "none"; "fixed", the same for every frame and call, drawn from the seed that `rng` began with (0 without one);
            "random", new for every frame, from `rng`, as in the published code, in evaluation too; or one tensor per level.
        rng: a generator on the CPU; torch's default one if None.

    Raises:
        InputError: an unknown kind of noise, or tensors of another number or shape.
    """
    if isinstance(noise, str):
        if noise == "none":
            return None
        if noise == "fixed":
            fixed = torch.Generator().manual_seed(0 if rng is None else rng.initial_seed())
            return [torch.randn(1, 1, side, side, generator=fixed) for _ in range(levels)]
        if noise == "random":
            return [torch.randn(batch, 1, side, side, generator=rng) for _ in range(levels)]
        raise InputError(f"noise must be 'none', 'fixed', 'random' or one tensor per level, got {noise!r}")
    shapes = [tuple(part.shape) for part in noise]
    if len(shapes) != levels or any(shape not in ((batch, 1, side, side), (1, 1, side, side)) for shape in shapes):
        raise InputError(
            f"noise must be {levels} tensors of {(batch, 1, side, side)}, got {', '.join(map(str, shapes)) or 'none'}"
        )
    return list(noise)


class EqualLinear(nn.Module):
    """A linear layer whose weight has unit variance and is divided by the root of its width at run time (StyleGAN)."""

    def __init__(self, in_features: int, out_features: int, bias: float):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.full((out_features,), bias))
        self.gain = 1 / math.sqrt(in_features)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.gain, self.bias)


class StyleConv(nn.Module):
    """A modulated convolution of one map by many styles, with noise (StyleGAN 2).

    The map (1, M, S, S) and styles (B, I) -> (B, M, S, S).
    """

    def __init__(self, channels: int, style_channels: int):
        super().__init__()
        self.modulation = EqualLinear(style_channels, channels, bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, channels, 3, 3))
        self.noise_strength = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.gain = 1 / math.sqrt(channels * 9)

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        scale = self.modulation(style)
        weight = self.gain * self.weight * scale[:, None, :, None, None]
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
        out = F.conv2d(x, weight.flatten(0, 1), padding=1).view(len(style), -1, *x.shape[2:])
        if noise is not None:
            out = out + self.noise_strength * noise
        return math.sqrt(2) * F.leaky_relu(out + self.bias[:, None, None], LEAK)


class DynamicConv(nn.Module):
    """A convolution 3x3 whose kernel is mixed from several for each item (arXiv 1912.03458).

    (B, C, h, w) and a description (B, C) of each item -> (B, D, h, w).
    """

    def __init__(self, in_channels: int, out_channels: int, kernels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(kernels, out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(kernels, out_channels))
        self.reduce = nn.Linear(in_channels, in_channels // 4 + 1, bias=False)
        self.expand = nn.Linear(in_channels // 4 + 1, kernels)
        for kernel in self.weight.data:
            nn.init.kaiming_uniform_(kernel)

    def shares(self, description: Tensor) -> Tensor:
        """(B, C) -> the share of each kernel (B, kernels), sums to 1."""
        return (self.expand(F.relu(self.reduce(description))) / KERNEL_TEMPERATURE).softmax(1)

    def forward(self, x: Tensor, shares: Tensor) -> Tensor:
        batch = len(x)
        weight = torch.einsum("bk,koihw->boihw", shares, self.weight).flatten(0, 1)
        bias = (shares @ self.bias).flatten()
        out = F.conv2d(x.flatten(0, 1).unsqueeze(0), weight, bias, padding=1, groups=batch)
        return out.view(batch, -1, *x.shape[2:])


@dataclass(frozen=True)
class Condition:
    """The condition of a read: whose face it is, and in which pose."""

    style: Tensor
    """(B, I), the implicit identity code"""
    shares: Tensor
    """(B, kernels), the share of each kernel of the dynamic convolution"""
    noise: Tensor | None = None
    """(B or 1, 1, S, S)"""


@dataclass(frozen=True)
class MemoryTrace:
    """What one level computes on its way; the consistency loss compares `feature` and `value`."""

    feature: Tensor
    """(B, M, h, w)"""
    query: Tensor
    """(B, M, h, w)"""
    condition: Condition
    key: Tensor
    """(B, M, S, S)"""
    value: Tensor
    """(B, M, S, S)"""
    residual: Tensor
    """(B, M, h, w): what the memory gave"""
    difference: Tensor
    """(B, M, h, w): computed from feature and residual, before its ReLU"""


class MemoryUnit(nn.Module):
    """Completes warped features from the facial memory: half of the channels, those with odd numbers; the others stay.

    All levels share one memory, and all weights except those of the first and the last layer. The memory is the same
    for every face; the identity code, made of the source's keypoints and the mean feature, turns it into keys and values.
    """

    def __init__(self, config: MCNetConfig):
        super().__init__()
        self.config = config
        width, levels = config.memory_channels, config.encoder_channels[:-1]
        self.mb = nn.Parameter(torch.empty(1, width, config.memory_side, config.memory_side))
        nn.init.kaiming_uniform_(self.mb)
        self.project = nn.ModuleList(nn.Conv2d(channels // 2, width, 1) for channels in levels)
        self.style = nn.Sequential(
            nn.Linear(width + 2 * config.num_keypoints, config.style_channels),
            nn.ReLU(),
            nn.Linear(config.style_channels, config.identity_channels),
        )
        self.style_conv = StyleConv(width, config.identity_channels)
        self.key_value = DynamicConv(width, 2 * width, config.memory_kernels)
        self.query = nn.Conv2d(width, width, 1)
        self.difference = nn.Conv2d(width, width, 1)
        self.restore = nn.ModuleList(nn.Conv2d(width, channels // 2, 3, padding=1) for channels in levels)
        self.norm = nn.ModuleList(nn.InstanceNorm2d(channels // 2, affine=True) for channels in levels)
        self.bank = LearnedBank(self, "mb", layout="map", project=self.keys_and_values, scale=ATTENTION_SCALE)

    def forward(
        self, features: Sequence[Tensor], keypoints: Tensor, noise: Sequence[Tensor] | None = None
    ) -> tuple[list[Tensor], list[MemoryTrace]]:
        """
        Args:
            features: (B, C_i, h_i, w_i) of each level, the deepest first.
            keypoints: detected positions (S, K, 2) of the source, S being 1 or B.
            noise: see `draw_noise`.

        Returns:
            The completed features, of the same shapes, and what was computed on the way.
        """
        parts = noise or [None] * len(features)
        done = [self.complete(i, x, keypoints, parts[i]) for i, x in enumerate(features)]
        return [out for out, _ in done], [trace for _, trace in done]

    def complete(
        self, level: int, x: Tensor, keypoints: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, MemoryTrace]:
        """One level: (B, C, h, w) -> the same, and what was computed on the way."""
        kept, x = x[:, 0::2], x[:, 1::2]
        feature = self.project[level](x)
        condition = self.condition(feature, keypoints, noise)
        keys, values = self.bank.view(condition)
        query = F.relu(self.query(feature))
        read = attention(_tokens(query).unsqueeze(1), keys, values, scale=self.bank.scale)
        residual = read.squeeze(1).transpose(1, 2).reshape(feature.shape)
        difference = self.difference(feature - residual)
        restored = self.restore[level](F.relu(difference) + feature)
        restored = F.relu(self.norm[level](restored))
        out = torch.stack([kept, restored], 2).flatten(1, 2)
        key, value = (_map(part, self.config.memory_side) for part in (keys, values))
        return out, MemoryTrace(feature, query, condition, key, value, residual, difference)

    def condition(self, feature: Tensor, keypoints: Tensor, noise: Tensor | None = None) -> Condition:
        """(B, M, h, w) and the source's keypoints (S, K, 2) -> the condition of the read."""
        mean = feature.mean((2, 3))
        points = keypoints.to(mean.dtype).flatten(1).expand(len(mean), -1)
        noise = None if noise is None else noise.to(mean)
        return Condition(self.style(torch.cat([mean, points], 1)), self.key_value.shares(mean), noise)

    def conditioned(self, memory: Tensor, condition: Condition) -> Tensor:
        """The memory as this face would have it: (B, M, S, S)."""
        return self.style_conv(memory, condition.style, condition.noise)

    def keys_and_values(self, memory: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """(B, 1, S * S, M) each; what the bank reads under a condition."""
        key, value = F.relu(self.key_value(self.conditioned(memory, condition), condition.shares)).chunk(2, 1)
        return _tokens(key).unsqueeze(1), _tokens(value).unsqueeze(1)


def _tokens(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h * w, C)."""
    return x.flatten(2).transpose(1, 2)


def _map(x: Tensor, side: int) -> Tensor:
    """(B, 1, side * side, C) -> (B, C, side, side)."""
    return x.squeeze(1).transpose(1, 2).unflatten(2, (side, side))
