"""The guided filter (He, Sun and Tang, "Guided Image Filtering", ECCV 2010; its fast form, arXiv 1505.00996)."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

STRIDE = 4
"""Pixels per side that are averaged before the windows are computed."""


def guided_filter(values: Tensor, guide: Tensor, radius: int, eps: float = 1e-4) -> Tensor:
    """Smooth maps where an image is smooth, and keep their edges where the image has edges.

    In every window, the result is a linear function of the guide (eq. 4 and 10), fitted at a quarter of the resolution.

    Args:
        values: (B, C, H, W) with sides that are multiples of 4, or their means over 4 x 4 pixels (B, C, H / 4, W / 4).
        guide: (B, 1, H, W), with values in a range of about 1.
        radius: radius of the windows in pixels, a multiple of 4; windows end at the border.
        eps: variance of the guide above which it counts as an edge.

    Returns:
        (B, C, H, W) float32.
    """
    reach, full = radius // STRIDE, guide.float()
    values = values.float() if STRIDE * values.shape[2] == full.shape[2] else F.avg_pool2d(values.float(), STRIDE)
    guide = F.avg_pool2d(full, STRIDE)
    means = _box(torch.cat([guide, guide * guide, values, guide * values], 1), reach)
    mean, square, middle, product = means.split([1, 1, values.shape[1], values.shape[1]], 1)
    slope = (product - mean * middle) / (square - mean * mean + eps)
    slope, level = _enlarged_box(torch.cat([slope, middle - slope * mean], 1), reach).chunk(2, 1)
    return torch.addcmul(level, slope, full)


def _box(x: Tensor, reach: int) -> Tensor:
    """The mean over neighbours within `reach` rows and columns."""
    if x.device.type == "cpu":
        return _separable(x, _box_matrix(x.shape[2], reach), _box_matrix(x.shape[3], reach))
    size = 2 * reach + 1
    x = F.avg_pool2d(x, (size, 1), 1, (reach, 0), count_include_pad=False)
    return F.avg_pool2d(x, (1, size), 1, (0, reach), count_include_pad=False)


def _enlarged_box(x: Tensor, reach: int) -> Tensor:
    """`_box`, enlarged to the full size by bilinear interpolation."""
    if x.device.type == "cpu":
        return _separable(x, _enlarged_box_matrix(x.shape[2], reach), _enlarged_box_matrix(x.shape[3], reach))
    return F.interpolate(_box(x, reach), scale_factor=STRIDE, mode="bilinear", align_corners=False)


# On a CPU, products with band matrices take a fifth of the time of pooling and interpolation. Not on other devices, where
# products may be computed with fewer digits (TF32), which the difference of two squares above would not survive.


def _separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows @ x @ columns^T for each map (B, C, H, W)."""
    return rows @ (x @ columns.T)


@cache
@torch.inference_mode(False)  # a cached tensor may be used with gradients later
def _box_matrix(side: int, reach: int) -> Tensor:
    """Matrix (side, side) that averages over positions within `reach`."""
    place = torch.arange(side)
    near = ((place[:, None] - place).abs() <= reach).double()
    return (near / near.sum(1, keepdim=True)).float()


@cache
@torch.inference_mode(False)
def _enlarged_box_matrix(side: int, reach: int) -> Tensor:
    """Matrix (4 * side, side) that averages and enlarges."""
    unit = torch.eye(side, dtype=torch.float64)[:, None]
    larger = F.interpolate(unit, scale_factor=STRIDE, mode="linear", align_corners=False)[:, 0].T
    return (larger @ _box_matrix(side, reach).double()).float()
