"""A field over space and time, factored into six planes per level (HexPlane, as in 4DGaussians and MoDec-GS).

Shapes: n points, C channels, L levels, R cells along an axis of space, T along time.

Cost of one query, compared with the plain form, which samples six planes per level one by one (12 calls of `grid_sample` for two
levels, 24 for the two fields of a MoDec-GS):

* Planes of equal size are one parameter, so that a level takes two calls: 4 for two levels, 8 for both fields.
* All points share one time: the three planes over time are interpolated along time once, to rows (C, R), so that a point costs
  three bilinear and three linear lookups instead of six bilinear ones.

`plain_features` is the plain form; a test checks that both, and their gradients, are equal. On a CPU, compiled loops read the same
planes without `grid_sample` (`lookup.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .lookup import can_read, read_levels

AXES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
"""The axes (of x, y, z, t) that each plane (a, b) spans, in the published order: b along its height, a along its width."""

TIME = 3


class HexPlane(nn.Module):
    """Points (n, 3) and a time -> features (n, C * L).

    Space is mapped from `box` to [-1, 1]; its first row, the box's maximum, becomes -1, as in the published code. Time is not
    mapped: times in [0, 1] read the upper half of every time axis. Points outside get the border's values.
    """

    box: Tensor

    def __init__(self, resolution: tuple[int, ...], channels: int, levels: tuple[int, ...]):
        super().__init__()
        self.resolution, self.channels, self.levels = tuple(resolution), channels, tuple(levels)
        self.register_buffer("box", torch.tensor([[1.6] * 3, [-1.6] * 3]))
        self.groups = plane_groups(self.resolution)
        self.planes: Any = nn.ModuleList(
            nn.ParameterList(
                # the channels of a cell lie together in memory, which `lookup.py` reads
                torch.empty(len(group), channels, *plane_size(self.resolution, level, group[0])).to(
                    memory_format=torch.channels_last
                )
                for group in self.groups
            )
            for level in self.levels
        )
        self.reset_parameters()

    @property
    def out_dim(self) -> int:
        return self.channels * len(self.levels)

    def reset_parameters(self) -> None:
        """Planes of space are uniform in [0.1, 0.5], planes over time are 1 (no motion)."""
        for level in self.planes:
            for group, planes in zip(self.groups, level, strict=True):
                if TIME in AXES[group[0]]:
                    nn.init.ones_(planes)
                else:
                    nn.init.uniform_(planes, 0.1, 0.5)

    def set_box(self, points: Tensor) -> None:
        """Set the box of the field so that it spans `points` (m, 3)."""
        self.box.copy_(torch.stack([points.amax(0), points.amin(0)]))

    def plane(self, level: int, index: int) -> Tensor:
        """One plane (1, C, height, width), by its place in `AXES`."""
        for group, planes in zip(self.groups, self.planes[level], strict=True):
            if index in group:
                place = group.index(index)
                return planes[place : place + 1]
        raise IndexError(index)

    def normalized(self, points: Tensor) -> Tensor:
        """Points (n, 3) in the field's coordinates."""
        return (points - self.box[0]) * (2.0 / (self.box[1] - self.box[0])) - 1.0

    def forward(self, points: Tensor, time: float) -> Tensor:
        """Features (n, C * L) of `points` (n, 3) at one time."""
        places = self.normalized(points)
        if len(self.groups) == 2 and can_read(places, self.planes[0][0]):
            rows = [interpolate_rows(level[1], time) for level in self.planes]
            return read_levels(places, [level[0] for level in self.planes], rows)
        return self.stacked_features(places, time)

    def stacked_features(self, places: Tensor, time: float) -> Tensor:
        """`forward` in torch, for any device and precision; `places` (n, 3) are in the field's coordinates."""
        features = []
        for level in self.planes:
            product: Tensor | float = 1.0
            for group, planes in zip(self.groups, level, strict=True):
                if TIME in AXES[group[0]]:
                    rows = interpolate_rows(planes, time)
                    first = torch.stack([places[:, AXES[index][0]] for index in group])
                    grid = torch.stack([first, torch.zeros_like(first)], dim=-1)
                    sampled = _sample(rows[:, :, None], grid)
                else:
                    grid = torch.stack([places[:, AXES[index]] for index in group])
                    sampled = _sample(planes, grid)
                product = product * sampled.prod(0)
            features.append(product)
        return torch.cat(features).t()

    def plain_features(self, points: Tensor, times: Tensor) -> Tensor:
        """Features (n, C * L) of `points` (n, 3), each at its own time (n,): six lookups per level."""
        places = torch.cat([self.normalized(points), times[:, None]], dim=1)
        features = []
        for level in range(len(self.levels)):
            product: Tensor | float = 1.0
            for index, axes in enumerate(AXES):
                product = product * _sample(self.plane(level, index), places[None, :, axes])[0]
            features.append(product)
        return torch.cat(features).t()


def interpolate_rows(planes: Tensor, time: float) -> Tensor:
    """Planes over time (g, C, T, R) at one time of their axis [-1, 1] -> rows (g, C, R)."""
    steps = planes.shape[2]
    place = min(max((time + 1) / 2 * (steps - 1), 0.0), float(steps - 1))
    below = min(int(place), steps - 2)
    pair = planes[:, :, below : below + 2]  # one slice, as the gradient of each slice is as large as the planes
    return torch.lerp(pair[:, :, 0], pair[:, :, 1], place - below)


def _sample(planes: Tensor, grid: Tensor) -> Tensor:
    """Planes (g, C, h, w) at places (g, n, 2) -> (g, C, n)."""
    sampled = F.grid_sample(planes, grid[:, None], mode="bilinear", padding_mode="border", align_corners=True)
    return sampled[:, :, 0]


def plane_size(resolution: tuple[int, ...], level: int, index: int) -> tuple[int, int]:
    """Height and width of a plane. A level multiplies cells of space, not of time."""
    sides = [side * level for side in resolution[:TIME]] + [resolution[TIME]]
    a, b = AXES[index]
    return sides[b], sides[a]


def plane_groups(resolution: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Places in `AXES` of planes that have one size and are all over time or all over space: two groups for a cube."""
    groups: dict[tuple, list[int]] = {}
    for index, axes in enumerate(AXES):
        groups.setdefault((TIME in axes, plane_size(resolution, 1, index)), []).append(index)
    return tuple(map(tuple, groups.values()))


__all__ = ["AXES", "TIME", "HexPlane", "interpolate_rows", "plane_groups", "plane_size"]
