"""One golden case: a JSON file with a configuration, seeded inputs and weights, and the published network's outputs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import seeded

HERE = Path(__file__).parent
DIFFERENT = "keys that differ"
"""The only output of a file with published keys: their names."""


@dataclass(frozen=True)
class Case:
    """A case file. `data` is the unchanged JSON; its expected values are only used by `compare`."""

    path: Path
    data: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> Case:
        path = Path(path)
        return cls(path, json.loads(path.read_text(encoding="utf-8")))

    @property
    def system(self) -> str:
        return self.path.absolute().parent.name

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def config(self) -> dict[str, Any]:
        return self.data.get("config", {})

    @property
    def seed(self) -> int:
        return self.data.get("seed") or 0

    @property
    def notes(self) -> str:
        return self.data.get("notes", "")

    @property
    def outputs(self) -> Any:
        """The structure to fill: names, and settings such as flags that accompany the values.

        A file of several small cases has a list of them instead, each with its own outputs. A file of published keys
        expects that none of them differ.
        """
        if self.name.startswith("keys") and not self.data.get("outputs"):
            return {DIFFERENT: []}
        if "outputs" not in self.data and isinstance(self.data.get("cases"), list):
            return [case.get("outputs", {}) for case in self.data["cases"]]
        return self.data.get("outputs", {})

    def input(self, name: str) -> Tensor:
        """The seeded tensor of the input `name`, uniform or normal, or its literal values; the system handles everything else."""
        title, shape, kind = next(spec for spec in self.specs() if spec[0] == name)
        if kind == "literal":
            return torch.tensor(shape)
        seed_name = title.partition(" (")[0]
        return seeded.tensor(seed_name, shape, self.seed, "normal" if kind.startswith("normal") else "uniform")

    def specs(self) -> list[tuple[str, list[Any], str]]:
        """(name, shape, kind) of each input; a "literal" has its values instead of a shape. A remark may follow a name in
        parentheses.
        """
        return [
            (spec["name"], spec["shape"], spec["kind"]) if isinstance(spec, dict) else tuple(spec)
            for spec in self.data["inputs"]
        ]

    def state_shapes(self) -> dict[str, list[int]]:
        """Published key names and shapes, from the file itself or from the keys file that it names."""
        inside = self.data.get("state_dict")
        if isinstance(inside, dict) and inside:
            return inside
        text = self.data.get("state_dict_file") or inside or ""
        file = re.search(r"[\w.-]+\.json", str(text))
        if not file:
            raise ValueError(f"{self.path}: names no state dict")
        for folder in (self.path.parent, HERE / self.system):
            if (folder / file[0]).is_file():
                return json.loads((folder / file[0]).read_text(encoding="utf-8"))["state_dict"]
        raise FileNotFoundError(f"{file[0]}: neither beside {self.path} nor in {HERE / self.system}")

    def state(self) -> dict[str, Tensor]:
        """The published state dict with seeded values; counters (no shape, or named so) are integers."""
        shapes = self.state_shapes()
        like = {
            key: torch.zeros(shape, dtype=torch.int64 if key.endswith("num_batches_tracked") else torch.float32)
            for key, shape in shapes.items()
        }
        return seeded.fill(like, self.seed)


def different_keys(ours: Mapping[str, Any], published: Mapping[str, Any]) -> list[str]:
    """Names that are in only one of two tables, or whose shapes differ. Shapes are lists or tensors."""

    def shapes(table: Mapping[str, Any]) -> dict[str, list[int]]:
        return {key: list(value.shape if isinstance(value, Tensor) else value) for key, value in table.items()}

    a, b = shapes(ours), shapes(published)
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def as_json(value: Any, like: Any = None) -> Any:
    """Computed outputs in the form of a case file: tensors as summaries, numbers and lists unchanged, NaN as null.

    Args:
        like: the case's own structure at this position; a summary there determines the number of samples.
    """
    if isinstance(value, Tensor):
        kept = like.get("samples") if isinstance(like, dict) else None
        return seeded.summary(value, len(kept) if kept else 512)
    if isinstance(value, dict):
        return {key: as_json(inner, like.get(key) if isinstance(like, dict) else None) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        places = like if isinstance(like, list) and len(like) == len(value) else [None] * len(value)
        return [as_json(inner, place) for inner, place in zip(value, places, strict=True)]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and value != value else value


def compare(got: Any, want: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """(name, relative error) per output. A shape, a key or a null that differs counts as an infinite error."""
    if isinstance(want, dict) and "samples" in want and "shape" in want:
        yield name, _tensor_error(got, want)
    elif isinstance(want, dict):
        for key, inner in want.items():
            if not isinstance(got, dict) or key not in got:
                yield f"{name}.{key}".lstrip("."), float("inf")
            else:
                yield from compare(got[key], inner, f"{name}.{key}".lstrip("."))
    elif want == []:
        yield name, 0.0 if got == [] else float("inf")
    elif isinstance(want, list) and all(isinstance(item, int) and not isinstance(item, bool) for item in want):
        yield name, _ids_error(got, want)
    elif isinstance(want, list) and all(item is None or isinstance(item, (int, float)) for item in want):
        yield name, _numbers_error(got, want)
    elif isinstance(want, list):
        if not isinstance(got, list) or len(got) != len(want):
            yield name, float("inf")
        else:
            for index, (g, w) in enumerate(zip(got, want, strict=True)):
                yield from compare(g, w, f"{name}[{index}]")
    elif isinstance(want, (int, float)) and not isinstance(want, bool):
        yield name, _numbers_error([got], [want])
    else:
        yield name, 0.0 if got == want else float("inf")


def _tensor_error(got: Any, want: dict[str, Any]) -> float:
    if not isinstance(got, dict) or got.get("shape") != want["shape"] or len(got["samples"]) != len(want["samples"]):
        return float("inf")
    g, w = (torch.tensor(side["samples"], dtype=torch.float64) for side in (got, want))
    samples = float((g - w).norm() / w.norm().clamp_min(1e-12))
    norm = abs(got["norm"] - want["norm"]) / max(abs(want["norm"]), 1e-12)
    return max(samples, norm) if samples == samples else float("inf")


def _numbers_error(got: Any, want: list[float | None]) -> float:
    if (
        not isinstance(got, list)
        or len(got) != len(want)
        or any((g is None) != (w is None) for g, w in zip(got, want, strict=True))
    ):
        return float("inf")
    pairs = [(float(g), float(w)) for g, w in zip(got, want, strict=True) if g is not None and w is not None]
    scale = max((w * w for _, w in pairs), default=0) ** 0.5
    error = max((abs(g - w) for g, w in pairs), default=0.0)
    return error / max(scale, 1e-12) if error else 0.0


def _ids_error(got: Any, want: list[int]) -> float:
    """The share of positions in which a ranking differs by more than a swap of neighbours (scores may differ by 1e-8)."""
    if not isinstance(got, list) or len(got) != len(want):
        return float("inf")
    wrong = [i for i, (g, w) in enumerate(zip(got, want, strict=True)) if g != w]
    misplaced = [i for i in wrong if got[i] not in (want[max(i - 1, 0) : i] + want[i + 1 : i + 2])]
    return len(misplaced) / max(len(want), 1)
