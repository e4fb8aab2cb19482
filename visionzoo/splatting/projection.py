"""Projects Gaussians in space to ellipses in an image, in differentiable torch; `cpu_projection.py` is its compiled form.

The 2D covariance is never formed from a 3D one. With P = J W R S (2 x 3: camera, rotation and scale), it is P Pᵀ, and its
determinant is the squared length of the cross product of P's rows: sums of squares, which lose no digits for long, thin Gaussians.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .rules import (
    ALPHA_FLOOR,
    COMPENSATION_FLOOR,
    LAMBDA_SPREAD_FLOOR,
    LARGEST_INPUT,
    LARGEST_PIXELS,
    MAX_SIGMAS,
    NEAREST,
    TILE,
    Rules,
)


class ProjectionSettings(NamedTuple):
    """How Gaussians are projected, and which are culled; see `render`.

    Attributes:
        width, height: of the images, in pixels.
        near_plane: None: that of the rules.
    """

    width: int
    height: int
    rules: Rules
    near_plane: float | None
    far_plane: float
    radius_clip: float
    eps2d: float
    antialiased: bool

    @property
    def near(self) -> float:
        """Distance in front of the camera below which Gaussians are culled."""
        return max(self.rules.near_plane if self.near_plane is None else self.near_plane, NEAREST)


@dataclass(frozen=True)
class Projection:
    """Gaussians seen by the cameras. A culled Gaussian has radii of 0 and only finite values.

    Attributes:
        means2d: (..., C, N, 2) centres in pixels; the centre of the first pixel is (0.5, 0.5).
        depths: (..., C, N) distances along the viewing direction.
        ellipses: (..., C, N, 3): a, k and q of the exponent -(a (dx - k dy)² + q dy²) / 2, the LDLᵀ form of the inverse
            covariance. It is more precise than the usual form and gives the pixels of a row directly.
        compensations: (..., C, N) factors by which antialiasing reduces the opacities.
        radii: (..., C, N, 2) int32, in pixels; 0 if the Gaussian is not drawn.
        rectangles: (..., C, N, 4) int32: first x, first y, last x + 1 and last y + 1, in whole tiles within the image.
    """

    means2d: Tensor
    depths: Tensor
    ellipses: Tensor
    compensations: Tensor
    radii: Tensor
    rectangles: Tensor

    @property
    def conics(self) -> Tensor:
        """The entries xx, xy and yy of the inverse 2D covariance, as in gsplat, (..., C, N, 3)."""
        a, k, q = self.ellipses.unbind(-1)
        return torch.stack([a, -a * k, q + a * k * k], -1)

    @property
    def tiles_per_gauss(self) -> Tensor:
        """Number of tiles of 16 pixels in which each Gaussian is drawn, (..., C, N) int32."""
        left, top, right, bottom = ((self.rectangles + TILE - 1) // TILE).unbind(-1)
        return (right - left) * (bottom - top)


# R = 1 + L (q qᵀ) of a unit quaternion w, x, y, z: the entries of q qᵀ that make up each entry of R, row by row
_PRODUCTS = (
    ((10, -2), (15, -2)), ((6, 2), (3, -2)), ((7, 2), (2, 2)),
    ((6, 2), (3, 2)), ((5, -2), (15, -2)), ((11, 2), (1, -2)),
    ((7, 2), (2, -2)), ((11, 2), (1, 2)), ((5, -2), (10, -2)),
)  # fmt: skip
_COMBINE = [[dict(entry).get(product, 0) for product in range(16)] for entry in _PRODUCTS]


def rotation_matrices(quats: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4), w first, of any length but 0."""
    return _rotations(quats).movedim(-1, -3)


def _rotations(quats: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3, N) of quaternions (..., N, 4)."""
    q = quats.mT
    products = q.unsqueeze(-2) * (q / q.square().sum(-2, keepdim=True)).unsqueeze(-3)
    turned = torch.tensor(_COMBINE, dtype=q.dtype, device=q.device) @ products.flatten(-3, -2)
    return turned.unflatten(-2, (3, 3)) + torch.eye(3, dtype=q.dtype, device=q.device).unsqueeze(-1)


def project_usable(
    usable: Tensor,
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    opacities: Tensor | None,
    settings: ProjectionSettings,
) -> Projection:
    """Like `project`, for the Gaussians that are `usable` (..., N); the others are culled, with gradients of zero."""
    means, quats, scales = (
        torch.where(usable.unsqueeze(-1), value, other) for value, other in ((means, 0), (quats, 0.5), (scales, 0))
    )
    width, height, rules, _, far_plane, radius_clip, eps2d, antialiased = settings
    # from here on, the last dimension is that of the Gaussians, and the one before holds x and y: (..., C, 2, N)
    points = viewmats[..., :3, :3] @ means.mT.unsqueeze(-3) + viewmats[..., :3, 3:]
    z = points[..., 2, :]
    seen = usable.unsqueeze(-2) & (z > settings.near) & (z < far_plane)
    ahead = torch.tensor([[0], [0], [1]], dtype=points.dtype, device=points.device)
    points = torch.where(seen.unsqueeze(-2), points, ahead)
    z = points[..., 2:, :]
    slopes = points[..., :2, :] / z
    focal = Ks.diagonal(dim1=-2, dim2=-1)[..., :2, None]
    middle = Ks[..., :2, 2:]
    centres = focal * slopes + middle

    # Jacobian of the pinhole camera; its slope is limited outside the image, where the linear approximation breaks down
    size = torch.tensor([[width], [height]], dtype=points.dtype, device=points.device)
    margin = 0.15 * size / focal
    limited = torch.minimum(torch.maximum(slopes, -middle / focal - margin), (size - middle) / focal + margin)
    axes = _rotations(quats) * scales.mT.unsqueeze(-3)
    axes = (viewmats[..., :3, :3] @ axes.flatten(-2).unsqueeze(-3)).unflatten(-1, axes.shape[-2:])
    rows = (focal / z).unsqueeze(-2) * (axes[..., :2, :, :] - limited.unsqueeze(-2) * axes[..., 2:, :, :])
    with torch.no_grad():
        seen = seen & (torch.maximum(rows.abs().amax((-3, -2)), centres.abs().amax(-2)) < LARGEST_PIXELS)
    rows = torch.where(seen[..., None, None, :], rows, 0)
    centres = torch.where(seen.unsqueeze(-2), centres, 0)

    variances = rows.square().sum(-2)
    row_x, row_y = rows.unbind(-3)
    sharp = _cross_squared(row_x, row_y)
    det = sharp + eps2d * (variances.sum(-2) + eps2d)
    seen = seen & (det > 0)
    det = torch.where(seen, det, 1)
    variances = torch.where(seen.unsqueeze(-2), variances + eps2d, 1)
    yy = variances[..., 1, :]
    ellipses = torch.stack([yy / det, (row_x * row_y).sum(-2) / yy, 1 / yy], -1)
    compensations = _compensations(sharp / det, rules)

    with torch.no_grad():
        reach: Tensor | float = MAX_SIGMAS
        if opacities is not None:
            strength = opacities.unsqueeze(-2) * (compensations if antialiased else 1)
            reach = (2 * (strength / ALPHA_FLOOR).clamp(min=1).log()).sqrt().clamp(max=MAX_SIGMAS).unsqueeze(-2)
            seen = seen & (strength >= ALPHA_FLOOR)
        radii = _radii(variances, det, rules, reach)
        rectangles, inside = _rectangles(centres, radii, size, rules)
        seen = (seen & inside & (radii > radius_clip).any(-2)).unsqueeze(-1)
        radii, rectangles = radii.mT.to(torch.int32) * seen, rectangles * seen
    return Projection(centres.mT, z.squeeze(-2), ellipses, compensations, radii, rectangles)


def finite(means: Tensor, quats: Tensor, scales: Tensor) -> Tensor:
    """Whether all values are finite and not absurdly large, and the rotation is not zero; (..., N) bool."""
    with torch.no_grad():
        largest = torch.maximum(means.abs().amax(-1), scales.abs().amax(-1))
        length = quats.square().sum(-1)
        return (largest < LARGEST_INPUT) & (length > 0) & (length < LARGEST_INPUT)


def _cross_squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared length of the cross product of two (..., 3, N)."""
    (ax, ay, az), (bx, by, bz) = a.unbind(-2), b.unbind(-2)
    return (ay * bz - az * by).square() + (az * bx - ax * bz).square() + (ax * by - ay * bx).square()


def _compensations(ratio: Tensor, rules: Rules) -> Tensor:
    positive = ratio > 0
    root = torch.where(positive, torch.where(positive, ratio, 1).sqrt(), 0)
    return root.clamp(min=COMPENSATION_FLOOR) if rules.square else root


def _radii(variances: Tensor, det: Tensor, rules: Rules, reach: Tensor | float) -> Tensor:
    """Extents in x and y as integers, (..., 2, N)."""
    if rules.square:
        half = variances.mean(-2)
        largest = half + (half * half - det).clamp(min=LAMBDA_SPREAD_FLOOR).sqrt()
        radii = (3 * largest.sqrt()).unsqueeze(-2).expand_as(variances)
    else:
        radii = reach * variances.sqrt()
    return radii.ceil().clamp(max=2.0**30)


def _rectangles(centres: Tensor, radii: Tensor, size: Tensor, rules: Rules) -> tuple[Tensor, Tensor]:
    """The pixels of the tiles that a Gaussian touches (..., N, 4), and whether it touches the image at all."""
    low, high = centres - radii, centres + radii
    if rules.square:
        inside = True
        first, last = ((low - 0.5) / TILE).trunc(), ((high + (TILE - 1.5)) / TILE).trunc()
    else:
        inside = ((high > 0) & (low < size)).all(-2)
        first, last = (low / TILE).floor(), (high / TILE).ceil()
    first = torch.minimum(first.clamp(min=0) * TILE, size)
    last = torch.minimum(last.clamp(min=0) * TILE, size)
    rectangles = torch.cat([first, last], -2).mT.to(torch.int32)
    return rectangles, (first < last).all(-2) & inside
