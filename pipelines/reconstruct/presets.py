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
        most_anchors: if the points would give more anchors, larger voxels are used; None keeps the voxel size of the configuration.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    max_side: int | None = None
    most_anchors: int | None = None


PRESETS = {
    "tiny": Preset(
        config={
            "feature_dim": 16, "num_offsets": 5, "voxel_size": 0.05,
            "global_resolution": (16, 16, 16, 8), "global_levels": (1,), "global_channels": 8,
            "local_resolution": (24, 24, 24, 24), "local_levels": (1,), "local_channels": 8,
            "width": 32, "num_segments": 4,
        },
        recipe={
            "coarse_steps": 150, "fine_steps": 600, "batch_size": 2, "decay_steps": 600, "field_rate": 4.0,
            "grow_until": 0, "all_cameras": True,
        },
        max_side=64,
        most_anchors=1500,
    ),
    "quick": Preset(
        config={
            "feature_dim": 16, "num_offsets": 5, "voxel_size": 0.02,
            "global_resolution": (16, 16, 16, 10), "global_levels": (1,), "global_channels": 8,
            "local_resolution": (32, 32, 32, 32), "local_levels": (1,), "local_channels": 8,
            "width": 32, "num_segments": 4,
        },
        recipe={
            "coarse_steps": 200, "fine_steps": 800, "batch_size": 2, "decay_steps": 800, "field_rate": 4.0,
            "grow_until": 0, "all_cameras": True,
        },
        max_side=128,
        most_anchors=3000,
    ),
    "published": Preset(),
}  # fmt: skip
"""quick: minutes on a CPU. published: the paper's model and schedule for HyperNeRF, for a GPU. tiny: for small test scenes."""


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


def voxel_size_for(points: NDArray[np.floating], size: float, most: int | None) -> float:
    """A voxel size of at least `size` at which `points` (N, 3) fill at most `most` voxels."""
    if most is None or size <= 0:
        return size
    while len(np.unique(np.round(points / size), axis=0)) > most:
        size *= 1.1
    return float(f"{size:.3g}")


__all__ = ["PRESETS", "Preset", "preset_named", "voxel_size_for"]
