"""Dense motion from keypoints: the position in the source of each pixel of the result, and where the source cannot provide it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.devices import without_autocast

from .blocks import Hourglass, coordinate_grid, full_precision
from .config import MCNetConfig
from .keypoints import Keypoints, gaussian_heatmaps, inverse_2x2


@dataclass(frozen=True)
class MotionField:
    """Backward flow of B frames at h x w, a quarter of the images' sides; K + 1 candidates, the first of which is no motion."""

    heatmaps: Tensor
    """(B, K + 1, h, w): Gaussians of the driving keypoints less those of the source's"""
    candidates: Tensor
    """(B, K + 1, h, w, 2): flow near each keypoint, x and y in [-1, 1]"""
    deformed: Tensor
    """(B, K + 1, 3, h, w): the source moved by each candidate"""
    features: Tensor
    """(B, C, h, w), output of the hourglass"""
    mask: Tensor
    """(B, K + 1, h, w): share of each candidate, sums to 1"""
    flow: Tensor
    """(B, h, w, 2) float32"""
    occlusion: Tensor
    """(B, 1, h, w) float32 in [0, 1]: how much of the moved source can be used; 0 where new content must be painted"""


class DenseMotion(nn.Module):
    """Reduced source images and keypoints -> `MotionField`."""

    def __init__(self, config: MCNetConfig):
        super().__init__()
        self.config = c = config
        candidates = c.num_keypoints + 1
        self.hourglass = Hourglass(4 * candidates, c.motion_channels, c.motion_max_channels, c.motion_blocks)
        self.mask = nn.Conv2d(self.hourglass.out_channels, candidates, 7, padding=3)
        self.occlusion = nn.Conv2d(self.hourglass.out_channels, 1, 7, padding=3)

    def forward(
        self, small: Tensor, source: Keypoints, driving: Keypoints, source_heatmaps: Tensor | None = None
    ) -> MotionField:
        """
        Args:
            small: source images (S, 3, h, w), S being 1 or B.
            source: their keypoints (S, K).
            driving: target keypoints (B, K).
            source_heatmaps: `heatmaps_of(source)`, if known.
        """
        batch, (height, width) = len(driving.value), small.shape[2:]
        if source_heatmaps is None:
            source_heatmaps = self.heatmaps_of(source, height, width)
        change = self.heatmaps_of(driving, height, width) - source_heatmaps
        heatmaps = F.pad(change, (0, 0, 0, 0, 1, 0))
        with without_autocast(small.device):
            candidates = candidate_flows(source, driving, height, width)
        small = small.to(candidates.dtype).expand(batch, -1, -1, -1)
        # as published: the grid ends at the centres of the outermost pixels, but is read as if it ended at the image's edges
        moved = F.grid_sample(
            small.repeat_interleave(candidates.shape[1], 0), candidates.flatten(0, 1), align_corners=False
        )
        deformed = moved.unflatten(0, candidates.shape[:2])
        inputs = torch.cat([heatmaps.unsqueeze(2), deformed], 2).flatten(1, 2)
        features = self.hourglass(inputs.to(self.mask.weight.dtype))
        mask = full_precision(self.mask(features)).softmax(1)
        with without_autocast(small.device):
            flow = torch.einsum("bkhw,bkhwc->bhwc", mask, candidates)
        occlusion = full_precision(self.occlusion(features)).sigmoid()
        return MotionField(heatmaps, candidates, deformed, features, mask, flow, occlusion)

    def heatmaps_of(self, keypoints: Keypoints, height: int, width: int) -> Tensor:
        """(B, K, height, width)."""
        return gaussian_heatmaps(keypoints.value, height, width, self.config.keypoint_variance)


def candidate_flows(source: Keypoints, driving: Keypoints, height: int, width: int) -> Tensor:
    """Zero flow, and p_s + J_s J_d^-1 (z - p_d) for each keypoint (Eq. 4 of arXiv 2003.00196): (B, K + 1, height, width, 2).

    If a driving jacobian has no inverse, the keypoint's neighbourhood is only shifted.
    """
    grid = coordinate_grid(height, width, like=driving.value)
    affine = source.jacobian @ inverse_2x2(driving.jacobian)
    still = torch.eye(2, dtype=affine.dtype, device=affine.device)
    affine = torch.where(affine.isfinite().all(-1, keepdim=True).all(-2, keepdim=True), affine, still)
    offset = grid - driving.value[:, :, None, None]
    moved = torch.einsum("bkij,bkhwj->bkhwi", affine, offset) + source.value[:, :, None, None]
    return torch.cat([grid.expand(len(moved), 1, -1, -1, -1), moved], 1)


def resize_like(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), bilinear, corners kept in place."""
    return x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=True)


class Warp:
    """Moves maps of any resolution by one motion; flow and occlusion are resized once per resolution."""

    def __init__(self, motion: MotionField):
        self.motion = motion
        self._resized: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def at(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Flow (B, h, w, 2) and occlusion (B, 1, h, w) at a size."""
        if size not in self._resized:
            flow = resize_like(self.motion.flow.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
            self._resized[size] = flow, resize_like(self.motion.occlusion, size)
        return self._resized[size]

    def move(self, x: Tensor) -> Tensor:
        """(S, C, h, w) -> (B, C, h, w), S being 1 or B; zeros are read outside the map."""
        flow, _ = self.at((x.shape[2], x.shape[3]))
        # positions in half precision would be off by a pixel
        moved = F.grid_sample(x.to(flow.dtype).expand(len(flow), -1, -1, -1), flow, align_corners=True)
        return moved.to(x.dtype)

    def occlude(self, x: Tensor) -> Tensor:
        """(B, C, h, w) times the occlusion at its size."""
        return x * self.at((x.shape[2], x.shape[3]))[1].to(x.dtype)
