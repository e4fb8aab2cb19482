"""What LOVECon's cases share: published key names with seeded weights under them, and inputs."""

from __future__ import annotations

import json
import re
from functools import cache

import torch
from torch import Tensor

from .. import seeded
from ..case import HERE, Case


@cache
def published_shapes(file: str) -> dict[str, list[int]]:
    """Names and shapes in a file of keys, each name with the prefix of its network ("ifnet.", "vae.", …)."""
    return json.loads((HERE / "lovecon" / file).read_text(encoding="utf-8"))["keys"]


def published_state(case: Case, file: str) -> dict[str, Tensor]:
    """Seeded weights under the names of a file of keys."""
    return seeded.fill({key: torch.zeros(shape) for key, shape in published_shapes(file).items()}, case.seed)


def inputs(case: Case) -> dict[str, Tensor]:
    """The seeded inputs of a case under the last part of their names, times the factor that their description begins with."""
    found = {}
    for spec in case.data["inputs"]:
        factor = re.match(r"([\d.]+) ?\* ?seeded", spec["how"])
        found[spec["name"].rsplit(".", 1)[-1]] = (float(factor[1]) if factor else 1) * case.input(spec["name"])
    return found
