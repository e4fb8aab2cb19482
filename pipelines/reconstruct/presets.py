"""Ready-made settings: how big the model is, how long it trains, and at what size images are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from visionzoo.errors import unknown


@dataclass(frozen=True)
class Preset:
    """Settings of a reconstruction.

    Attributes:
        config: fields of `MoDecGSConfig`.
        recipe: fields of `Recipe`.
        max_side: images are shrunk to this many pixels on the longer side; None keeps their size.
        most_anchors: number of anchors to start with, if the configuration has no voxel size; None leaves the size to the model.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    max_side: int | None = None
    most_anchors: int | None = None


PRESETS = {
    "tiny": Preset(
        config={
            "feature_dim": 16, "num_offsets": 5, "voxel_size": 0.0,
            "global_resolution": (16, 16, 16, 8), "global_levels": (1,), "global_channels": 8,
            "local_resolution": (24, 24, 24, 24), "local_levels": (1,), "local_channels": 8,
            "width": 32, "num_segments": 4,
        },
        recipe={
            "coarse_steps": 150, "fine_steps": 600, "batch_size": 2, "decay_steps": 600, "field_rate": 4.0,
            "start_still": True, "grow_until": 0, "all_cameras": True,
        },
        max_side=64,
        most_anchors=1100,
    ),
    "quick": Preset(
        config={
            "feature_dim": 16, "num_offsets": 5, "voxel_size": 0.0,
            "global_resolution": (16, 16, 16, 10), "global_levels": (1,), "global_channels": 8,
            "local_resolution": (32, 32, 32, 64), "local_levels": (1, 2), "local_channels": 8,
            "width": 64, "num_segments": 4,
        },
        recipe={
            "coarse_steps": 500, "fine_steps": 2500, "batch_size": 2, "decay_steps": 2500, "field_rate": 2.0,
            "start_still": True, "grow_after": 100, "adjust_after": 400, "grow_until": 2100, "success": 0.5, "all_cameras": True,
        },
        max_side=128,
        most_anchors=1300,
    ),
    "published": Preset(),
}  # fmt: skip
"""quick: minutes on a CPU. published: the paper's model and schedule for HyperNeRF, for a GPU. tiny: for small test scenes."""

FINEST = 1000
"""Voxels that are derived from the points are at least this part of the points' extent."""


def preset_named(name: str, device: torch.device) -> tuple[str, Preset]:
    """A preset and its name; "auto" is published on CUDA, and quick elsewhere.

    Raises:
        InputError: there is no such preset.
    """
    if name == "auto":
        name = "published" if device.type == "cuda" else "quick"
    if name not in PRESETS:
        raise unknown("preset", name, ["auto", *PRESETS])
    return name, PRESETS[name]


def voxel_size_for(points: NDArray[np.floating], most: int) -> float:
    """The size of voxels of which `points` (N, 3) fill at most `most`: as small as possible, to 5 percent."""
    size = max(float(np.ptp(points, axis=0).max()) / FINEST, 1e-6)
    while len(np.unique(np.round(points / size), axis=0)) > most:
        size *= 1.05
    return float(f"{size:.4g}")


__all__ = ["PRESETS", "Preset", "preset_named", "voxel_size_for"]
