"""Losses of the published recipe: image losses, and regularizers of the planes.

Dynamics losses of the published code are switched off in all its configurations and do not exist here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from visionzoo.errors import InputError
from visionzoo.metrics.restoration import HALO, K1, K2, gaussian_weights

from .hexplane import AXES, TIME, HexPlane
from .model import MoDecGS

SSIM_SHARE = 0.2


def photometric_loss(image: Tensor, target: Tensor) -> Tensor:
    """L1 + 0.2 (1 - SSIM) of images (3, H, W) or (B, 3, H, W) in [0, 1]; the mean over a batch.

    Raises:
        InputError: images of two shapes.
    """
    if image.shape != target.shape:
        raise InputError(f"image and target must have equal shapes, got {tuple(image.shape)} and {tuple(target.shape)}")
    return (image - target).abs().mean() + SSIM_SHARE * (1 - ssim_map(image, target).mean())


def ssim_map(image: Tensor, target: Tensor) -> Tensor:
    """The SSIM of every pixel, images being continued by zeros: (3, H, W) or (B, 3, H, W) -> (B, 3, H, W), differentiable.

    `visionzoo.metrics.ssim` measures instead: in float64, and only where the window lies inside.
    """
    x, y = image[None] if image.ndim == 3 else image, target[None] if target.ndim == 3 else target
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _smooth(torch.cat([x, y, x * x, y * y, x * y])).chunk(5)
    variances = mean_xx + mean_yy - mean_x.square() - mean_y.square()
    covariance = mean_xy - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    return (
        (2 * mean_x * mean_y + c1)
        * (2 * covariance + c2)
        / ((mean_x.square() + mean_y.square() + c1) * (variances + c2))
    )


def _smooth(images: Tensor) -> Tensor:
    """Gaussian means over windows of 11 x 11: (..., H, W) -> (..., H, W).

    Products with two banded matrices: on a CPU about 20 times as fast as two convolutions, with gradients, for images of 128 x 128.
    """
    height, width = images.shape[-2:]
    return _band(height, images.dtype, images.device) @ (images @ _band(width, images.dtype, images.device))


@lru_cache(maxsize=16)
def _band(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(length, length), symmetric: row i holds the window around i."""
    weights = gaussian_weights()
    with torch.inference_mode(False):
        band = torch.zeros(length, length, dtype=torch.float64)
        for shift, weight in zip(range(-HALO, HALO + 1), weights, strict=True):
            if abs(shift) < length:
                band.diagonal(shift).fill_(weight)
        return band.to(device, dtype)


@dataclass(frozen=True)
class PlaneWeights:
    """Weights of the three terms of `plane_terms`."""

    smoothness: float
    time_smoothness: float
    constancy: float


GLOBAL_WEIGHTS = PlaneWeights(1e-4, 5e-4, 5e-5)
LOCAL_WEIGHTS = PlaneWeights(2e-4, 1e-3, 1e-4)


def plane_terms(field: HexPlane) -> Tensor:
    """(3,): how rough the planes of space are, how rough those over time, and how far those are from 1.

    Sums over planes and levels. Roughness is the mean squared second difference along a plane's height: its second axis of space,
    or time. The planes' width is ignored, as in the published code.
    """
    smoothness = time_smoothness = constancy = field.box.new_zeros(())
    for level in field.planes:
        for group, planes in zip(field.groups, level, strict=True):
            if planes.shape[2] > 2:
                roughness = len(group) * planes.diff(n=2, dim=2).square().mean()
            else:
                roughness = planes.new_zeros(())
            if TIME in AXES[group[0]]:
                time_smoothness = time_smoothness + roughness
                constancy = constancy + len(group) * (1 - planes).abs().mean()
            else:
                smoothness = smoothness + roughness
    return torch.stack([smoothness, time_smoothness, constancy])


def regularization_loss(
    model: MoDecGS, global_weights: PlaneWeights = GLOBAL_WEIGHTS, local_weights: PlaneWeights = LOCAL_WEIGHTS
) -> Tensor:
    """The weighted plane terms of both fields; added in the fine stage."""
    total = model.anchors["positions"].new_zeros(())
    for deformation, w in ((model.global_deformation, global_weights), (model.local_deformation, local_weights)):
        if deformation is not None:
            terms = plane_terms(deformation.field.planes)
            total = total + terms @ terms.new_tensor([w.smoothness, w.time_smoothness, w.constancy])
    return total


__all__ = [
    "GLOBAL_WEIGHTS",
    "LOCAL_WEIGHTS",
    "PlaneWeights",
    "photometric_loss",
    "plane_terms",
    "regularization_loss",
    "ssim_map",
]
