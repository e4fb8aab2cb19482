"""Evaluates descriptors on revisited Oxford and Paris, with or without a million distractors, and prints tables.

Memory stays bounded: the database is read in pieces, each query keeps its best M images and the ranks of the images
that the ground truth names, and reranking only permutes those M.

The published numbers state where they come from: "read" in the benchmark's leaderboard or a README,
"recalled" from memory of the paper, "user" for a user's run of the published code (issue 3 of its repository).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visionzoo.errors import InputError
from visionzoo.metrics.ranking import TopRanking, evaluate_ranks, rank_chunks, reranked_ranks

from .descriptors import Descriptors
from .reranking import rerank
from .revisited import Benchmark

KAPPAS = (1, 5, 10)
LEVELS = {"E": "Easy", "M": "Medium", "H": "Hard"}
STAGES = {"single_stage": "single stage", "reranked": "reranked"}

Published = dict[str, tuple[float, str]]

_ROXFORD_R50: dict[str, Published] = {
    "single_stage": {"M": (83.9, "recalled"), "H": (67.7, "recalled")},
    "reranked": {"M": (88.8, "recalled"), "H": (77.1, "recalled")},
}
_ROXFORD_R101: dict[str, Published] = {
    "single_stage": {"M": (85.3, "recalled"), "H": (72.1, "read")},
    "reranked": {"M": (90.9, "recalled"), "H": (80.2, "read")},
}
_RPARIS_R50: dict[str, Published] = {
    "single_stage": {"M": (90.5, "recalled"), "H": (80.3, "recalled")},
    "reranked": {"M": (92.0, "recalled"), "H": (84.4, "recalled")},
}
_RPARIS_R101: dict[str, Published] = {
    "single_stage": {"M": (92.1, "recalled"), "H": (83.5, "read")},
    "reranked": {"M": (93.3, "recalled"), "H": (86.7, "read")},
}
_ROXFORD_1M_R50: dict[str, Published] = {
    "single_stage": {"E": (87.98, "user"), "M": (73.13, "user"), "H": (50.75, "user")},
    "reranked": {"E": (92.11, "user"), "M": (78.70, "user"), "H": (62.36, "user")},
}
_ROXFORD_1M_R101: dict[str, Published] = {
    "single_stage": {"E": (89.48, "user"), "M": (77.69, "user"), "H": (60.44, "user")},
}
_RPARIS_1M_R50: dict[str, Published] = {
    "single_stage": {"E": (90.6, "user"), "M": (79.30, "user"), "H": (62.62, "user")},
    "reranked": {"E": (92.71, "user"), "M": (82.24, "user"), "H": (68.0, "user")},
}
_RPARIS_1M_R101: dict[str, Published] = {
    "single_stage": {"E": (92.7, "user"), "M": (82.34, "user"), "H": (66.6, "user")},
}

PUBLISHED: dict[tuple[str, str, bool], dict[str, Published]] = {
    ("superglobal_r50", "roxford5k", False): _ROXFORD_R50,
    ("superglobal_r101", "roxford5k", False): _ROXFORD_R101,
    ("superglobal_r50", "rparis6k", False): _RPARIS_R50,
    ("superglobal_r101", "rparis6k", False): _RPARIS_R101,
    ("superglobal_r50", "roxford5k", True): _ROXFORD_1M_R50,
    ("superglobal_r101", "roxford5k", True): _ROXFORD_1M_R101,
    ("superglobal_r50", "rparis6k", True): _RPARIS_1M_R50,
    ("superglobal_r101", "rparis6k", True): _RPARIS_1M_R101,
}
"""(model, data set, with the million distractors) -> stage -> difficulty -> (mAP in percent, where it comes from)."""


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation; it prints as a table.

    Attributes:
        dataset, model: their names.
        queries, images, distractors: number of each.
        stages: "single_stage" and "reranked" -> what `visionzoo.metrics.ranking.evaluate_ranks` returns (fractions).
        options: settings that the numbers depend on: M, k, beta, …
    """

    dataset: str
    model: str
    queries: int
    images: int
    distractors: int
    stages: dict[str, dict[str, dict[str, Any]]]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def published(self) -> dict[str, Published]:
        """Published mAP for this model and data set, in percent with its source; empty if there is none.

        R1M has 1,001,001 images: a run with a part of them cannot be compared.
        """
        if 0 < self.distractors < 1_000_000:
            return {}
        return PUBLISHED.get((self.model, self.dataset, self.distractors > 0), {})

    def metrics(self) -> dict[str, float]:
        """Flat names and percent for a logger, e.g. {"reranked/mAP_H": 77.1}."""
        return {f"{stage}/mAP_{d}": 100 * results[d]["map"] for stage, results in self.stages.items() for d in LEVELS}

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, in percent; None where no query has positives."""
        return {
            "dataset": self.dataset,
            "model": self.model,
            "queries": self.queries,
            "images": self.images,
            "distractors": self.distractors,
            "unit": "percent",
            "stages": {
                stage: {
                    d: {
                        "map": _percent(results[d]["map"]),
                        "mean_precision_at": {
                            str(k): _percent(v) for k, v in zip(KAPPAS, results[d]["mean_precision_at"], strict=True)
                        },
                        "aps": [_percent(ap) for ap in results[d]["aps"]],
                    }
                    for d in LEVELS
                }
                for stage, results in self.stages.items()
            },
            "published": {
                stage: {d: {"map": value, "source": source} for d, (value, source) in levels.items()}
                for stage, levels in self.published.items()
            },
            "options": self.options,
        }

    def __str__(self) -> str:
        more = f" + {self.distractors:,} distractors" if self.distractors else ""
        lines = [f"{self.dataset}: {self.queries} queries, {self.images:,} images{more}; model {self.model}", ""]
        lines.append(f"{'mAP, %':<24}" + "".join(f"{name:>18}" for name in LEVELS.values()))
        for stage, results in self.stages.items():
            lines.append(f"{STAGES[stage]:<24}" + "".join(f"{_shown(results[d]['map']):>18}" for d in LEVELS))
            if stage in self.published:
                cells = [self.published[stage].get(d) for d in LEVELS]
                shown = (f"{cell[0]:.1f} ({cell[1]})" if cell else "-" for cell in cells)
                lines.append(f"{'  published':<24}" + "".join(f"{cell:>18}" for cell in shown))
        lines += ["", f"{'mP@1 / 5 / 10, %':<24}" + "".join(f"{name:>22}" for name in LEVELS.values())]
        for stage, results in self.stages.items():
            cells = (" / ".join(_shown(value) for value in results[d]["mean_precision_at"]) for d in LEVELS)
            lines.append(f"{STAGES[stage]:<24}" + "".join(f"{cell:>22}" for cell in cells))
        if self.published:
            lines += [
                "",
                "published: (read) a leaderboard or README, (recalled) from memory of the paper, "
                "(user) a user's run of the published code",
            ]
        return "\n".join(lines)


def evaluate_descriptors(
    queries: Tensor,
    database: Tensor | np.ndarray | Descriptors,
    benchmark: Benchmark,
    *,
    distractors: Tensor | np.ndarray | Descriptors | None = None,
    model: str = "unnamed",
    rerank_top: int = 400,
    k: int = 9,
    beta: float = 0.15,
    nonnegative: bool = False,
    chunk: int = 8192,
) -> Evaluation:
    """Both stages of retrieval, scored.

    Args:
        queries: (Q, D) float32 unit vectors, in the order of `benchmark.queries`, on the device for the computation.
        database: (N, D) unit vectors, in the order of `benchmark.images`.
        distractors: (R, D) unit vectors that follow the database and are never correct.
        model: the name under which published numbers are looked up.
        rerank_top, k, beta, nonnegative: settings of the reranking (see `reranking.rerank`); rerank_top=0 skips it.
        chunk: number of descriptors that are read at a time.

    Raises:
        InputError: numbers or lengths of descriptors that do not fit the benchmark or each other.
    """
    _check(queries, Descriptors.of(database), benchmark)
    everything = Descriptors.of(database) if distractors is None else Descriptors.of(database, distractors)
    watched = [truth.named for truth in benchmark.truths]
    first = rank_chunks(queries, lambda: everything.chunks(chunk), watched, max(rerank_top, 1))
    stages = {"single_stage": evaluate_ranks(first.ranks, benchmark.truths, KAPPAS)}
    if rerank_top:
        order = rerank_order(queries, everything, first, k=k, beta=beta, nonnegative=nonnegative)
        stages["reranked"] = evaluate_ranks(reranked_ranks(first, order), benchmark.truths, KAPPAS)
    return Evaluation(
        benchmark.name,
        model,
        queries=len(benchmark.queries),
        images=len(benchmark.images),
        distractors=len(everything) - len(benchmark.images),
        stages=stages,
        options={"rerank_top": rerank_top, "k": k, "beta": beta, "nonnegative": nonnegative},
    )


def rerank_order(
    queries: Tensor, vectors: Descriptors, first: TopRanking, *, k: int, beta: float, nonnegative: bool, batch: int = 8
) -> Tensor:
    """Positions of the reranked candidates, (Q, M) int64; candidates are fetched for `batch` queries at a time."""
    orders = []
    for start in range(0, len(queries), batch):
        some = slice(start, start + batch)
        candidates = vectors.rows(first.ids[some]).to(queries)
        orders.append(rerank(queries[some], candidates, k=k, beta=beta, nonnegative=nonnegative, batch=batch).order)
    return torch.cat(orders)


def _check(queries: Tensor, database: Descriptors, benchmark: Benchmark) -> None:
    if len(queries) != len(benchmark.queries) or len(database) != len(benchmark.images):
        raise InputError(
            f"{benchmark.name} has {len(benchmark.queries)} queries and {len(benchmark.images)} images, "
            f"got {len(queries)} and {len(database)} descriptors"
        )


def _percent(fraction: float) -> float | None:
    return None if math.isnan(fraction) else 100 * float(fraction)


def _shown(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.1f}"
