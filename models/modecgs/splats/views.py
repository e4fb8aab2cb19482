"""Where a scene is looked at from while its view-dependent Gaussians are baked."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..model import MoDecGS

MOST_CENTERS = 64
"""Of more camera centres, evenly chosen ones are used."""

SPHERE_VIEWS = 64
"""Viewpoints on the sphere around the scene."""

SPHERE_SHARE = 0.1
"""Weight of the whole sphere where training cameras are known, whose weight is 1: it only steers colours that none of them saw."""


class Views(NamedTuple):
    """V viewpoints.

    Attributes:
        centers: (V, 3).
        weights: (V,), with the sum 1.
    """

    centers: Tensor
    weights: Tensor


@torch.no_grad()
def views_of(model: MoDecGS, centers: Tensor | None = None) -> Views:
    """The viewpoints for a scene: a sphere around it, and the centres (C, 3) of its training cameras if they are known.

    The sphere has the distance of the training cameras, or else twice the size of the scene.
    """
    anchors = model.anchors["positions"]
    middle = anchors.median(dim=0).values
    if centers is None or not len(centers):
        away = (anchors - middle).norm(dim=1)
        sphere = fibonacci_sphere(SPHERE_VIEWS).to(anchors)
        distance = 2 * float(away.quantile(0.9)) if len(away) < 1 << 24 else 2 * float(away.mean())
        return Views(middle + max(distance, 1e-6) * sphere, torch.full_like(sphere[:, 0], 1 / SPHERE_VIEWS))
    centers = centers.to(anchors)
    if len(centers) > MOST_CENTERS:
        chosen = torch.linspace(0, len(centers) - 1, MOST_CENTERS, device=centers.device).round().long()
        centers = centers[chosen]
    distance = float((centers - middle).norm(dim=1).mean())
    sphere = middle + max(distance, 1e-6) * fibonacci_sphere(SPHERE_VIEWS).to(anchors)
    weights = [(1 - SPHERE_SHARE) / len(centers)] * len(centers) + [SPHERE_SHARE / SPHERE_VIEWS] * SPHERE_VIEWS
    return Views(torch.cat([centers, sphere]), torch.tensor(weights).to(anchors))


def fibonacci_sphere(count: int) -> Tensor:
    """`count` evenly spread unit vectors (count, 3)."""
    place = torch.arange(count, dtype=torch.float64) + 0.5
    z = 1 - 2 * place / count
    angle = math.pi * (3 - math.sqrt(5)) * place
    ring = (1 - z.square()).sqrt()
    return torch.stack([ring * angle.cos(), ring * angle.sin(), z], dim=1).float()


__all__ = ["MOST_CENTERS", "SPHERE_VIEWS", "Views", "fibonacci_sphere", "views_of"]
