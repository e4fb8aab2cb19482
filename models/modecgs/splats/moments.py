"""The mean of Gaussians that differ from view to view, and colours that depend on the view as spherical harmonics.

Shapes: V views, n Gaussians, K = (degree + 1)² harmonics.
"""

from __future__ import annotations

import torch
from torch import Tensor

from visionzoo.splatting import rotation_matrices
from visionzoo.splatting.harmonics import basis

RIDGE = 1e-4
"""Pulls harmonics that no view determines to 0, in units of the views' total weight."""


def mean_shape(quats: Tensor, scales: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The Gaussians of the mean covariance over views.

    Args:
        quats: (V, n, 4) of any length; those that have no direction count as no rotation.
        scales: (V, n, 3), of any sign.
        weights: (V, n), positive for at least one view of each Gaussian.

    Returns:
        Unit quaternions (n, 4) and positive scales (n, 3).
    """
    usable = quats.isfinite().all(-1, keepdim=True) & (quats.square().sum(-1, keepdim=True) > 0)
    quats = torch.where(usable, quats, quats.new_tensor([1.0, 0, 0, 0]))
    axes = rotation_matrices(quats) * scales.unsqueeze(-2) * (weights / weights.sum(0)).sqrt()[..., None, None]
    sides = (
        axes.permute(1, 2, 0, 3).flatten(2).double()
    )  # (n, 3, 3 V); their squares are small differences for flat Gaussians
    covariances = sides @ sides.mT
    variances, directions = torch.linalg.eigh(covariances)
    directions = directions * torch.linalg.det(directions).sign()[:, None, None]  # a rotation, not a reflection
    return quaternions(directions).float(), variances.clamp_min(0).sqrt().float()


def quaternions(rotations: Tensor) -> Tensor:
    """Unit quaternions (n, 4), w first, of rotation matrices (n, 3, 3)."""
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in rotations.unbind(-2))
    w, x, y, z = 1 + a + e + i, 1 + a - e - i, 1 - a + e - i, 1 - a - e + i
    # row j is 4 q_j q, which has the direction of q; the row with the largest q_j is exact
    products = torch.stack(
        [w, h - f, c - g, d - b, h - f, x, b + d, c + g, c - g, b + d, y, f + h, d - b, c + g, f + h, z], dim=-1
    ).unflatten(-1, (4, 4))
    largest = torch.stack([w, x, y, z], dim=-1).argmax(-1)
    return torch.nn.functional.normalize(products[torch.arange(len(rotations), device=largest.device), largest], dim=-1)


def fit_harmonics(directions: Tensor, colors: Tensor, weights: Tensor, degree: int) -> Tensor:
    """Spherical harmonics (n, K, 3) whose colours are closest to those of all views, by weighted least squares.

    Args:
        directions: (V, n, 3) unit vectors from the camera to the Gaussian.
        colors: (V, n, 3) in [0, 1].
        weights: (V, n) of at least 0.
        degree: 0 to 3.
    """
    total = weights.sum(0).clamp_min(1e-12)
    shares = (weights / total).T.unsqueeze(-1)  # (n, V, 1)
    values = basis(degree, directions).transpose(0, 1)  # (n, V, K)
    wanted = (colors - 0.5).transpose(0, 1)  # (n, V, 3)
    scaled = (values * shares).mT
    matrix = (scaled @ values).double()
    penalty = torch.full((values.shape[-1],), RIDGE, dtype=matrix.dtype, device=matrix.device)
    penalty[0] = 1e-9  # the mean colour is free
    factor = torch.linalg.cholesky(matrix + torch.diag(penalty))
    return torch.cholesky_solve((scaled @ wanted).double(), factor).float()


__all__ = ["fit_harmonics", "mean_shape", "quaternions"]
