"""Gaussians as the arrays that viser sends to a browser.

A browser gets 32 bytes for each Gaussian: a float32 centre, a covariance of six float16, and RGBA of one byte each. Hence:

- A variance below 6e-8 becomes 0. The scene is scaled so that standard deviations are around `TYPICAL_SIGMA`.
- Rounding turns covariances of flat Gaussians into matrices with negative eigenvalues, which are not drawn. No axis is sent shorter
  than `FLATTEST` of the longest.
- When the number of Gaussians changes, the browser draws a frame that is not sorted yet. The arrays are padded with transparent ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from visionzoo.splatting import rotation_matrices, spherical_harmonics

from ...models.modecgs import Gaussians

TYPICAL_SIGMA = 0.1
FLATTEST = 0.04
"""From a ratio of 0.03, no covariance loses positive definiteness in float16 if it is of typical size."""

FAINTEST = 1 / 255
ROWS = 1024
"""Arrays have a multiple of this many rows."""


@dataclass(frozen=True)
class SplatArrays:
    """Gaussians for `viser.SceneApi.add_gaussian_splats`.

    Attributes:
        centers: (N, 3) float32.
        covariances: (N, 3, 3) float32.
        rgbs: (N, 3) uint8.
        opacities: (N, 1) uint8; 0 for padding.
        count: how many of them are Gaussians of the scene.
    """

    centers: NDArray[np.float32]
    covariances: NDArray[np.float32]
    rgbs: NDArray[np.uint8]
    opacities: NDArray[np.uint8]
    count: int


def browser_scale(gaussians: Gaussians) -> float:
    """The factor by which a scene is scaled for the browser."""
    sigmas = gaussians.scales[gaussians.opacities > FAINTEST].abs().amax(-1)
    sigmas = sigmas[torch.isfinite(sigmas) & (sigmas > 0)]
    return TYPICAL_SIGMA / float(sigmas.median()) if len(sigmas) else 1.0


def splat_arrays(
    gaussians: Gaussians, center: Sequence[float] | NDArray[np.floating], scale: float, rows: int = 0
) -> SplatArrays:
    """Arrays of the Gaussians that can be seen.

    Args:
        center: (3,) of the camera, for colours that are spherical harmonics.
        scale: see `browser_scale`.
        rows: least number of rows, e.g. that of the arrays that the browser has.
    """
    values = torch.cat([gaussians.means, gaussians.quats, gaussians.scales, gaussians.colors.flatten(1)], 1)
    kept = (gaussians.opacities > FAINTEST) & torch.isfinite(values).all(1)
    means, sigmas = gaussians.means[kept] * scale, gaussians.scales[kept].abs() * scale
    sigmas = torch.maximum(sigmas, FLATTEST * sigmas.amax(-1, keepdim=True)) if len(sigmas) else sigmas
    axes = rotation_matrices(gaussians.quats[kept]) * sigmas[:, None, :]
    count = len(means)
    rows = max(rows, -(-max(count, 1) // ROWS) * ROWS)
    return SplatArrays(
        _padded(means, rows).astype(np.float32),
        _padded(axes @ axes.mT, rows).astype(np.float32),
        _bytes(_padded(_colors(gaussians, kept, center), rows)),
        _bytes(_padded(gaussians.opacities[kept, None], rows)),
        count,
    )


def _colors(gaussians: Gaussians, kept: torch.Tensor, center: Sequence[float] | NDArray[np.floating]) -> torch.Tensor:
    colors = gaussians.colors[kept]
    if gaussians.sh_degree is None:
        return colors
    eye = torch.as_tensor(np.asarray(center, np.float32), device=colors.device)
    return spherical_harmonics(gaussians.sh_degree, gaussians.means[kept] - eye, colors) + 0.5


def _padded(values: torch.Tensor, rows: int) -> NDArray[np.floating]:
    found = values.detach().cpu().numpy()
    return np.concatenate([found, np.zeros((rows - len(found), *found.shape[1:]), found.dtype)])


def _bytes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Rounded; viser would cut off."""
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


__all__ = ["FAINTEST", "FLATTEST", "ROWS", "TYPICAL_SIGMA", "SplatArrays", "browser_scale", "splat_arrays"]
