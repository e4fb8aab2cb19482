"""Real spherical harmonics up to degree 3, in the order and with the signs of 3D Gaussian Splatting files."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_DEGREE = 3

_C0 = math.sqrt(1 / (4 * math.pi))
_C1 = math.sqrt(3 / (4 * math.pi))
_C2 = (
    math.sqrt(15 / (4 * math.pi)),  # xy, yz, xz
    math.sqrt(5 / (16 * math.pi)),  # 3z² - 1
    math.sqrt(15 / (16 * math.pi)),  # x² - y²
)
_C3 = (
    math.sqrt(35 / (32 * math.pi)),  # y (3x² - y²), x (x² - 3y²)
    math.sqrt(105 / (4 * math.pi)),  # xyz
    math.sqrt(21 / (32 * math.pi)),  # y (5z² - 1), x (5z² - 1)
    math.sqrt(7 / (16 * math.pi)),  # z (5z² - 3)
    math.sqrt(105 / (16 * math.pi)),  # z (x² - y²)
)


def basis(degree: int, directions: Tensor) -> Tensor:
    """Values of the first (degree + 1)² harmonics.

    Args:
        degree: 0 to 3.
        directions: (..., 3) unit vectors.

    Returns:
        (..., (degree + 1)²)
    """
    x, y, z = directions.unbind(-1)
    values = [torch.full_like(x, _C0)]
    if degree >= 1:
        values += [-_C1 * y, _C1 * z, -_C1 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        values += [
            _C2[0] * x * y,
            -_C2[0] * y * z,
            _C2[1] * (3 * zz - 1),
            -_C2[0] * x * z,
            _C2[2] * (xx - yy),
        ]
        if degree >= 3:
            values += [
                -_C3[0] * y * (3 * xx - yy),
                _C3[1] * x * y * z,
                -_C3[2] * y * (5 * zz - 1),
                _C3[3] * z * (5 * zz - 3),
                -_C3[2] * x * (5 * zz - 1),
                _C3[4] * z * (xx - yy),
                -_C3[0] * x * (xx - 3 * yy),
            ]
    return torch.stack(values, -1)


def spherical_harmonics(degree: int, directions: Tensor, coefficients: Tensor) -> Tensor:
    """The sum of the first (degree + 1)² harmonics, as gsplat's `spherical_harmonics` computes it.

    Args:
        degree: 0 to 3; further coefficients are ignored.
        directions: (..., 3), of any length.
        coefficients: (..., K, D), where K is at least (degree + 1)².

    Returns:
        (..., D). The colour of a Gaussian is this plus 0.5, and at least 0.
    """
    if not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"sh_degree must be 0 to {MAX_DEGREE}, got {degree}")
    count = (degree + 1) ** 2
    if coefficients.shape[-2] < count:
        raise ValueError(
            f"sh_degree {degree} needs {count} coefficients for each colour, the tensor of shape "
            f"{tuple(coefficients.shape)} has {coefficients.shape[-2]}"
        )
    unit = torch.nn.functional.normalize(directions, dim=-1)
    return (basis(degree, unit).unsqueeze(-2) @ coefficients[..., :count, :]).squeeze(-2)
