"""IFNet, the network of RIFE that estimates the frame halfway between two frames (Huang et al., arXiv 2011.06294).

LOVECon uses the "HDv3" weights of 2021, whose network differs from the paper's: it has no refinement network, and each block sees
the two frames in both orders, so that swapping them gives the same middle frame.

1. Three blocks estimate the flows from the middle frame to both frames, and a mask, at 1/4, 1/2 and 1/1 of the size.
2. Each block sees the frames as warped by the flows so far, and adds its flows and mask to those so far. Both orders of the frames
   are one batch: three calls of a block instead of six.
3. The middle frame is the sum of the warped frames, weighted by the sigmoid of the mask.

Shapes: frames (B, 3, H, W); flow (B, 4, H, W), in pixels, (x, y) to the first frame and (x, y) to the second; mask (B, 1, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.config import configure
from visionzoo.errors import InputError

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Resolutions of the flow relative to the published one; less than 1 for large movements in large frames."""


@dataclass(frozen=True)
class IFNetConfig:
    """The published sizes.

    Attributes:
        width: channels of every block, an even number.
        residuals: residual pairs of convolutions in a block.
        reductions: how much smaller than the frames each block works, besides the 4 of its strides.
    """

    width: int = 90
    residuals: int = 4
    reductions: tuple[int, ...] = (4, 2, 1)

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise InputError(f"width must be a positive even number, got {self.width}")
        if not self.reductions or min(self.reductions) < 1:
            raise InputError(f"reductions must be positive numbers, got {self.reductions}")


@dataclass(frozen=True)
class Stage:
    """The estimate after a block, at the size of the frames.

    Attributes:
        flow: (B, 4, H, W) in pixels, from the middle frame to the first and to the second frame.
        logits: (B, 1, H, W); their sigmoid is the weight of the first frame.
        warped: both frames, each (B, 3, H, W), where the flow moves them.
    """

    flow: Tensor
    logits: Tensor
    warped: tuple[Tensor, Tensor]

    @property
    def mask(self) -> Tensor:
        """(B, 1, H, W), the weight of the first frame, in [0, 1]."""
        return self.logits.sigmoid()

    @property
    def frame(self) -> Tensor:
        """(B, 3, H, W), the middle frame; in the range of the two frames, except for rounding."""
        first, second = self.warped
        return first * self.mask + second * (1 - self.mask)


class IFNet(nn.Module):
    """Estimates the frame halfway between two frames, by flows in both directions.

    Flows, masks and frames are float32 whatever the precision of the weights: bfloat16 cannot even number the columns of a frame.

    Attributes:
        config: its sizes.
    """

    def __init__(self, config: IFNetConfig = IFNetConfig()):
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(IFBlock(config.width, config.residuals) for _ in config.reductions)

    def forward(self, first: Tensor, second: Tensor, scale: float = 1.0, *, symmetric: bool = True) -> list[Stage]:
        """The estimates after each block; the `frame` of the last one is the result.

        Args:
            first, second: frames (B, 3, H, W) in [0, 1], H and W multiples of `multiple(scale)`.
            scale: resolution of the flow, one of `SCALES`; 0.5 finds movements twice as large, and fewer details.
            symmetric: show the blocks both orders of the frames, as published; False takes half the time, for training.

        Raises:
            InputError: frames of other shapes, or another scale.
        """
        _check_frames(first, second)
        step = self.multiple(scale)
        if first.shape[-2] % step or first.shape[-1] % step:
            height, width = first.shape[-2:]
            raise InputError(
                f"frames are {width} x {height}, expected multiples of {step}; middle_frame takes any size"
            )
        first, second = (_at_least_float32(frame) for frame in (first, second))
        flow = first.new_zeros(len(first), 4, *first.shape[-2:])
        logits, warped, stages = flow[:, :1], (first, second), []
        for block, reduction in zip(self.blocks, self.config.reductions, strict=True):
            seen, before, reduction = torch.cat([*warped, logits], 1), flow, reduction / scale
            if symmetric:
                seen = torch.cat([seen, torch.cat([*reversed(warped), -logits], 1)])
                before = torch.cat([flow, _swapped(flow)])
            change, weight = block(seen, before, reduction)
            if symmetric:
                (change, change_back), (weight, weight_back) = change.chunk(2), weight.chunk(2)
                change, weight = (change + _swapped(change_back)) / 2, (weight - weight_back) / 2
            flow, logits = flow + change, logits + weight
            warped = (warp(first, flow[:, :2]), warp(second, flow[:, 2:]))
            stages.append(Stage(flow, logits, warped))
        return stages

    @torch.no_grad()
    def middle_frame(self, first: Tensor, second: Tensor, scale: float = 1.0) -> Tensor:
        """The frame halfway between two frames of any size, (B, 3, H, W) float32 on their device.

        Frames are padded to multiples of `multiple(scale)` by repeating their right and lower borders, and the result is cropped.

        Args:
            first, second: frames (B, 3, H, W) in [0, 1].
            scale: resolution of the flow, see `forward`.

        Raises:
            InputError: frames of other shapes, or another scale.
        """
        _check_frames(first, second)
        step = self.multiple(scale)
        height, width = first.shape[-2:]
        pad = (0, -width % step, 0, -height % step)
        first, second = (F.pad(_at_least_float32(frame), pad, mode="replicate") for frame in (first, second))
        return self(first, second, scale)[-1].frame[..., :height, :width]

    def multiple(self, scale: float = 1.0) -> int:
        """What the sides of frames must be multiples of: 32 as published, more for scales below 0.5.

        Raises:
            InputError: the scale is not one of `SCALES`.
        """
        if scale not in SCALES:
            raise InputError(f"scale must be one of {', '.join(f'{known:g}' for known in SCALES)}, got {scale}")
        return max(32, int(4 * max(self.config.reductions) / scale))


class IFBlock(nn.Module):
    """Corrects the flow and the mask, from the warped frames; computes at 1/4 of its input's size."""

    def __init__(self, width: int, residuals: int):
        super().__init__()
        self.down = nn.Sequential(_conv(2 * 3 + 1 + 4, width // 2, stride=2), _conv(width // 2, width, stride=2))
        self.residuals = nn.ModuleList(
            nn.Sequential(_conv(width, width), _conv(width, width)) for _ in range(residuals)
        )
        self.flow_head = _head(width, 4)
        self.mask_head = _head(width, 1)

    def forward(self, x: Tensor, flow: Tensor, reduction: float) -> tuple[Tensor, Tensor]:
        """Warped frames and mask (B, 7, H, W), flow (B, 4, H, W) -> changes of the flow and of the mask's logits, at full size.

        Args:
            reduction: how much smaller than (H, W) to work.
        """
        size = x.shape[-2:]
        smaller = (round(size[0] / reduction), round(size[1] / reduction))
        x = _resized(torch.cat([x, flow / reduction], 1), smaller).to(next(self.parameters()).dtype)
        x = self.down(x)
        for pair in self.residuals:
            x = x + pair(x)
        change, weight = (_resized(_at_least_float32(head(x)), size) for head in (self.flow_head, self.mask_head))
        return reduction * change, weight


def _conv(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), nn.PReLU(after))


def _head(width: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(width, width // 2, 4, 2, 1),
        nn.PReLU(width // 2),
        nn.ConvTranspose2d(width // 2, channels, 4, 2, 1),
    )


def warp(frames: Tensor, flow: Tensor) -> Tensor:
    """Frames at x + flow(x), bilinearly; places outside a frame have the value of its border.

    Args:
        frames: (B, C, H, W).
        flow: (B, 2, H, W), x and y in pixels.
    """
    height, width = frames.shape[-2:]
    across = torch.linspace(-1, 1, width, dtype=flow.dtype, device=flow.device)
    down = torch.linspace(-1, 1, height, dtype=flow.dtype, device=flow.device)[:, None]
    x = across + flow[:, 0] * (2 / max(width - 1, 1))
    y = down + flow[:, 1] * (2 / max(height - 1, 1))
    grid = torch.stack([x, y], -1)
    return F.grid_sample(frames, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _swapped(flow: Tensor) -> Tensor:
    """The flow for the two frames in the other order."""
    return torch.cat([flow[:, 2:], flow[:, :2]], 1)


def _resized(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    return x if x.shape[-2:] == size else F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check_frames(first: Tensor, second: Tensor) -> None:
    if first.ndim != 4 or first.shape[1] != 3 or first.shape != second.shape or not first.is_floating_point():
        raise InputError(
            "expected two batches of frames (B, 3, H, W) of floats in [0, 1] and of one size, "
            f"got {tuple(first.shape)} {first.dtype} and {tuple(second.shape)} {second.dtype}"
        )


VARIANTS = {"rife_hdv3": IFNetConfig(), "rife_nano": IFNetConfig(width=32)}
"""Configurations of the registered networks."""


def build(name: str, **overrides: Any) -> IFNet:
    """Build the registered network `name` with random weights.

    Args:
        **overrides: fields of `IFNetConfig`.

    Raises:
        InputError: an unknown field, or a value that is not possible.
    """
    return IFNet(configure(VARIANTS[name], overrides))


__all__ = ["SCALES", "VARIANTS", "IFBlock", "IFNet", "IFNetConfig", "Stage", "build", "warp"]
