"""The guided filter (He, Sun and Tang, "Guided Image Filtering", ECCV 2010; its fast form, arXiv 1505.00996)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

STRIDE = 4
"""Pixels a side that are averaged before windows are looked at."""


def guided_filter(values: Tensor, guide: Tensor, radius: int, eps: float = 1e-4) -> Tensor:
    """Smooths maps where an image is smooth, and keeps their edges where it has edges.

    In every window the result is a linear function of the guide (eq. 4 and 10), fitted on a quarter of both sides.

    Args:
        values: (B, C, H, W), sides that are multiples of 4.
        guide: (B, 1, H, W), of a range of about 1.
        radius: of the windows in pixels, a multiple of 4; they end at the border.
        eps: variance of the guide from which on it counts as an edge.

    Returns:
        (B, C, H, W) float32.
    """
    reach = radius // STRIDE
    full, values = guide.float(), F.avg_pool2d(values.float(), STRIDE)
    guide = F.avg_pool2d(full, STRIDE)
    mean, middle = _box(guide, reach), _box(values, reach)
    slope = (_box(guide * values, reach) - mean * middle) / (_box(guide * guide, reach) - mean * mean + eps)
    level = middle - slope * mean
    return _enlarged(_box(slope, reach)) * full + _enlarged(_box(level, reach))


def _box(x: Tensor, reach: int) -> Tensor:
    """The mean of what lies within `reach` rows and columns."""
    size = 2 * reach + 1
    x = F.avg_pool2d(x, (size, 1), 1, (reach, 0), count_include_pad=False)
    return F.avg_pool2d(x, (1, size), 1, (0, reach), count_include_pad=False)


def _enlarged(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=STRIDE, mode="bilinear", align_corners=False)
