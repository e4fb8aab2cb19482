"""Blocks that the detector, the motion network and the generator share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import widths


class SameBlock(nn.Module):
    """Convolution 7x7, batch norm, ReLU: (B, C, H, W) -> (B, D, H, W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 7, padding=3)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)), inplace=True)


class DownBlock(nn.Module):
    """Convolution 3x3, batch norm, ReLU, mean of 2x2: (B, C, H, W) -> (B, D, H/2, W/2)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(F.relu(self.norm(self.conv(x)), inplace=True), 2)


class UpBlock(nn.Module):
    """Nearest upsampling by 2, convolution 3x3, batch norm, ReLU: (B, C, H, W) -> (B, D, 2H, 2W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))), inplace=True)


class ResidualBlock(nn.Module):
    """Batch norm, ReLU and convolution 3x3, twice, added to the input: (B, C, H, W) -> the same shape."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.norm1(x), inplace=True))
        return self.conv2(F.relu(self.norm2(out), inplace=True)).add_(x)


class Hourglass(nn.Module):
    """(B, C, H, W) -> (B, base + C, H, W), sides multiples of 2^num_blocks.

    It goes down `num_blocks` times and up again; each level's result is concatenated with the encoder's map of that level, and
    the last one with the input.
    """

    def __init__(self, in_channels: int, base: int, max_channels: int, num_blocks: int):
        super().__init__()
        dims = widths(base, max_channels, num_blocks)
        inputs = (in_channels, *dims[1:])
        self.down = nn.ModuleList(DownBlock(inputs[i], dims[i + 1]) for i in range(num_blocks))
        self.up = nn.ModuleList(
            UpBlock(dims[i + 1] * (1 if i == num_blocks - 1 else 2), dims[i]) for i in reversed(range(num_blocks))
        )
        self.out_channels = base + in_channels

    def forward(self, x: Tensor) -> Tensor:
        skips = [x]
        for block in self.down:
            skips.append(block(skips[-1]))
        x = skips.pop()
        for block in self.up:
            x = torch.cat([block(x), skips.pop()], 1)
        return x


def full_precision(x: Tensor) -> Tensor:
    """Cast to at least float32."""
    return x if x.dtype == torch.float64 else x.float()


def gaussian_kernel(scale: float) -> Tensor:
    """The low-pass filter (k, k) for reducing an image to `scale` of its size; it sums to 1."""
    sigma = (1 / scale - 1) / 2
    radius = round(4 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    profile = torch.exp(-(offsets**2) / (2 * sigma**2)) if radius else torch.ones(1)
    kernel = profile[:, None] * profile
    return kernel / kernel.sum()


def antialias_downsample(x: Tensor, scale: float) -> Tensor:
    """(B, C, H, W) -> (B, C, H * scale, W * scale): Gaussian low-pass with zero padding, then every (1/scale)-th pixel from 0 on.

    The filter is not a weight: in a half-precision network, it keeps the precision of the image.
    """
    if scale == 1:
        return x
    kernel = gaussian_kernel(scale).to(x)
    channels, size = x.shape[1], len(kernel)
    weight = kernel.expand(channels, 1, size, size)
    return F.conv2d(x, weight, stride=round(1 / scale), padding=size // 2, groups=channels)


def coordinate_grid(height: int, width: int, like: Tensor) -> Tensor:
    """Coordinates x, y from -1 to 1, (height, width, 2); -1 and 1 are the centres of the outermost pixels."""
    y, x = (2 * torch.arange(n, device=like.device, dtype=like.dtype) / (n - 1) - 1 for n in (height, width))
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1)
