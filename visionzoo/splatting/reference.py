"""Compositing in dense torch, with every Gaussian at every pixel: slow, but exact in any precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .projection import Projection
from .rules import ALPHA_FLOOR, Rules


def splat(
    seen: Projection,
    opacities: Tensor,
    features: Tensor,
    width: int,
    height: int,
    rules: Rules,
    absolute: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the Gaussians of I images.

    Args:
        seen: the projection, with I instead of the batch and camera dimensions.
        opacities: (I, N)
        features: (I, N, D)
        absolute: (I, N, 2), not used; its gradient becomes the sum over pixels of the absolute gradients of the means.

    Returns:
        images (I, H, W, D), depths (I, H, W) and transmittances (I, H, W)
    """
    count = features.shape[0]
    results = [_image(seen, opacities, features, width, height, rules, absolute, i) for i in range(count)]
    if not results:
        return (
            features.new_zeros(0, height, width, features.shape[-1]),
            features.new_zeros(0, height, width),
            features.new_ones(0, height, width),
        )
    images, depths, left = (torch.stack(parts) for parts in zip(*results, strict=True))
    return images, depths, left


def _image(
    seen: Projection,
    opacities: Tensor,
    features: Tensor,
    width: int,
    height: int,
    rules: Rules,
    absolute: Tensor | None,
    i: int,
) -> tuple[Tensor, Tensor, Tensor]:
    depths = seen.depths[i]
    drawn = (seen.radii[i] > 0).all(-1).nonzero().squeeze(-1)
    order = drawn[depths.detach()[drawn].sort(stable=True).indices]
    like = depths
    y, x = (
        (torch.arange(size, dtype=like.dtype, device=like.device) + 0.5).view(shape)
        for size, shape in ((height, (-1, 1, 1)), (width, (1, -1, 1)))
    )
    left, top, right, bottom = seen.rectangles[i, order].unbind(-1)
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)
    means = seen.means2d[i, order]
    if absolute is not None:
        means = _ByPixel.apply(means, absolute[i, order], height, width)
    mean_x, mean_y = means.unbind(-1)
    a, k, q = seen.ellipses[i, order].unbind(-1)
    dy = y - mean_y
    along = x - mean_x - k * dy
    alpha = (opacities[i, order] * torch.exp(-0.5 * (a * along * along + q * dy * dy))).clamp(max=rules.alpha_cap)
    alpha = torch.where(inside & (alpha >= ALPHA_FLOOR), alpha, 0)
    after = (1 - alpha).cumprod(-1)
    # transmittance only falls, so everything after a Gaussian that would close the pixel is skipped too
    alpha = torch.where(after.detach() >= rules.closed_below, alpha, 0)
    after = (1 - alpha).cumprod(-1)
    before = torch.cat([after.new_ones(height, width, 1), after], -1)
    weights = alpha * before[..., :-1]
    return weights @ features[i, order], weights @ depths[order], before[..., -1]


class _ByPixel(torch.autograd.Function):
    """Copies the means (K, 2) for every pixel, (H, W, K, 2), to separate the gradients of the pixels."""

    @staticmethod
    def forward(ctx: Any, means: Tensor, _absolute: Tensor, height: int, width: int) -> Tensor:
        return means.expand(height, width, *means.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0].sum((0, 1)), grads[0].abs().sum((0, 1)), None, None
