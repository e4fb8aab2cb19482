"""The discriminator of the published training; the weights of its losses are 0 there."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import DiscriminatorConfig, widths
from .keypoints import gaussian_heatmaps


class DiscriminatorBlock(nn.Module):
    """Convolution 4x4 without padding, instance norm, leaky ReLU, mean of 2x2; the first has no norm, the last no mean."""

    def __init__(self, in_channels: int, out_channels: int, *, normed: bool, halved: bool):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 4)
        self.norm = nn.InstanceNorm2d(out_channels, affine=True) if normed else nn.Identity()
        self.halved = halved

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm(self.conv(x)), 0.2)
        return F.avg_pool2d(x, 2) if self.halved else x


class Discriminator(nn.Module):
    """Images (B, 3, H, W) and keypoint positions (B, K, 2) -> how real each position looks (B, 1, h, w), and the blocks' maps."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.config = c = config
        dims = (3 + c.num_keypoints, *widths(c.channels, c.max_channels, c.num_blocks)[1:])
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(dims[i], dims[i + 1], normed=i > 0, halved=i < c.num_blocks - 1)
            for i in range(c.num_blocks)
        )
        self.output = nn.Conv2d(dims[-1], 1, 1)

    def forward(self, image: Tensor, keypoints: Tensor) -> tuple[Tensor, list[Tensor]]:
        height, width = image.shape[2:]
        x = torch.cat([image, gaussian_heatmaps(keypoints, height, width, self.config.keypoint_variance)], 1)
        maps: list[Tensor] = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return self.output(x), maps
