"""Keypoints with local affine motion: the detector, and the transfer of a driver's movement to the source.

Shapes: B images, K keypoints; positions are (x, y) in [-1, 1] from the centre of the first pixel to that of the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from visionzoo.devices import without_autocast
from visionzoo.errors import InputError

from .blocks import Hourglass, antialias_downsample, coordinate_grid, full_precision
from .config import MCNetConfig


class Keypoints(NamedTuple):
    """Positions `value` (B, K, 2), and `jacobian` (B, K, 2, 2) of the motion around them; float32 in networks of any precision."""

    value: Tensor
    jacobian: Tensor

    def at(self, items: slice | Tensor) -> Keypoints:
        """The keypoints of some of the images."""
        return Keypoints(self.value[items], self.jacobian[items])


@dataclass(frozen=True)
class Detection:
    """Intermediate results of the detector; h x w is the size of the map after its 7 x 7 kernel without padding."""

    small: Tensor
    """(B, 3, H * scale, W * scale)"""
    features: Tensor
    """(B, C, H * scale, W * scale), output of the hourglass"""
    logits: Tensor
    """(B, K, h, w)"""
    heatmap: Tensor
    """(B, K, h, w), sums to 1"""
    jacobian_map: Tensor
    """(B, K, 4, h, w)"""
    keypoints: Keypoints


class KeypointDetector(nn.Module):
    """Images (B, 3, H, W), RGB in [0, 1] -> `Keypoints`, learned without labels (first order motion model, arXiv 2003.00196).

    A keypoint is the mean position under its heat map, and its jacobian the mean of a map of 2x2 matrices.
    """

    def __init__(self, config: MCNetConfig):
        super().__init__()
        self.config = c = config
        self.hourglass = Hourglass(3, c.detector_channels, c.detector_max_channels, c.detector_blocks)
        # no padding, because keypoints near the border would be affected by zeros
        self.heatmap = nn.Conv2d(self.hourglass.out_channels, c.num_keypoints, 7)
        self.jacobian = nn.Conv2d(self.hourglass.out_channels, 4 * c.num_keypoints, 7)
        assert self.jacobian.bias is not None
        nn.init.zeros_(self.jacobian.weight)
        self.jacobian.bias.data.copy_(torch.tensor([1.0, 0, 0, 1]).repeat(c.num_keypoints))

    def forward(self, x: Tensor) -> Keypoints:
        """Keypoints of images. Raises `InputError` for sides that are not multiples of `config.size_multiple`."""
        return self.detect(x).keypoints

    def detect(self, x: Tensor) -> Detection:
        """Keypoints and intermediate results; errors as for `forward`."""
        check_images(x, self.config)
        small = antialias_downsample(x, self.config.scale_factor)
        features = self.hourglass(small.to(self.heatmap.weight.dtype))
        logits = self.heatmap(features)
        maps = full_precision(self.jacobian(features)).unflatten(1, (self.config.num_keypoints, 4))
        heatmap = (full_precision(logits) / self.config.temperature).flatten(2).softmax(2).view_as(logits)
        grid = coordinate_grid(*logits.shape[2:], like=heatmap)
        with without_autocast(x.device):
            value = torch.einsum("bkhw,hwc->bkc", heatmap, grid)
            jacobian = torch.einsum("bkhw,bkjhw->bkj", heatmap, maps).unflatten(2, (2, 2))
        return Detection(small, features, logits, heatmap, maps, Keypoints(value, jacobian))


def check_images(x: Tensor, config: MCNetConfig, name: str = "images") -> None:
    """Raise `InputError` unless `x` is (B, 3, H, W) with sides that the networks support."""
    multiple, least = config.size_multiple, config.smallest_side
    fits = (
        x.ndim == 4 and x.shape[1] == 3 and len(x) and not any(side % multiple or side < least for side in x.shape[2:])
    )
    if not fits or not x.is_floating_point():
        raise InputError(
            f"expected {name} (B, 3, H, W), float in [0, 1], with sides that are multiples of {multiple} and at least {least}, got "
            f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}"
        )


def gaussian_heatmaps(value: Tensor, height: int, width: int, variance: float) -> Tensor:
    """Positions (B, K, 2) -> maps (B, K, height, width), 1 at the keypoint."""
    grid = coordinate_grid(height, width, like=value)
    distance = (grid - value[:, :, None, None]).square().sum(-1)
    return torch.exp(-0.5 * distance / variance)


def inverse_2x2(matrix: Tensor) -> Tensor:
    """The inverse of matrices (..., 2, 2) in closed form; not finite where there is none."""
    a, b, c, d = matrix.flatten(-2).unbind(-1)
    return torch.stack([d, -b, -c, a], -1).unflatten(-1, (2, 2)) / (a * d - b * c)[..., None, None]


# Transfer of movement


def hull_area(points: Tensor) -> float:
    """Area of the convex hull of points (K, 2), by Andrew's monotone chain; 0 for fewer than three or on a line."""
    ordered = sorted({(float(x), float(y)) for x, y in points.detach().double().cpu()})

    def chain(run: list[tuple[float, float]]) -> list[tuple[float, float]]:
        hull: list[tuple[float, float]] = []
        for point in run:
            while len(hull) > 1 and _turn(hull[-2], hull[-1], point) <= 0:
                hull.pop()
            hull.append(point)
        return hull[:-1]

    hull = chain(ordered) + chain(ordered[::-1])
    following = hull[1:] + hull[:1]
    return 0.5 * abs(sum(x * v - u * y for (x, y), (u, v) in zip(hull, following, strict=True)))


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    """Positive if a -> b -> c turns to the left."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def movement_scale(source: Keypoints, initial: Keypoints) -> float:
    """Size of the source's face relative to the driver's in its first frame: square root of the ratio of the hull areas.

    It uses the first item of each batch, and is 1 if a hull has no area.
    """
    here, there = hull_area(source.value[0]), hull_area(initial.value[0])
    return (here / there) ** 0.5 if here > 0 and there > 0 else 1.0


def transfer_motion(
    source: Keypoints,
    driving: Keypoints,
    initial: Keypoints | None = None,
    *,
    mode: Literal["relative", "absolute"] = "relative",
    adapt_scale: bool = False,
    relative_jacobian: bool = True,
) -> Keypoints:
    """Target keypoints of the source for each driving frame.

    "absolute" uses the driver's keypoints unchanged, which gives the source's face the driver's position and shape. "relative"
    moves the source's keypoints as the driver's have moved since `initial`, where the result is exactly the source's keypoints.

    Args:
        source: keypoints of the source image, batch 1 (or B).
        driving: keypoints of B driving frames.
        initial: keypoints of the driver's frame with the source's pose; batch 1 (or B). Needed for "relative" and `adapt_scale`.
        adapt_scale: multiply movements by `movement_scale`.
        relative_jacobian: transfer the change of jacobians; otherwise use the driver's jacobians.

    Raises:
        InputError: the mode is unknown, or `initial` is needed but missing.
    """
    if mode not in ("relative", "absolute"):
        raise InputError(f"mode must be 'relative' or 'absolute', got {mode!r}")
    if mode == "absolute":
        return driving
    if initial is None:
        raise InputError("relative motion needs `initial`, the keypoints of the driver's first frame")
    scale = movement_scale(source, initial) if adapt_scale else 1.0
    value = scale * (driving.value - initial.value) + source.value
    if not relative_jacobian:
        return Keypoints(value, driving.jacobian.expand(*value.shape, 2))
    # J_d J_0^-1 J_s, computed without rounding errors if J_d = J_0
    change = (driving.jacobian - initial.jacobian) @ (inverse_2x2(initial.jacobian) @ source.jacobian)
    return Keypoints(value, source.jacobian + change)
