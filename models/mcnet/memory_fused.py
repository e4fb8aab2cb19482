"""The memory unit for inference: the same result with fewer operations, without computing the features or the values read.

With x the channels to complete and f = P x + b their features, query and difference are affine in x, so their layers are
multiplied with P beforehand. Reading is linear in the values, so the layer after it is applied to the memory's S * S values,
not to each pixel. Modulating the memory's channels and scaling the result replaces a kernel per item; all levels share one pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.attention.functional import attention
from visionzoo.devices import autocast_dtype, without_autocast

from .memory import ATTENTION_SCALE, KERNEL_TEMPERATURE, LEAK, MemoryTrace, MemoryUnit

ITEMS_AT_ONCE = 12
"""Mixed kernels and unfolded memories take about 40 MB each in float32."""


class FusedLevel(nn.Module):
    """The layers of one level, multiplied with its projection: affine maps of tokens (B, h * w, C / 2)."""

    feature: Tensor
    feature_bias: Tensor
    query: Tensor
    query_bias: Tensor
    difference: Tensor
    difference_bias: Tensor

    def __init__(self, unit: MemoryUnit, level: int):
        super().__init__()
        projection = cast(nn.Conv2d, unit.project[level])
        weight, bias = _affine(projection)
        self._keep("feature", weight, bias)
        for name, layer in (("query", unit.query), ("difference", unit.difference)):
            outer, outer_bias = _affine(layer)
            self._keep(name, weight @ outer, bias @ outer + outer_bias)
        self.restore = unit.restore[level]
        self.norm = unit.norm[level]

    def _keep(self, name: str, weight: Tensor, bias: Tensor) -> None:
        self.register_buffer(name, weight.contiguous())
        self.register_buffer(f"{name}_bias", bias)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(B, C / 2, h, w), keys (B, S * S, M) and values, which the difference's layer was applied to -> (B, C / 2, h, w)."""
        tokens = x.flatten(2).transpose(1, 2)
        query = torch.baddbmm(self.query_bias, tokens, _batched(self.query, tokens)).relu_()
        out = torch.baddbmm(self.difference_bias, tokens, _batched(self.difference, tokens))
        out.sub_(attention(query, keys, values, scale=ATTENTION_SCALE)).relu_().add_(self.feature_bias)
        out.baddbmm_(tokens, _batched(self.feature, tokens))
        image = out.unflatten(1, (x.shape[2], x.shape[3])).permute(0, 3, 1, 2)  # channels last in memory
        return self.norm(self.restore(image)).relu_()


class FusedMemoryUnit(nn.Module):
    """`MemoryUnit` for inference. Channels that stay come first, then those to complete, instead of even and odd ones."""

    mb: Tensor
    style_weight: Tensor
    style_bias: Tensor
    shared_weight: Tensor
    squared_weight: Tensor
    noise_strength: Tensor
    bias: Tensor
    kernels: Tensor
    kernel_bias: Tensor
    value_weight: Tensor

    def __init__(self, unit: MemoryUnit):
        super().__init__()
        self.config = unit.config
        self.style, self.reduce, self.expand = unit.style, unit.key_value.reduce, unit.key_value.expand
        self.levels = nn.ModuleList(FusedLevel(unit, level) for level in range(len(unit.project)))
        conv, modulation = unit.style_conv, unit.style_conv.modulation
        shared = conv.weight * conv.gain
        buffers = {
            "mb": unit.mb,
            "style_weight": modulation.weight * modulation.gain,
            "style_bias": modulation.bias,
            "shared_weight": shared,
            "squared_weight": shared.square().sum((2, 3)),
            "noise_strength": conv.noise_strength,
            "bias": conv.bias[:, None, None],
            "kernels": unit.key_value.weight.flatten(2),
            "kernel_bias": unit.key_value.bias,
            "value_weight": _affine(unit.difference)[0],
        }
        for name, value in buffers.items():
            self.register_buffer(name, value.detach())

    def forward(
        self, features: Sequence[Tensor], keypoints: Tensor, noise: Sequence[Tensor] | None = None
    ) -> tuple[list[Tensor], list[MemoryTrace]]:
        """Like `MemoryUnit`, without traces; it uses the dtype of its weights even under autocast, as it works in place."""
        if autocast_dtype(self.mb.device) is not None:
            with without_autocast(self.mb.device):
                return self([x.to(self.mb.dtype) for x in features], keypoints, noise)
        batch, levels = len(features[0]), cast("list[FusedLevel]", list(self.levels))
        halves = [x.chunk(2, 1) for x in features]
        means = torch.cat(
            [
                torch.addmm(level.feature_bias, x.mean((2, 3)), level.feature)
                for level, (_, x) in zip(levels, halves, strict=True)
            ]
        )
        maps = None if noise is None else torch.cat([part.expand(batch, -1, -1, -1) for part in noise]).to(means)
        points = keypoints.to(means.dtype).flatten(1).expand(batch, -1).repeat(len(levels), 1)
        made = [
            self.keys_and_values(*part)
            for part in zip(
                means.split(ITEMS_AT_ONCE),
                points.split(ITEMS_AT_ONCE),
                [None] * len(means) if maps is None else maps.split(ITEMS_AT_ONCE),
                strict=False,
            )
        ]
        keys, values = torch.cat([k for k, _ in made]), torch.cat([v for _, v in made])
        completed = [
            torch.cat([kept, level(x, k, v)], 1)
            for level, (kept, x), k, v in zip(levels, halves, keys.split(batch), values.split(batch), strict=True)
        ]
        return completed, []

    def keys_and_values(self, mean: Tensor, points: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean features (N, M) and keypoints (N, 2 K) -> keys (N, S * S, M), and values after the difference's layer."""
        scale = F.linear(self.style(torch.cat([mean, points], 1)), self.style_weight, self.style_bias)
        memory = F.conv2d(self.mb * scale[..., None, None], self.shared_weight, padding=1)
        # squares of half-precision numbers overflow
        total = scale.float().square() @ self.squared_weight.float().T
        memory.mul_(torch.rsqrt(total + 1e-8).to(memory.dtype)[..., None, None])
        if noise is not None:
            memory.add_(self.noise_strength * noise)
        memory = F.leaky_relu_(memory.add_(self.bias), LEAK).mul_(math.sqrt(2))
        shares = (self.expand(F.relu(self.reduce(mean))) / KERNEL_TEMPERATURE).softmax(1)
        kernels = torch.mm(shares, self.kernels.flatten(1)).view(len(mean), *self.kernels.shape[1:])
        both = _conv_each(memory, kernels, shares @ self.kernel_bias).relu_()
        keys, values = both.flatten(2).transpose(1, 2).chunk(2, 2)
        return keys.contiguous(), values @ self.value_weight


def _conv_each(x: Tensor, kernels: Tensor, biases: Tensor) -> Tensor:
    """Convolutions 3x3 of items (N, C, h, w), each with its own kernel (N, D, C * 9) and bias (N, D): (N, D, h, w)."""
    if x.device.type == "cpu":  # oneDNN's convolution takes less than half the time of the matrix product
        shape = (kernels.shape[1], x.shape[1], 3, 3)
        each = zip(x.split(1), kernels, biases, strict=True)
        return torch.cat([F.conv2d(one, kernel.view(shape), bias, padding=1) for one, kernel, bias in each])
    patches = F.unfold(x, 3, padding=1)
    return torch.baddbmm(biases.unsqueeze(2), kernels, patches).unflatten(2, (x.shape[2], x.shape[3]))


def _affine(layer: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """A 1x1 convolution as a matrix (C, D) and a bias (D,), to be applied to rows."""
    assert layer.bias is not None
    return layer.weight.detach().flatten(1).T, layer.bias.detach()


def _batched(weight: Tensor, like: Tensor) -> Tensor:
    return weight.expand(len(like), -1, -1)
