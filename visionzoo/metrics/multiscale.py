"""MS-SSIM, structural similarity over five scales (Wang, Simoncelli, Bovik, Asilomar 2003).

Computed as `ms_ssim` of the package pytorch-msssim does, which published evaluations of dynamic scenes call: per channel, windows
inside the image only, and a side that is odd is padded by a zero at both ends before it is halved.

Written here because torchmetrics averages the last scale over reflected borders, which is up to 0.015 off for small images, and
pytorch-msssim computes in single precision.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from visionzoo.errors import InputError

from .restoration import WINDOW, similarity_terms, unit

EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weight of each scale, the finest first."""

SMALLEST = (WINDOW - 1) * 2 ** (len(EXPONENTS) - 1) + 1
"""Smallest side in pixels: the coarsest scale has to hold a window."""


def ms_ssim(prediction: Tensor, reference: Tensor) -> float:
    """Multi-scale structural similarity in [0, 1]; equal images reach 1. Computed in float64.

    Args:
        prediction: (3, H, W), uint8, or float in [0, 1].
        reference: the same.

    Raises:
        InputError: shapes that differ, sides below 161 pixels, or values outside [0, 1].
    """
    shape = tuple(prediction.shape)
    if len(shape) != 3 or shape != tuple(reference.shape):
        raise InputError(
            f"prediction has shape {shape} and reference {tuple(reference.shape)}, expected (3, H, W) twice"
        )
    if min(shape[1:]) < SMALLEST:
        raise InputError(
            f"MS-SSIM needs {SMALLEST} x {SMALLEST} pixels or more, got {shape[1]} x {shape[2]}; use SSIM instead"
        )
    ours, theirs = unit(prediction), unit(reference)
    total = ours.new_ones(len(ours))
    for scale, exponent in enumerate(EXPONENTS):
        if scale:
            ours, theirs = _halved(ours), _halved(theirs)
        values = []
        for x, y in zip(ours, theirs, strict=True):
            luminance, contrast = similarity_terms(x, y)
            values.append((luminance * contrast if scale == len(EXPONENTS) - 1 else contrast).mean())
        total = total * torch.stack(values).clamp_min(0) ** exponent
    return float(total.mean())


def _halved(images: Tensor) -> Tensor:
    """Means of 2 x 2 pixels."""
    return F.avg_pool2d(images, 2, padding=(images.shape[1] % 2, images.shape[2] % 2))


__all__ = ["EXPONENTS", "SMALLEST", "ms_ssim"]
