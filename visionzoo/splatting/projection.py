"""From Gaussians in space to ellipses on an image, in differentiable torch: the part that all renderers on a CPU share.

The 2D covariance is never formed from a 3D one. With P = J W R S (2 x 3: camera, rotation and scale), it is P Pᵀ, and its
determinant is the squared length of the cross product of P's rows: sums of squares, which lose no digits for long, thin Gaussians.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .rules import ALPHA_FLOOR, COMPENSATION_FLOOR, LAMBDA_SPREAD_FLOOR, MAX_SIGMAS, TILE, Rules, rules_named

_LARGEST_INPUT = 1e18
_LARGEST_PIXELS = 1e9
"""Beyond these, float32 overflows on the way to a pixel; such Gaussians are culled."""


@dataclass(frozen=True)
class Projection:
    """Gaussians as the cameras see them. A culled Gaussian has radii of 0 and finite values everywhere.

    Attributes:
        means2d: (..., C, N, 2) centres in pixels; the centre of the first pixel is (0.5, 0.5).
        depths: (..., C, N) distances along the viewing direction.
        ellipses: (..., C, N, 3): a, k and q of the exponent -(a (dx - k dy)² + q dy²) / 2, the LDLᵀ form of the inverse
            covariance. It keeps digits that the usual form loses, and gives the pixels of a row directly.
        compensations: (..., C, N) factors by which antialiasing reduces the opacities.
        radii: (..., C, N, 2) int32, in pixels; 0 for what is not drawn.
        rectangles: (..., C, N, 4) int32: first x, first y, and the x and y after the last, in whole tiles within the image.
    """

    means2d: Tensor
    depths: Tensor
    ellipses: Tensor
    compensations: Tensor
    radii: Tensor
    rectangles: Tensor

    @property
    def conics(self) -> Tensor:
        """(..., C, N, 3): xx, xy and yy of the inverse 2D covariance, as in gsplat."""
        a, k, q = self.ellipses.unbind(-1)
        return torch.stack([a, -a * k, q + a * k * k], -1)

    @property
    def tiles_per_gauss(self) -> Tensor:
        """(..., C, N) int32: how many tiles of 16 pixels each Gaussian is drawn in."""
        left, top, right, bottom = (self.rectangles + TILE - 1).div(TILE, rounding_mode="floor").unbind(-1)
        return (right - left) * (bottom - top)


def rotation_matrices(quats: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4), w first, of any length but 0."""
    rows = _rotations(torch.nn.functional.normalize(quats, dim=-1).movedim(-1, 0))
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _rotations(quats: Tensor) -> list[list[Tensor]]:
    """The entries of the rotation matrices of unit quaternions (4, ...)."""
    w, x, y, z = quats.unbind(0)
    return [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]


def project(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    opacities: Tensor | None = None,
    rules: str = "gsplat",
    near_plane: float | None = None,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    antialiased: bool = False,
) -> Projection:
    """Project Gaussians onto the images of pinhole cameras.

    Shapes are those of `render`. With `opacities`, a Gaussian reaches only as far as its alpha is at least 1/255 (rules of gsplat).
    Gaussians are culled that are outside the image, not between the planes, fainter than 1/255, not finite, without a rotation
    (a quaternion of zeros), or larger than about 1e9 pixels.
    """
    found = rules_named(rules)
    usable = finite(means, quats, scales)
    means, quats, scales = _usable(usable, means, quats, scales)
    near = found.near_plane if near_plane is None else near_plane
    # the Gaussians stand in the last dimension from here on: (..., C, N)
    x, y, z = (viewmats[..., :3, :3] @ means.mT.unsqueeze(-3) + viewmats[..., :3, 3:]).unbind(-2)
    seen = usable.unsqueeze(-2) & (z > max(near, 1e-9)) & (z < far_plane)
    z = torch.where(seen, z, 1)
    x_z, y_z = torch.where(seen, x, 0) / z, torch.where(seen, y, 0) / z
    fx, fy, cx, cy = (Ks[..., i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    centre_x, centre_y = fx * x_z + cx, fy * y_z + cy

    # Jacobian of the pinhole camera; its slope is limited outside the image, where the linear approximation breaks down
    margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
    slope_x = x_z.clamp(-cx / fx - margin_x, (width - cx) / fx + margin_x)
    slope_y = y_z.clamp(-cy / fy - margin_y, (height - cy) / fy + margin_y)
    axes = _camera_axes(quats, scales, viewmats)
    row_x = (fx / z).unsqueeze(-2) * (axes[..., 0, :, :] - slope_x.unsqueeze(-2) * axes[..., 2, :, :])
    row_y = (fy / z).unsqueeze(-2) * (axes[..., 1, :, :] - slope_y.unsqueeze(-2) * axes[..., 2, :, :])
    reach = torch.maximum(row_x.detach().abs().amax(-2), row_y.detach().abs().amax(-2))
    reach = torch.maximum(reach, torch.maximum(centre_x.detach().abs(), centre_y.detach().abs()))
    seen = seen & (reach < _LARGEST_PIXELS)
    row_x, row_y = (torch.where(seen.unsqueeze(-2), row, 0) for row in (row_x, row_y))
    centre_x, centre_y = torch.where(seen, centre_x, 0), torch.where(seen, centre_y, 0)

    xx, yy, xy = (row_x * row_x).sum(-2), (row_y * row_y).sum(-2), (row_x * row_y).sum(-2)
    sharp = _cross_squared(row_x, row_y)
    det = sharp + eps2d * (xx + yy + eps2d)
    xx, yy = xx + eps2d, yy + eps2d
    seen = seen & (det > 0)
    det, xx, yy = (torch.where(seen, value, 1) for value in (det, xx, yy))
    ellipses = torch.stack([yy / det, xy / yy, 1 / yy], -1)
    compensations = _compensations(sharp / det, found)

    with torch.no_grad():
        radii = _radii(xx, yy, det, found, _reach(opacities, compensations, antialiased))
        seen = seen & (radii > radius_clip).any(-1)
        if opacities is not None:
            strength = opacities.unsqueeze(-2) * (compensations if antialiased else 1)
            seen = seen & (strength >= ALPHA_FLOOR)
        rectangles, inside = _rectangles(centre_x, centre_y, radii, width, height, found)
        seen = (seen & inside).unsqueeze(-1)
        radii, rectangles = radii * seen, rectangles * seen
    return Projection(torch.stack([centre_x, centre_y], -1), z, ellipses, compensations, radii, rectangles)


def finite(means: Tensor, quats: Tensor, scales: Tensor) -> Tensor:
    """(..., N) bool: all values are finite and not absurdly large, and there is a rotation."""
    with torch.no_grad():
        largest = torch.maximum(means.abs().amax(-1), scales.abs().amax(-1))
        length = quats.square().sum(-1)
        return (largest < _LARGEST_INPUT) & (length > 0) & (length < _LARGEST_INPUT)


def _usable(usable: Tensor, means: Tensor, quats: Tensor, scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Finite values in the place of unusable ones, so that their gradients are zero rather than NaN."""
    keep = usable.unsqueeze(-1)
    return torch.where(keep, means, 0), torch.where(keep, quats, 0.5), torch.where(keep, scales, 0)


def _camera_axes(quats: Tensor, scales: Tensor, viewmats: Tensor) -> Tensor:
    """(..., C, 3, 3, N): coordinates, by axis, of the scaled axes of each Gaussian as the cameras see them."""
    unit = (quats / quats.norm(dim=-1, keepdim=True)).movedim(-1, 0)
    rows = _rotations(unit)
    sizes = scales.mT.unsqueeze(-3)
    axes = torch.stack([torch.stack(row, -2) for row in rows], -3) * sizes
    turned = viewmats[..., :3, :3] @ axes.flatten(-2).unsqueeze(-3)
    return turned.unflatten(-1, axes.shape[-2:])


def _cross_squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared length of the cross product of (..., 3, N)."""
    (ax, ay, az), (bx, by, bz) = a.unbind(-2), b.unbind(-2)
    return (ay * bz - az * by).square() + (az * bx - ax * bz).square() + (ax * by - ay * bx).square()


def _compensations(ratio: Tensor, rules: Rules) -> Tensor:
    positive = ratio > 0
    root = torch.where(positive, torch.where(positive, ratio, 1).sqrt(), 0)
    return root.clamp(min=COMPENSATION_FLOOR) if rules.square else root


def _reach(opacities: Tensor | None, compensations: Tensor, antialiased: bool) -> Tensor | float:
    """Standard deviations at which alpha has fallen to 1/255."""
    if opacities is None:
        return MAX_SIGMAS
    strength = opacities.unsqueeze(-2) * (compensations if antialiased else 1)
    return (2 * (strength / ALPHA_FLOOR).clamp(min=1).log()).sqrt().clamp(max=MAX_SIGMAS)


def _radii(xx: Tensor, yy: Tensor, det: Tensor, rules: Rules, reach: Tensor | float) -> Tensor:
    if rules.square:
        half = (xx + yy) / 2
        largest = half + (half * half - det).clamp(min=LAMBDA_SPREAD_FLOOR).sqrt()
        radius = (3 * largest.sqrt()).ceil()
        radii = torch.stack([radius, radius], -1)
    else:
        radii = torch.stack([(reach * xx.sqrt()).ceil(), (reach * yy.sqrt()).ceil()], -1)
    return radii.clamp(max=2.0**30).to(torch.int32)


def _rectangles(x: Tensor, y: Tensor, radii: Tensor, width: int, height: int, rules: Rules) -> tuple[Tensor, Tensor]:
    """The pixels of the tiles that a Gaussian touches (..., 4), and whether it touches the image at all."""
    sides = []
    inside = torch.ones_like(x, dtype=torch.bool)
    for centre, radius, size in ((x, radii[..., 0], width), (y, radii[..., 1], height)):
        if rules.square:
            first = ((centre - 0.5 - radius) / TILE).trunc()
            last = ((centre - 0.5 + radius + TILE - 1) / TILE).trunc()
        else:
            first, last = ((centre - radius) / TILE).floor(), ((centre + radius) / TILE).ceil()
            inside = inside & (centre + radius > 0) & (centre - radius < size)
        tiles = -(-size // TILE)
        first, last = first.clamp(0, tiles).to(torch.int32) * TILE, last.clamp(0, tiles).to(torch.int32) * TILE
        sides += [first, last.clamp(max=size)]
        inside = inside & (first < last)
    left, right, top, bottom = sides
    return torch.stack([left, top, right, bottom], -1), inside
