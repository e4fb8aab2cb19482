"""Measures of quality that more than one system reports."""

from __future__ import annotations

from visionzoo.lazy import attach

_names = {
    name: f"{__name__}.ranking:{name}"
    for name in (
        "GroundTruth",
        "TopRanking",
        "average_precision",
        "evaluate",
        "evaluate_ranks",
        "precision_at",
        "rank_chunks",
        "ranks_in",
        "reranked_ranks",
    )
}
__getattr__, __dir__ = attach(__name__, _names)
__all__ = list(_names)  # pyright: ignore[reportUnsupportedDunderAll]
