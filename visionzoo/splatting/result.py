"""What `render` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Render:
    """Images of Gaussians, and what densification needs to know.

    Attributes:
        colors: (..., C, H, W, D), on the background.
        alphas: (..., C, H, W, 1), the opacity of the pixels.
        depths: (..., C, H, W, 1), accumulated: the sum of weights times depths.
        means2d: (..., C, N, 2) centres in pixels. Call `means2d.retain_grad()` before the backward pass to find in `means2d.grad` how
            the loss depends on them.
        radii: (..., C, N, 2) int32 in pixels; 0 for Gaussians that were not drawn.
    """

    colors: Tensor
    alphas: Tensor
    depths: Tensor
    means2d: Tensor
    radii: Tensor

    @property
    def expected_depths(self) -> Tensor:
        """(..., C, H, W, 1): the depths divided by the alphas; 0 where nothing was drawn."""
        return self.depths / self.alphas.clamp(min=1e-10)

    @property
    def visible(self) -> Tensor:
        """(..., C, N) bool: which Gaussians each camera drew."""
        return (self.radii > 0).all(-1)

    @property
    def info(self) -> dict[str, Any]:
        """The names under which gsplat's densification strategies (`packed=False`) look for these values."""
        height, width = self.colors.shape[-3:-1]
        return {
            "means2d": self.means2d,
            "radii": self.radii,
            "width": width,
            "height": height,
            "n_cameras": self.colors.shape[-4],
            "gaussian_ids": None,
        }
