"""The table of anchors: a sparse set of points that carry features, and how a point cloud becomes one.

Shapes: N anchors, k Gaussians each, f feature width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from visionzoo.errors import InputError, require

from .config import MoDecGSConfig
from .deformation import Scaffold
from .table import Table

SMALLEST_SQUARE = 1e-7
"""Mean squared distances between anchors are at least this."""


class Anchors(Table):
    """A table with one row per anchor:

    * "positions" (N, 3), multiples of a voxel; never trained,
    * "offsets" (N, k, 3) of the Gaussians, in units of `exp(scaling[:, :3])`,
    * "features" (N, f),
    * "scaling" (N, 6), logarithms: three units of the offsets, three base scales of the Gaussians,
    * "dynamics" (N, 1 or 2), which gate the global deformation; missing in a scene without one.
    """

    def __init__(self, config: MoDecGSConfig):
        columns: dict[str, tuple[int, ...]] = {
            "positions": (3,),
            "offsets": (config.num_offsets, 3),
            "features": (config.feature_dim,),
            "scaling": (6,),
        }
        if config.dynamics_dim:
            columns["dynamics"] = (config.dynamics_dim,)
        super().__init__(config.num_anchors, columns)
        self["positions"].requires_grad_(False)

    def fill(self, positions: Tensor, scaling: Tensor) -> None:
        """Put anchors at `positions` (N, 3) with `scaling` (N, 6); everything else is zero."""
        self.resize(len(positions))
        with torch.no_grad():
            for name, value in self.items():
                given = {"positions": positions, "scaling": scaling}.get(name)
                value.copy_(torch.zeros_like(value) if given is None else given)

    def scaffold(self) -> Scaffold:
        """The anchors in linear units: the global canonical scaffold."""
        return Scaffold(self["positions"], self["features"], self["offsets"], self["scaling"].exp())


def check_points(points: np.ndarray) -> np.ndarray:
    """The point cloud (n, 3), checked so that it can become anchors.

    Raises:
        InputError: another shape, fewer than 4 points, points that are not finite or all in one place.
    """
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind not in "fiu":
        raise InputError(f"points must be numbers (n, 3), got shape {points.shape} and type {points.dtype}")
    if len(points) < 4:
        raise InputError(f"there must be at least 4 points to start from, got {len(points)}")
    wrong = int((~np.isfinite(points).all(axis=1)).sum())
    if wrong:
        raise InputError(f"{wrong} of {len(points)} points are not finite; remove them first")
    if (np.ptp(points, axis=0) == 0).all():
        raise InputError(f"all {len(points)} points are in one place, {points[0].tolist()}")
    return points


def neighbour_squares(points: np.ndarray) -> np.ndarray:
    """Mean squared distance of each of `points` (n, 3) to its three nearest others (n,)."""
    spatial = require("scipy.spatial", extra="gs", purpose="starting a scene from points")
    distances, _ = spatial.cKDTree(points).query(points, k=4)
    return (distances[:, 1:] ** 2).mean(axis=1)


def voxel_size_of(points: np.ndarray) -> float:
    """The voxel size for `voxel_size=0`: the median over `points` (n, 3) of `neighbour_squares`, as in the published code.

    It is a squared length, so it depends on the units of the scene.
    """
    size = float(np.median(neighbour_squares(check_points(points))))
    if not size > 0:
        raise InputError("most points have three others in the same place; give voxel_size, or remove duplicates")
    return size


def voxelized(points: np.ndarray, voxel_size: float) -> np.ndarray:
    """One anchor per voxel that holds a point: (n, 3) -> (N, 3), sorted by x, then y, then z.

    Halves are rounded to even, as NumPy does.
    """
    return np.unique(np.round(points / voxel_size), axis=0) * voxel_size


def initial_anchors(points: np.ndarray, voxel_size: float) -> tuple[Tensor, Tensor]:
    """Positions (N, 3) and log scaling (N, 6) of the anchors for a point cloud (n, 3).

    Every scale starts as the root of the mean squared distance to the three nearest anchors.

    Raises:
        InputError: see `check_points`; or a voxel so large that fewer than 4 anchors are left.
    """
    positions = voxelized(check_points(points), voxel_size)
    if len(positions) < 4:
        raise InputError(
            f"voxel_size {voxel_size:g} leaves {len(positions)} anchors of {len(points)} points; "
            f"the points extend over {np.ptp(points, axis=0).max():g}: give a smaller one"
        )
    squares = np.maximum(neighbour_squares(positions.astype(np.float32)), SMALLEST_SQUARE)
    scaling = np.repeat(0.5 * np.log(squares)[:, None], 6, axis=1)
    return torch.from_numpy(positions.astype(np.float32)), torch.from_numpy(scaling.astype(np.float32))


def camera_extent(centers: np.ndarray) -> float:
    """1.1 times the largest distance of a camera centre (C, 3) from their mean: the unit of spatial learning rates.

    Raises:
        InputError: no centres, another shape, or values that are not finite.
    """
    centers = np.asarray(centers, dtype=np.float64)
    if centers.ndim != 2 or centers.shape[1:] != (3,) or not len(centers) or not np.isfinite(centers).all():
        raise InputError(f"camera centres must be finite numbers (cameras, 3), got shape {centers.shape}")
    return 1.1 * float(np.linalg.norm(centers - centers.mean(axis=0), axis=1).max())


__all__ = [
    "Anchors",
    "camera_extent",
    "check_points",
    "initial_anchors",
    "neighbour_squares",
    "voxel_size_of",
    "voxelized",
]
