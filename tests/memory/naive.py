"""Reference store: a dictionary and a sort."""

from __future__ import annotations

import numpy as np

from visionzoo.memory import VectorStore

DIM = 6


def naive(held: dict[int, np.ndarray], queries: np.ndarray, k: int) -> list[list[int]]:
    """The ranking by its definition; exact for the small integers of these tests."""
    ids = np.array(sorted(held), np.int64)
    if not len(ids):
        return [[] for _ in queries]
    scores = queries.astype(np.float64) @ np.stack([held[i] for i in ids.tolist()]).astype(np.float64).T
    return [ids[np.argsort(-line, kind="stable")[:k]].tolist() for line in scores]


def check(store: VectorStore, held: dict[int, np.ndarray], queries: np.ndarray, k: int) -> None:
    found = store.search(queries, k)
    assert found.ids.dtype == np.int64
    assert found.scores.dtype == np.float32
    assert found.ids.tolist() == naive(held, queries, k)
    for query, ids, scores in zip(queries, found.ids, found.scores, strict=True):
        assert scores.tolist() == [float(query @ held[i]) for i in ids.tolist()]


def whole_numbers(seed: int, count: int, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(seed).integers(-2, 3, (count, dim)).astype(np.float32)


def entries(store: VectorStore) -> dict[int, list[float]]:
    return dict(zip(store.ids().tolist(), store.fetch(store.ids()).tolist(), strict=True))
