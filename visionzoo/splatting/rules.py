"""Rules in which rasterisers differ: where a Gaussian ends, how opaque it may be, and when a pixel is finished."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import unknown

TILE = 16
"""Both rasterisers draw a Gaussian in whole tiles with sides of this many pixels."""

ALPHA_FLOOR = 1 / 255
"""A Gaussian does not affect a pixel where its alpha is below this."""


@dataclass(frozen=True)
class Rules:
    """The rules of one rasteriser.

    Attributes:
        near_plane: the default distance in front of the camera below which Gaussians are culled.
        alpha_cap: maximum alpha.
        closed_below: a pixel is finished before its transmittance would fall below this: the Gaussian that would do so is
            skipped, with all that follow.
        square: whether the extent is a square of three standard deviations of the longer axis. Otherwise it is a rectangle
            that ends where alpha falls below 1/255, at most 3.33 standard deviations along each axis of the image.
    """

    name: str
    near_plane: float
    alpha_cap: float
    closed_below: float
    square: bool


RULES = {
    # gsplat 1.5 stops at T <= 1e-4, the original at T < 1e-4: with the next larger float32, the first becomes the second
    "gsplat": Rules("gsplat", 0.01, 0.999, 1e-4 * (1 + 2**-23), square=False),
    "inria": Rules("inria", 0.2, 0.99, 1e-4, square=True),
}
"""`gsplat`: gsplat 1.5; `inria`: the rasteriser published with 3D Gaussian Splatting (Kerbl et al. 2023)."""

MAX_SIGMAS = 3.33
"""gsplat's extents in standard deviations; sqrt(2 ln 255) is slightly less."""

LAMBDA_SPREAD_FLOOR = 0.1
"""The original rasteriser's lower bound of ((xx + yy) / 2)^2 - det in the eigenvalues of a 2D covariance."""

COMPENSATION_FLOOR = math.sqrt(0.000025)
"""The original rasteriser's lower bound of the antialiasing factor."""


LARGEST_INPUT = 1e18
LARGEST_PIXELS = 1e9
"""Beyond these values, float32 overflows before a pixel is reached; such Gaussians are culled."""

NEAREST = 1e-9
"""Nothing closer is ever drawn, whatever the near plane."""


def rules_named(name: str) -> Rules:
    if name not in RULES:
        raise unknown("set of rules", name, RULES)
    return RULES[name]
