"""PSNR, SSIM and LPIPS of the masked part of an image, as DyCheck defines them (Gao et al., NeurIPS 2022, arXiv 2210.13445).

All take a mask of the pixels to compare, such as those that the training views have seen. Sums of PSNR and SSIM are float64.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from visionzoo.errors import InputError

from .frames import as_tensor
from .lpips import Lpips
from .restoration import K1, K2, WINDOW, check_image, gaussian_weights, image_planes

Image = Tensor | np.ndarray


def masked_psnr(prediction: Image, reference: Image, mask: Image) -> float:
    """Peak signal-to-noise ratio in dB over the pixels of a mask, infinite for equal images.

    What an edit must not change is measured with the inverted mask: `masked_psnr(edited, original, ~mask)`.

    Args:
        prediction: tensor (3, H, W) or array (H, W, 3): uint8, or float in [0, 1].
        reference: the same.
        mask: (H, W), bool, or weights in [0, 1].

    Raises:
        InputError: shapes differ, values are outside [0, 1], or the mask is 0 everywhere.
    """
    ours, theirs, weights = _checked(prediction, reference, mask)
    error = float(((ours - theirs).square() * weights).sum() / (weights.sum() * ours.shape[0]))
    return -10 * math.log10(error) if error > 0 else math.inf


def masked_ssim(prediction: Image, reference: Image, mask: Image) -> float:
    """Structural similarity with masked windows, at most 1. Arguments and errors as for `masked_psnr`.

    Each window uses only its pixels inside the mask, renormalized (a partial convolution, along width and then along height);
    windows without such pixels count as equal. The mean is over all windows inside the image, as in DyCheck's code, so a
    small mask moves the result towards 1.
    """
    ours, theirs, weights = _checked(prediction, reference, mask)
    if min(ours.shape[1:]) < WINDOW:
        raise InputError(
            f"SSIM needs {WINDOW} x {WINDOW} pixels or more, got {ours.shape[1]} x {ours.shape[2]}; use PSNR alone"
        )
    moments = torch.cat([ours, theirs, ours.square(), theirs.square(), ours * theirs])
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _partial_means(moments, weights).chunk(5)
    variance_x = (mean_xx - mean_x.square()).clamp_min(0)
    variance_y = (mean_yy - mean_y.square()).clamp_min(0)
    covariance = mean_xy - mean_x * mean_y
    most = (variance_x * variance_y).sqrt()
    covariance = covariance.clamp(-most, most)
    c1, c2 = K1**2, K2**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x.square() + mean_y.square() + c1) * (variance_x + variance_y + c2))
    return float(similarity.mean())


def masked_lpips(lpips: Lpips, prediction: Image, reference: Image, mask: Image) -> float:
    """Perceptual distance over the pixels of a mask: the mean of LPIPS' map of distances between images that are black elsewhere.

    DyCheck measures with AlexNet. Arguments and errors are those of `masked_psnr`, and images have to be large enough for `lpips`.
    """
    ours, theirs, weights = _checked(prediction, reference, mask)
    first, second = ((weights * image).float()[None] for image in (ours, theirs))
    with torch.no_grad():
        distances = lpips.spatial(first, second)[0].double()
    return float((distances * weights).sum() / weights.sum())


def _partial_means(images: Tensor, mask: Tensor) -> Tensor:
    """Gaussian means over the masked part of windows inside the image: (C, H, W), (H, W) -> (C, H - 10, W - 10)."""
    weights = torch.tensor(gaussian_weights(), dtype=images.dtype, device=images.device)
    values, inside = images[:, None], mask[None, None]
    for kernel in (weights[None, None, None, :], weights[None, None, :, None]):
        total = F.conv2d(values * inside, kernel)
        covered = F.conv2d(inside, torch.ones_like(kernel))
        values = torch.where(covered > 0, total * WINDOW / covered, 0.0)
        inside = (covered > 0).to(images.dtype)
    return values[:, 0]


def _checked(prediction: Image, reference: Image, mask: Image) -> tuple[Tensor, Tensor, Tensor]:
    """Both images (3, H, W) and the mask (H, W) in float64."""
    check_image(prediction, "prediction")
    check_image(reference, "reference")
    if prediction.ndim != 3 or prediction.shape != reference.shape:
        raise InputError(
            f"prediction has shape {tuple(prediction.shape)} and reference {tuple(reference.shape)}, expected two images "
            "of one size"
        )
    ours, theirs = image_planes(prediction, "prediction"), image_planes(reference, "reference")
    mask = as_tensor(mask, "the mask", "an array (H, W)")
    if mask.shape != ours.shape[1:]:
        raise InputError(
            f"the mask has shape {tuple(mask.shape)} and the images {tuple(ours.shape)}; resize it to (H, W)"
        )
    weights = mask.to(ours)
    if not float(weights.min()) >= 0 or not float(weights.max()) <= 1 or not float(weights.sum()) > 0:
        raise InputError("the mask must be between 0 and 1 and leave some pixels")
    return ours, theirs, weights


__all__ = ["masked_lpips", "masked_psnr", "masked_ssim"]
