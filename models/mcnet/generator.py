"""The generator encodes the source once, moves its features, completes them from the memory, and decodes.

Shapes: B frames of H x W; levels are counted from the deepest, E_0 at H/8 x W/8, to E_3 at full resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .blocks import DownBlock, ResidualBlock, SameBlock, UpBlock, antialias_downsample, full_precision
from .config import MCNetConfig
from .keypoints import Keypoints
from .memory import MemoryTrace, MemoryUnit
from .memory_fused import FusedMemoryUnit
from .motion import DenseMotion, MotionField, Warp


@dataclass(frozen=True)
class SourceCache:
    """Everything that does not depend on the driver; S sources, one or as many as driving frames."""

    image: Tensor
    """(S, 3, H, W)"""
    small: Tensor
    """(S, 3, H/4, W/4)"""
    features: tuple[Tensor, ...]
    """Encoder maps, the deepest first. A fused generator keeps their channels in another order."""
    keypoints: Keypoints
    heatmaps: Tensor
    """(S, K, H/4, W/4), Gaussians of the keypoints"""


@dataclass(frozen=True)
class Animated:
    """Frames, and intermediate results."""

    prediction: Tensor
    """(B, 3, H, W) float32, RGB in [0, 1]"""
    motion: MotionField
    moved: Tensor
    """(B, 3, H, W): the source image after the motion alone"""
    warped: tuple[Tensor, ...]
    """Moved and occluded encoder maps, the deepest first"""
    completed: tuple[Tensor, ...]
    """The same after completion from the memory, for all levels but the last"""
    memory: tuple[MemoryTrace, ...]
    """Intermediate results of the memory at each level; empty in a fused network"""
    decoded: tuple[Tensor, ...]
    """Maps of each level of the decoder: after its residual blocks, and after upsampling"""


class Generator(nn.Module):
    """Source images and keypoints -> frames."""

    def __init__(self, config: MCNetConfig):
        super().__init__()
        self.config = config
        widths = config.encoder_channels
        deepest = len(widths) - 1
        self.motion = DenseMotion(config)
        self.first = SameBlock(3, widths[-1])
        self.down = nn.ModuleList(DownBlock(widths[i], widths[i - 1]) for i in range(deepest, 0, -1))
        self.memory: MemoryUnit | FusedMemoryUnit = MemoryUnit(config)
        inputs = [width * (2 if level else 1) for level, width in enumerate(widths[:-1])]
        self.residual = nn.ModuleList(
            ResidualBlock(inputs[level]) for level in range(deepest) for _ in range(config.residual_blocks)
        )
        self.up = nn.ModuleList(UpBlock(inputs[level], widths[level + 1]) for level in range(deepest))
        self.final = nn.Conv2d(widths[-1], 3, 7, padding=3)

    def encode(self, image: Tensor, keypoints: Keypoints) -> SourceCache:
        """Source images (S, 3, H, W) in [0, 1] and their keypoints -> the part of the computation that all frames share."""
        small = antialias_downsample(image, self.config.scale_factor)
        maps = [self.first(image.to(self.final.weight.dtype))]
        for block in self.down:
            maps.append(block(maps[-1]))
        heatmaps = self.motion.heatmaps_of(keypoints, *small.shape[2:])
        return SourceCache(image, small, tuple(reversed(maps)), keypoints, heatmaps)

    def forward(self, source: SourceCache, driving: Keypoints, noise: Sequence[Tensor] | None = None) -> Animated:
        """
        Args:
            source: encoded source of 1 or B images.
            driving: target keypoints of the source in B frames.
            noise: noise in the memory of each level, (B or 1, 1, S, S).
        """
        motion = self.motion(source.small, source.keypoints, driving, source.heatmaps)
        warp = Warp(motion)
        warped = [warp.occlude(warp.move(x)) for x in source.features]
        completed, traces = self.memory(warped[:-1], source.keypoints.value, noise)
        decoded = self._decode(completed)
        moved = warp.move(source.image)
        _, occlusion = warp.at((moved.shape[2], moved.shape[3]))
        painted = decoded[-1] * (1 - occlusion).to(decoded[-1].dtype) + warped[-1]
        painted = full_precision(self.final(painted)).sigmoid()
        prediction = torch.lerp(painted, moved.to(painted.dtype), occlusion)
        return Animated(prediction, motion, moved, tuple(warped), tuple(completed), tuple(traces), tuple(decoded))

    def _decode(self, completed: Sequence[Tensor]) -> list[Tensor]:
        decoded: list[Tensor] = []
        count = self.config.residual_blocks
        for level, x in enumerate(completed):
            if decoded:
                x = torch.cat([decoded[-1], x], 1)
            for block in self.residual[level * count : (level + 1) * count]:
                x = block(x)
            decoded += [x, self.up[level](x)]
        return decoded
