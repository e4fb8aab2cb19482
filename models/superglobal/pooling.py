"""The pooling of SuperGlobal (arXiv 2308.06954, section 3): ReLUP, regional GeM, GeM+ and Scale-GeM.

All are training-free and can be attached to any network whose feature map is not negative. They compute in float32 whatever the
input (x ** 4.6 overflows float16 above 11) and return float32.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ScalePooling = Literal["max", "power", "mean", "mean_of_normalized"]


def relup(x: Tensor, floor: float = 0.014) -> Tensor:
    """ReLUP: max(x, floor), in place. With `floor` 0 it is ReLU."""
    return F.relu(x, inplace=True) if floor == 0 else x.clamp_(min=floor)


def gem(x: Tensor, p: float | Tensor, eps: float = 1e-8) -> Tensor:
    """Generalised mean over positions: (B, C, H, W) -> (B, C) float32; values below `eps` count as `eps`."""
    return x.float().clamp(min=eps).pow(p).mean((-2, -1)).pow(1.0 / p)


def regional_gem(x: Tensor, p: float = 2.5, size: int = 5) -> Tensor:
    """Regional GeM: half the map, half its generalised mean over `size` x `size` windows (stride 1, reflected border).

    Args:
        x: (B, C, H, W), not negative, H and W above size // 2.

    Returns:
        (B, C, H, W) float32.
    """
    x = x.float()
    # x^2.5 = x * x * sqrt(x) costs a third of pow; before the padding, as there is less of it
    power = x * x * x.sqrt() if p == 2.5 else x.pow(p)
    padded = F.pad(power, [(size - 1) // 2] * 4, mode="reflect")
    return torch.lerp(x, F.avg_pool2d(padded, size, stride=1).pow(1.0 / p), 0.5)


def scale_pool(descriptors: Tensor, kind: ScalePooling = "max", p: float = 10.0) -> Tensor:
    """One descriptor from those of several scales (Scale-GeM): (S, B, D) -> (B, D).

    Args:
        kind: "max": element-wise maximum of the L2-normalised descriptors (p = infinity, the published setting);
            "power": generalised mean with finite `p` around the smallest value of the whole batch, as published;
            "mean": mean of the descriptors; "mean_of_normalized": mean of the L2-normalised descriptors, as in CVNet.
    """
    if kind == "max":
        return F.normalize(descriptors, dim=-1).amax(0)
    if kind == "power":
        shift = descriptors.amin()
        return (descriptors - shift).pow(p).mean(0).pow(1.0 / p) + shift
    return (F.normalize(descriptors, dim=-1) if kind == "mean_of_normalized" else descriptors).mean(0)


class LearnedGeM(nn.Module):
    """GeM with a learned exponent `p`, shape (1,); CVNet's pooling. (B, C, H, W) -> (B, C)."""

    def __init__(self, p: float = 3.0, eps: float = 1e-6):
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), float(p)))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return gem(x, self.p, self.eps)


def smallest_side(scales: tuple[float, ...], stride: int, window: int) -> int:
    """The shortest image side for which every scale's feature map has more cells than the regional window reflects.

    A network of this `stride` maps n pixels to ceil(n / stride) cells; reflection by r cells needs r + 1 of them.
    """
    pixels = stride * ((window - 1) // 2) + 1
    side = math.ceil(pixels / min(scales))
    while int(side * min(scales)) < pixels:
        side += 1
    return side
