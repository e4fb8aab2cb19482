"""4DGaussians (CVPR 2024): plain Gaussians at rest, moved by one field; built from the same parts for comparison with MoDec-GS.

Shapes: M Gaussians, S = (sh_degree + 1)^2 bands of spherical harmonics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.errors import InputError

from .anchors import SMALLEST_SQUARE, check_points, neighbour_squares
from .config import check_levels, check_numbers, check_resolution
from .deformation import Field
from .gaussians import Gaussians
from .table import Table

SH_ZERO = 0.28209479177387814
"""The constant spherical harmonic: colour = 0.5 + SH_ZERO * coefficient."""

INITIAL_OPACITY = 0.1


@dataclass(frozen=True)
class FourDGaussiansConfig:
    """The defaults are the published configuration for HyperNeRF scenes.

    Attributes:
        num_gaussians: rows of a new table; loading changes the table, not this number.
        sh_degree: degree of the colours' spherical harmonics, 0 to 3.
        resolution, levels, channels: settings of the field, as in `MoDecGSConfig`.
        width, depth: hidden width and number of layers of the networks behind it.
        deform_opacity, deform_harmonics: heads that the published configurations leave out.
    """

    num_gaussians: int = 0
    sh_degree: int = 3
    resolution: tuple[int, ...] = (64, 64, 64, 150)
    levels: tuple[int, ...] = (1, 2, 4)
    channels: int = 16
    width: int = 128
    depth: int = 1
    deform_opacity: bool = False
    deform_harmonics: bool = False

    def __post_init__(self) -> None:
        check_numbers(self, {"num_gaussians": 0, "sh_degree": 0})
        if self.sh_degree > 3:
            raise InputError(f"sh_degree must be between 0 and 3, got {self.sh_degree}")
        check_resolution("resolution", self.resolution)
        check_levels("levels", self.levels)

    @property
    def bands(self) -> int:
        return (self.sh_degree + 1) ** 2


class FourDGaussians(nn.Module):
    """A time -> Gaussians; a call takes the camera's centre too, as `MoDecGS` does, and does not need it.

    `table` holds the Gaussians before activation, in gsplat's names: "means" (M, 3), "scales" (M, 3), logarithms, "quats" (M, 4), of
    any length, "opacities" (M,), logits, "sh0" (M, 1, 3), "shN" (M, S - 1, 3).
    """

    def __init__(self, config: FourDGaussiansConfig):
        super().__init__()
        self.config = config
        columns = {
            "means": (3,), "scales": (3,), "quats": (4,), "opacities": (), "sh0": (1, 3), "shN": (config.bands - 1, 3)
        }  # fmt: skip
        self.table = Table(config.num_gaussians, columns)
        heads = {"means": 3, "scales": 3, "quats": 4}
        if config.deform_opacity:
            heads["opacities"] = 1
        if config.deform_harmonics:
            heads["harmonics"] = 3 * config.bands
        self.field = Field(config.resolution, config.channels, config.levels, config.width, config.depth, heads)

    def initialize(self, points: np.ndarray, colors: np.ndarray) -> None:
        """One Gaussian per point (n, 3) of colour (n, 3) in [0, 1], as large as the distance to its neighbours."""
        points = check_points(points)
        self.table.resize(len(points))
        squares = np.maximum(neighbour_squares(points), SMALLEST_SQUARE)
        with torch.no_grad():
            cloud = torch.from_numpy(np.asarray(points, dtype=np.float32))
            self.table["means"].copy_(cloud)
            self.table["scales"].copy_(torch.from_numpy(0.5 * np.log(squares))[:, None].expand(-1, 3))
            self.table["quats"].copy_(torch.tensor([1.0, 0, 0, 0]).expand(len(points), -1))
            self.table["opacities"].fill_(float(np.log(INITIAL_OPACITY / (1 - INITIAL_OPACITY))))
            self.table["sh0"].copy_(((torch.as_tensor(colors).float() - 0.5) / SH_ZERO)[:, None])
            self.table["shN"].zero_()
            self.field.planes.set_box(cloud)

    def deformed(self, time: float | Tensor) -> dict[str, Tensor]:
        """The table's values, before activation, at one time, or each Gaussian's at its own time (M,).

        Returns:
            "means", "scales", "quats", "opacities" as in the table, and "harmonics" (M, S, 3).
        """
        table = self.table
        values = {name: table[name] for name in ("means", "scales", "quats", "opacities")}
        values["harmonics"] = torch.cat([table["sh0"], table["shN"]], dim=1)
        for name, change in self.field(table["means"], time).items():
            values[name] = values[name] + change.view_as(values[name])
        return values

    def forward(self, center: Tensor | None, time: float | None) -> Gaussians:
        """Gaussians at a time in [0, 1], or at rest (None)."""
        values = self.deformed(time) if time is not None else {
            **self.table, "harmonics": torch.cat([self.table["sh0"], self.table["shN"]], dim=1)
        }  # fmt: skip
        return Gaussians(
            values["means"],
            F.normalize(values["quats"], dim=-1),
            values["scales"].exp(),
            values["opacities"].sigmoid(),
            values["harmonics"],
            sh_degree=self.config.sh_degree,
        )

    def resize_for(self, state: Mapping[str, Tensor]) -> None:
        """Give the table as many rows as `state`, a state dict, has (`load_checkpoint` calls it)."""
        self.table.resize_for(state, "table.")


__all__ = ["FourDGaussians", "FourDGaussiansConfig"]
