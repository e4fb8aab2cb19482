"""An MCNet for inference: batch norms are folded, upsamplings have half the taps, and the memory unit is simplified."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.folding import fold_batchnorm

from .blocks import DownBlock, Hourglass, ResidualBlock, SameBlock, UpBlock
from .generator import Generator
from .keypoints import KeypointDetector
from .memory import MemoryUnit
from .memory_fused import FusedMemoryUnit


class PhaseUpBlock(nn.Module):
    """`UpBlock` with its norm folded: (B, C, H, W) -> (B, D, 2H, 2W), for inference.

    Several of the nine taps over doubled pixels read the same pixel: each of the four positions within a doubled pixel sees only 2x2
    pixels. One convolution computes all four.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, block: UpBlock):
        super().__init__()
        assert block.conv.bias is not None
        self.register_buffer("weight", phase_kernels(block.conv.weight.detach()))
        self.register_buffer("bias", block.conv.bias.detach().repeat(4))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        phases = F.conv2d(x, self.weight, self.bias, padding=1).relu_().unflatten(1, (4, -1))
        out = phases.new_empty(len(x), phases.shape[2], height, 2, width, 2)
        for phase in range(4):
            row, column = divmod(phase, 2)
            out[:, :, :, row, :, column] = phases[:, phase, :, row : row + height, column : column + width]
        return out.flatten(4, 5).flatten(2, 3)


def phase_kernels(weight: Tensor) -> Tensor:
    """Kernels (D, C, 3, 3) on doubled pixels -> kernels (4 * D, C, 2, 2) on the pixels, position by position."""
    sums = weight.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])  # (position, pixel, tap)
    kernels = torch.einsum("ayi,bxj,dcij->abdcyx", sums, sums, weight)
    return kernels.flatten(0, 2).contiguous()


def fuse_detector(detector: KeypointDetector) -> None:
    """Fuse the detector in place; it must be in eval mode."""
    _fuse_hourglass(detector.hourglass)


def fuse_generator(generator: Generator) -> None:
    """Fuse the generator in place; it must be in eval mode."""
    _fuse_hourglass(generator.motion.hourglass)
    for block in (generator.first, *generator.down, *generator.residual, *generator.up):
        _fold(block)
    _part_channels(generator)
    generator.up = nn.ModuleList(PhaseUpBlock(cast(UpBlock, block)) for block in generator.up)
    generator.memory = FusedMemoryUnit(cast(MemoryUnit, generator.memory))


def _fuse_hourglass(hourglass: Hourglass) -> None:
    for block in (*hourglass.down, *hourglass.up):
        _fold(block)
    hourglass.up = nn.ModuleList(PhaseUpBlock(cast(UpBlock, block)) for block in hourglass.up)


def _fold(block: nn.Module) -> None:
    conv = block.conv1 if isinstance(block, ResidualBlock) else cast("SameBlock | DownBlock | UpBlock", block).conv
    weight = conv.weight
    fold_batchnorm(block, torch.rand(1, weight.shape[1], 4, 4, dtype=weight.dtype, device=weight.device))


def _part_channels(generator: Generator) -> None:
    """Reorder channels of maps that read the memory, from the encoder on: even ones first, so that both halves are contiguous."""
    widths, count = generator.config.encoder_channels, generator.config.residual_blocks
    order = None
    for block in cast("list[DownBlock]", list(generator.down)):
        if order is not None:
            block.conv.weight = _indexed(block.conv.weight, order, 1)
        order = _evens_first(block.conv.out_channels, block.conv.weight)
        _reorder_outputs(block.conv, order)
    for level, width in enumerate(widths[:-1]):
        order = _evens_first(width, generator.final.weight)
        if level:  # after the channels that come from below
            order = torch.cat([torch.arange(width, device=order.device), width + order])
        for block in cast("list[ResidualBlock]", list(generator.residual[level * count : (level + 1) * count])):
            _reorder_norm(block.norm1, order)
            block.conv1.weight = _indexed(block.conv1.weight, order, 1)
            _reorder_outputs(block.conv2, order)
        up = cast(UpBlock, generator.up[level])
        up.conv.weight = _indexed(up.conv.weight, order, 1)


def _evens_first(channels: int, like: Tensor) -> Tensor:
    numbers = torch.arange(channels, device=like.device)
    return torch.cat([numbers[0::2], numbers[1::2]])


def _indexed(weight: Tensor, order: Tensor, dim: int) -> nn.Parameter:
    return nn.Parameter(weight.detach().index_select(dim, order).contiguous(), requires_grad=False)


def _reorder_outputs(conv: nn.Conv2d, order: Tensor) -> None:
    assert conv.bias is not None
    conv.weight, conv.bias = _indexed(conv.weight, order, 0), _indexed(conv.bias, order, 0)


def _reorder_norm(norm: nn.BatchNorm2d, order: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.weight, norm.bias = _indexed(norm.weight, order, 0), _indexed(norm.bias, order, 0)
    norm.running_mean, norm.running_var = norm.running_mean[order], norm.running_var[order]
