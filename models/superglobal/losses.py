"""The classification head that descriptors are trained with: ArcFace (Deng et al., CVPR 2019, arXiv 1801.07698)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.devices import without_autocast
from visionzoo.errors import InputError


def arcface_logits(cosines: Tensor, labels: Tensor, margin: float, scale: float) -> Tensor:
    """`cosines` (B, N) with the angle of each right class enlarged by `margin` radians, times `scale`.

    cos(t + m) falls only up to t + m = pi; beyond, cos(t) - m sin(m) keeps falling (as in the published code).
    Gradients are finite everywhere: at cos(t) = 1 or -1, where the angle has none, sin(t) counts as constant.
    """
    target = cosines.gather(1, labels[:, None])
    tiny = torch.finfo(cosines.dtype).eps
    sine = (1 - target.square()).clamp(min=tiny).sqrt()
    enlarged = target * math.cos(margin) - sine * math.sin(margin)
    enlarged = torch.where(target > math.cos(math.pi - margin), enlarged, target - margin * math.sin(margin))
    return scale * cosines.scatter(1, labels[:, None], enlarged.to(cosines.dtype))


class ArcFace(nn.Module):
    """Descriptors (B, D), of any length, and labels (B,) int64 -> logits (B, N) float32 for cross entropy.

    Args:
        dim: length of a descriptor (D).
        num_classes: number of classes (N).
        margin: added to the angle of the right class, radians.
        scale: factor of the logits.
    """

    def __init__(self, dim: int, num_classes: int, margin: float = 0.15, scale: float = 30.0):
        super().__init__()
        if num_classes < 2 or not 0 <= margin < math.pi / 2 or scale <= 0:
            raise InputError(
                "ArcFace needs two classes or more, a margin of 0 to 1.57 radians and a positive scale, "
                f"got {num_classes}, {margin} and {scale}"
            )
        self.margin, self.scale = margin, scale
        self.weight = nn.Parameter(torch.empty(num_classes, dim))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, descriptors: Tensor, labels: Tensor) -> Tensor:
        with without_autocast(descriptors.device):  # angles near 0 are lost in half precision
            wide = descriptors if descriptors.dtype == torch.float64 else descriptors.float()
            cosines = F.linear(F.normalize(wide, dim=-1), F.normalize(self.weight, dim=-1))
            return arcface_logits(cosines, labels, self.margin, self.scale)
