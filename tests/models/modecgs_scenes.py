"""Small scenes of every kind that the files of MoDec-GS hold."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

from tests.golden import seeded
from tests.tiny import MODECGS, modecgs
from visionzoo.models.modecgs import FourDGaussians, FourDGaussiansConfig, MoDecGS, MoDecGSConfig, scaffold_config


def filled(model: Any) -> Any:
    """A model from points, with random attributes."""
    points = seeded.tensor("points", (60, 3)).numpy()
    model.initialize(points, points) if isinstance(model, FourDGaussians) else model.initialize(points)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def scenes() -> dict[str, Callable[[], Any]]:
    fourd = FourDGaussiansConfig(resolution=(6, 6, 6, 5), levels=(1, 2), channels=4, width=8, depth=2, sh_degree=2)
    bank = MoDecGSConfig(
        **{**MODECGS, "feature_bank": True, "shared_dynamics": True, "position_gate": "mul", "color_dist": True}
    )
    static = scaffold_config(voxel_size=0.1, num_offsets=3, feature_dim=8, appearance_dim=4, appearance_rows=12)
    return {
        "modecgs": lambda: copy.deepcopy(modecgs()),
        "bank": lambda: filled(MoDecGS(bank)),
        "scaffold": lambda: filled(MoDecGS(static)),
        "4dgaussians": lambda: filled(FourDGaussians(fourd)),
    }
