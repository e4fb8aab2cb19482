"""EfficientNet-Lite0: a classifier made of plain convolutions, for phones and CPUs.

Architecture: EfficientNet (arXiv 1905.11946) without squeeze-and-excitation and with ReLU6 instead of swish. Weights have timm's names
(`tf_efficientnet_lite0`), and outputs are equal to timm's. What is special about the network:

- Convolutions with stride 2 pad like TensorFlow: for an even side, one pixel less before than after.
- Batch norms use eps = 1e-3.
- The first stage does not expand; every other block expands by 6, filters each channel separately, and projects.
- There are no activations after projections, so that residuals can be negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from visionzoo.config import configure
from visionzoo.errors import InputError
from visionzoo.fused_conv import SameConv2d

if TYPE_CHECKING:
    from .fused import FusedEfficientNetLite

STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""(blocks, kernel, stride of the first block, expansion, channels)"""

STEM, FEATURES, STRIDE = 32, 1280, 32


@dataclass(frozen=True)
class EfficientNetLiteConfig:
    """The configuration of an EfficientNet-Lite0.

    Attributes:
        num_classes: outputs of the head; 0 for no head, `forward` then gives the pooled vector.
    """

    num_classes: int = 1000

    def __post_init__(self) -> None:
        if self.num_classes < 0:
            raise InputError(f"num_classes must be at least 0, got {self.num_classes}")

    @property
    def heads(self) -> int:
        """0 or 1."""
        return int(self.num_classes > 0)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _depthwise(channels: int, kernel: int, stride: int) -> nn.Conv2d:
    if stride == 2:
        return SameConv2d(channels, channels, kernel, groups=channels, bias=False)
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)


class DepthwiseSeparable(nn.Module):
    """Depthwise convolution, projection by 1x1. (B, dim, H, W) -> (B, out_dim, H, W)"""

    def __init__(self, dim: int, out_dim: int, kernel: int):
        super().__init__()
        self.conv_dw, self.bn1, self.act1 = _depthwise(dim, kernel, 1), _norm(dim), nn.ReLU6(inplace=True)
        self.conv_pw, self.bn2 = nn.Conv2d(dim, out_dim, 1, bias=False), _norm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv_pw(self.act1(self.bn1(self.conv_dw(x)))))


class InvertedResidual(nn.Module):
    """Expansion by 1x1, depthwise convolution, projection by 1x1; the input is added where shapes allow.

    (B, dim, H, W) -> (B, out_dim, ceil(H / stride), ceil(W / stride))
    """

    def __init__(self, dim: int, out_dim: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = dim * expansion
        self.residual = stride == 1 and dim == out_dim
        self.conv_pw, self.bn1, self.act1 = nn.Conv2d(dim, hidden, 1, bias=False), _norm(hidden), nn.ReLU6(inplace=True)
        self.conv_dw, self.bn2, self.act2 = _depthwise(hidden, kernel, stride), _norm(hidden), nn.ReLU6(inplace=True)
        self.conv_pwl, self.bn3 = nn.Conv2d(hidden, out_dim, 1, bias=False), _norm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        out = self.act1(self.bn1(self.conv_pw(x)))
        out = self.act2(self.bn2(self.conv_dw(out)))
        out = self.bn3(self.conv_pwl(out))
        return x + out if self.residual else out


class EfficientNetLite(nn.Module):
    """Images (B, 3, H, W), RGB in [-1, 1], of any size from 1 x 1 -> logits (B, classes).

    With `config.num_classes` 0 it gives pooled vectors (B, 1280). Trained at 224 x 224. `fuse()` gives the fast form for inference.
    """

    num_features, stride = FEATURES, STRIDE

    def __init__(self, config: EfficientNetLiteConfig):
        super().__init__()
        self.config = config
        self.conv_stem, self.bn1, self.act1 = SameConv2d(3, STEM, 3, bias=False), _norm(STEM), nn.ReLU6(inplace=True)
        self.blocks, dim = nn.Sequential(), STEM
        for count, kernel, stride, expansion, out_dim in STAGES:
            stage = nn.Sequential()
            for number in range(count):
                if expansion == 1:
                    stage.append(DepthwiseSeparable(dim, out_dim, kernel))
                else:
                    stage.append(InvertedResidual(dim, out_dim, kernel, 1 if number else stride, expansion))
                dim = out_dim
            self.blocks.append(stage)
        self.conv_head, self.bn2 = nn.Conv2d(dim, FEATURES, 1, bias=False), _norm(FEATURES)
        self.act2 = nn.ReLU6(inplace=True)
        self.classifier = nn.Linear(FEATURES, config.num_classes) if config.heads else nn.Identity()

    def stem(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 32, ceil(H / 2), ceil(W / 2))"""
        return self.act1(self.bn1(self.conv_stem(x)))

    def last(self, x: Tensor) -> Tensor:
        """The map of the last stage (B, 320, h, w) -> (B, 1280, h, w), not negative."""
        return self.act2(self.bn2(self.conv_head(x)))

    def maps(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> the last map (B, 1280, ceil(H / 32), ceil(W / 32)), not negative."""
        return self.last(self.blocks(self.stem(x)))

    def forward_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(pooled vectors (B, 1280), last map (B, 1280, ceil(H / 32), ceil(W / 32)))"""
        if x.ndim != 4 or x.shape[1] != 3 or 0 in x.shape[2:]:
            raise InputError(f"expected images (B, 3, H, W) of at least 1 x 1 pixels, got {tuple(x.shape)}")
        last = self.maps(x)
        return last.mean((2, 3)), last

    def forward_head(self, pooled: Tensor) -> Tensor:
        """(B, 1280) -> logits (B, classes)"""
        return self.classifier(pooled)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x)[0])

    def fuse(self, pad_to: int = 1) -> FusedEfficientNetLite:
        """Return a network for inference with the same outputs (relative error about 1e-6 in float32); this one stays unchanged.

        Args:
            pad_to: accepted for compatibility with other classifiers; every width is already a multiple of 8.
        """
        from .fused import FusedEfficientNetLite

        del pad_to
        return FusedEfficientNetLite(self)


VARIANTS = {"efficientnet_lite0": EfficientNetLiteConfig()}


def build(name: str, **overrides: Any) -> EfficientNetLite:
    """The registered variant `name`, with random weights."""
    return EfficientNetLite(configure(VARIANTS[name], overrides))
