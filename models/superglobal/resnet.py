"""ResNet-50 and -101 with ReLUP: torchvision's networks with a floor under their activations.

Section 3.1 of arXiv 2308.06954; the stride is on the 3x3 convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models import resnet

from .pooling import relup


class Bottleneck(resnet.Bottleneck):
    """torchvision's bottleneck (stride on the 3x3), with a floor for its inner and for its output activations."""

    inner_floor: float = 0.0
    output_floor: float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        out = relup(self.bn1(self.conv1(x)), self.inner_floor)
        out = relup(self.bn2(self.conv2(out)), self.inner_floor)
        out = self.bn3(self.conv3(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return relup(out.add_(shortcut) if not torch.is_grad_enabled() else out + shortcut, self.output_floor)


class ResNetBackbone(resnet.ResNet):
    """ResNet-50 or -101 up to its last map: (B, 3, H, W) -> (B, 2048, ceil(H/32), ceil(W/32))."""

    num_features = 2048
    stride = 32

    def __init__(self, depth: int, *, inner_floor: float, output_floor: float):
        super().__init__(Bottleneck, {50: [3, 4, 6, 3], 101: [3, 4, 23, 3]}[depth])
        del self.fc, self.avgpool
        for stage, layer in enumerate((self.layer1, self.layer2, self.layer3, self.layer4), start=1):
            for block in layer:
                assert isinstance(block, Bottleneck)
                block.inner_floor = inner_floor if stage == 1 else 0.0
                block.output_floor = output_floor if stage < 4 else 0.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))
