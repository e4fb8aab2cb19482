"""The result of `render`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Render:
    """Images of Gaussians, and the values that densification needs.

    Attributes:
        colors: (..., C, H, W, D), composited on the background.
        alphas: (..., C, H, W, 1), the opacity of the pixels.
        depths: (..., C, H, W, 1), accumulated: the sum of weights times depths.
        means2d: (..., C, N, 2) centres in pixels. After `means2d.retain_grad()` and the backward pass, `means2d.grad` holds
            their gradient.
        radii: (..., C, N, 2) int32 in pixels; 0 for Gaussians that were not drawn.
    """

    colors: Tensor
    alphas: Tensor
    depths: Tensor
    means2d: Tensor
    radii: Tensor

    @property
    def expected_depths(self) -> Tensor:
        """The depths divided by the alphas, (..., C, H, W, 1); 0 where nothing was drawn."""
        return self.depths / self.alphas.clamp(min=1e-10)

    @property
    def visible(self) -> Tensor:
        """Which Gaussians were drawn for each camera, (..., C, N) bool."""
        return (self.radii > 0).all(-1)

    @property
    def info(self) -> dict[str, Any]:
        """These values under the names that gsplat's densification strategies (`packed=False`) expect."""
        height, width = self.colors.shape[-3:-1]
        return {
            "means2d": self.means2d,
            "radii": self.radii,
            "width": width,
            "height": height,
            "n_cameras": self.colors.shape[-4],
            "gaussian_ids": None,
        }
