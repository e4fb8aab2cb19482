"""Learning rates of the published recipe (arXiv 2501.03714 and its code)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from .model import MoDecGS

ADAM_EPS = 1e-15


@dataclass(frozen=True)
class Rate:
    """A learning rate that falls exponentially from `initial` to `final` over `steps` iterations, and then stays.

    Attributes:
        spatial: multiply by the scene's extent (`anchors.camera_extent`).
    """

    initial: float
    final: float
    steps: int = 30000
    spatial: bool = False

    def at(self, step: int, extent: float = 1.0) -> float:
        scale = extent if self.spatial else 1.0
        if not self.initial or not self.final:
            return 0.0
        share = min(max(step / self.steps, 0.0), 1.0)
        return scale * math.exp((1 - share) * math.log(self.initial) + share * math.log(self.final))


def _constant(rate: float, *, spatial: bool = False) -> Rate:
    return Rate(rate, rate, spatial=spatial)


RATES: dict[str, Rate] = {
    "offsets": Rate(0.01, 0.0001, spatial=True),
    "features": _constant(0.0075),
    "scaling": _constant(0.007),
    "dynamics": _constant(0.002),
    "opacity": Rate(0.002, 2e-5),
    "covariance": _constant(0.004),
    "color": Rate(0.008, 5e-5),
    "bank": Rate(0.01, 1e-5),
    "appearance": Rate(0.05, 5e-4),
    "planes": Rate(0.0016, 0.00016, spatial=True),
    "deformation": _constant(0.00016, spatial=True),
}
"""Group -> its rate. Two of them follow the published code, not its intent: the rate of the deformation networks
never falls, and the heads of the global field for offsets and scaling belong to "planes"."""

FIELDS = ("planes", "deformation")
"""The groups of the two fields that move the scene."""


def parameter_groups(model: MoDecGS) -> dict[str, list[nn.Parameter]]:
    """Group -> its parameters; every trainable parameter is in one group. Groups without parameters are left out."""
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in RATES}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[group_of(name)].append(parameter)
    return {name: values for name, values in groups.items() if values}


def group_of(name: str) -> str:
    """The group of a parameter of `MoDecGS`, by its name."""
    part, rest = name.split(".", 1)
    if part in ("anchors", "networks"):
        return rest.split(".")[0]
    if ".planes." in name or ".heads.offsets." in name or ".heads.scaling." in name:
        return "planes"
    return "deformation"


__all__ = ["ADAM_EPS", "FIELDS", "RATES", "Rate", "group_of", "parameter_groups"]
