"""The second stage of a search, and the photos of a ranking."""

from __future__ import annotations

import math

import numpy as np
import torch

from visionzoo.errors import InputError

from ...models.superglobal import rerank as rerank_candidates
from ...models.superglobal.identity import is_missing
from ...models.superglobal.index import PhotoIndex
from .results import Match


def check_score(min_score: float | None) -> None:
    """Raise `InputError` unless `min_score` is a possible score."""
    if min_score is not None and not (math.isfinite(min_score) and -1 <= min_score <= 1):
        raise InputError(f"min_score must be between -1 and 1, got {min_score}")


def rerank_in_place(
    index: PhotoIndex,
    vectors: np.ndarray,
    ids: np.ndarray,
    order: np.ndarray,
    scores: np.ndarray,
    m: int,
    k: int,
    beta: float,
) -> None:
    """Rerank the first `m` places of each query's candidates `ids` (Q, N); their vectors are fetched a query at a time."""
    for q, (vector, row) in enumerate(zip(vectors, ids[:, :m], strict=True)):
        candidates = torch.from_numpy(index.store.fetch(row))[None]
        result = rerank_candidates(torch.from_numpy(vector)[None], candidates, k=k, beta=beta, nonnegative=True)
        order[q, : len(row)] = result.order[0].numpy()
        scores[q, : len(row)] = result.scores[0].numpy()


def matches(
    index: PhotoIndex, ids: np.ndarray, scores: np.ndarray, order: np.ndarray, top: int, min_score: float | None
) -> tuple[Match, ...]:
    """The first `top` photos in `order`; descriptors that belong to no photo (a run was killed) are skipped."""
    found: list[Match] = []
    for place in order.tolist():
        score = round(float(scores[place]), 6)
        if min_score is not None and score < min_score:
            continue
        photo = index.photo(int(ids[place]))
        if photo is not None:
            found.append(Match(photo.path, score, len(found) + 1, place + 1, is_missing(photo.path)))
        if len(found) == top:
            break
    return tuple(found)


__all__ = ["check_score", "matches", "rerank_in_place"]
