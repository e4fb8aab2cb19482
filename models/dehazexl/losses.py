"""The loss that DehazeXL is trained with (published code; the paper names the first term only)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class RestorationLoss(NamedTuple):
    """Scalars; `total` is what to minimise."""

    total: Tensor
    spatial: Tensor
    frequency: Tensor


def restoration_loss(prediction: Tensor, clear: Tensor) -> RestorationLoss:
    """Mean absolute error of the pixels and of their Fourier transform.

    The second term is over real and imaginary parts of the unnormalised 2-D transform of each channel: it needs the whole image,
    not single patches.

    Args:
        prediction, clear: (B, 3, H, W) in [0, 1].
    """
    spatial = F.l1_loss(prediction, clear)
    difference = torch.fft.fft2((prediction - clear).float())  # the transform is linear
    frequency = torch.view_as_real(difference).abs().mean()
    return RestorationLoss(spatial + frequency, spatial, frequency)


def seam_loss(prediction: Tensor, clear: Tensor, patch: int = 256) -> Tensor:
    """Mean absolute error of the differences across the borders of patches: 0 where borders are not visible. Ours, not published.

    Args:
        prediction, clear: (B, 3, H, W).
        patch: side of a patch (or window) in pixels; an image of one gives 0.
    """
    error = prediction - clear
    steps = [
        (error[..., patch::patch, :] - error[..., patch - 1 : -1 : patch, :]).flatten(),
        (error[..., patch::patch] - error[..., patch - 1 : -1 : patch]).flatten(),
    ]
    jumps = torch.cat(steps)
    return jumps.abs().mean() if len(jumps) else error.sum() * 0
