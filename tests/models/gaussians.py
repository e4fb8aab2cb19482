"""Random Gaussians, and what a camera sees of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from visionzoo.models.modecgs import Gaussians, draw

CENTER = torch.tensor([0.3, 0.2, -4.0])
VIEWMAT = torch.eye(4)
VIEWMAT[:3, 3] = -CENTER
K = torch.tensor([[70.0, 0, 32], [0, 70, 32], [0, 0, 1]])


def image(gaussians: Gaussians, center: Tensor = CENTER) -> Tensor:
    viewmat = VIEWMAT.clone()
    viewmat[:3, 3] = -center
    return draw(gaussians, viewmat, K, 64, 64).colors[0].clamp(0, 1)


def psnr(one: Tensor, other: Tensor) -> float:
    return -10 * float((one - other).square().mean().clamp_min(1e-12).log10())


def some(count: int = 600, degree: int | None = 3, spread: float = 1.0) -> Gaussians:
    """Random Gaussians; some are opaque, some flat."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    opacities = torch.rand(count, generator=generator).clamp_min(0.02)
    opacities[:3] = 1.0
    scales = (0.5 * normal(count, 3) - 3).exp()
    scales[3:6, 2] = 1e-4
    colors = (
        torch.rand(count, 3, generator=generator)
        if degree is None
        else (0.3 * normal(count, (degree + 1) ** 2, 3)).clamp(-0.98, 0.98)
    )
    means, quats = spread * normal(count, 3), F.normalize(normal(count, 4), dim=-1)
    return Gaussians(means, quats, scales, opacities, colors, sh_degree=degree)
