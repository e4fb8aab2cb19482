"""Reranking with global features only (arXiv 2308.06954, section 3.3), in a form that never builds refined vectors.

A refined vector is a weighted mean r_i = sum_n w_in g_n of a candidate and its K nearest candidates, so that a score
q . r_i = sum_n w_in (q . g_n) needs only the M dot products q . g_n. Only K + 1 of the M refined vectors are ever built.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from visionzoo.errors import InputError


@dataclass(frozen=True)
class RerankResult:
    """The result of reranking for Q queries with M candidates each; candidates are named by their place in the first ranking.

    Attributes:
        order: (Q, M) int64, candidates from best to worst.
        scores: (Q, M) final score per candidate, (s1 + s2) / 2.
        s1: (Q, M) scores of the query against the refined candidates.
        s2: (Q, M) scores of the expanded query against them.
        expanded_query: (Q, D) element-wise maximum of the K + 1 best refined candidates.
    """

    order: Tensor
    scores: Tensor
    s1: Tensor
    s2: Tensor
    expanded_query: Tensor


def neighbour_weights(candidates: Tensor, k: int, beta: float, *, nonnegative: bool = False) -> tuple[Tensor, Tensor]:
    """Each candidate's own place and its k nearest candidates, with the weights of its refined vector.

    Args:
        candidates: (Q, M, D) unit vectors.

    Returns:
        places (Q, M, k+1) int64 with itself first, weights (Q, M, k+1) that sum to 1: before the division 1 for itself and
        beta times the similarity for a neighbour.
    """
    similarity = gram(candidates)
    similarity.diagonal(dim1=-2, dim2=-1).fill_(
        torch.inf
    )  # the candidate itself comes first, even before its duplicates
    weights, places = similarity.topk(min(k + 1, candidates.shape[1]), dim=-1)
    weights[..., 1:] *= beta
    weights[..., 0] = 1
    if nonnegative:
        weights.clamp_(min=0)
    return places, weights / weights.sum(-1, keepdim=True)


def gram(vectors: Tensor, strips: int = 4) -> Tensor:
    """All dot products among (Q, M, D) vectors: (Q, M, M). On a CPU only the upper strips are multiplied, the rest is mirrored."""
    if vectors.device.type != "cpu":
        return vectors @ vectors.mT
    m = vectors.shape[1]
    step = max(1, -(-m // strips))
    products = vectors.new_empty(len(vectors), m, m)
    for start in range(0, m, step):
        end = min(start + step, m)
        torch.matmul(vectors[:, start:end], vectors[:, start:].mT, out=products[:, start:end, start:])
        products[:, end:, start:end] = products[:, start:end, end:].mT
    return products


def mix(values: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of `values` (Q, M) at `places` (Q, M, k+1): (Q, M)."""
    expanded = values[:, None].expand(-1, places.shape[1], -1)
    return (expanded.gather(-1, places) * weights).sum(-1)


def refined(candidates: Tensor, places: Tensor, weights: Tensor, rows: Tensor) -> Tensor:
    """The refined vectors of `rows` (Q, R): (Q, R, D)."""
    q = torch.arange(len(candidates), device=candidates.device)
    neighbours = candidates[q[:, None, None], places[q[:, None], rows]]  # (Q, R, k+1, D)
    return (neighbours * weights[q[:, None], rows][..., None]).sum(2)


def rerank(
    queries: Tensor,
    candidates: Tensor,
    *,
    k: int = 9,
    beta: float = 0.15,
    nonnegative: bool = False,
    batch: int | None = None,
) -> RerankResult:
    """Reorder the candidates of each query.

    Args:
        queries: (Q, D) unit vectors.
        candidates: (Q, M, D) unit vectors, best first (the published M is 400). They are read in batches, so this may be
            a memory-mapped or a host tensor while the queries are on a GPU.
        k: number of neighbours that refine a candidate. With fewer than k + 1 candidates all of them are used.
        beta: weight of a neighbour relative to the candidate itself.
        nonnegative: give neighbours of negative similarity no weight. The published code does not; in small or unusual
            collections, its weights can then nearly cancel.
        batch: queries at a time; extra memory is about batch * M * M values. By default 1 on a CPU, where more would only
            leave the cache, and 16 elsewhere.

    Raises:
        InputError: shapes that do not match, or k or beta out of range.
    """
    if queries.ndim != 2 or candidates.ndim != 3 or candidates.shape[::2] != queries.shape:
        raise InputError(
            f"expected queries (Q, D) and candidates (Q, M, D), got {tuple(queries.shape)} and {tuple(candidates.shape)}"
        )
    if k < 0 or not 0 <= beta < float("inf"):
        raise InputError(f"k and beta must not be negative, got k={k}, beta={beta}")
    if queries.shape[0] == 0 or candidates.shape[1] == 0:
        empty = queries.new_zeros(candidates.shape[:2])
        return RerankResult(empty.long(), empty, empty, empty, torch.zeros_like(queries))
    batch = batch or (1 if queries.device.type == "cpu" else 16)
    parts = [
        _rerank_batch(q, c.to(q), k, beta, nonnegative)
        for q, c in zip(queries.split(batch), candidates.split(batch), strict=True)
    ]
    return RerankResult(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _rerank_batch(q_QD: Tensor, g_QMD: Tensor, k: int, beta: float, nonnegative: bool) -> tuple[Tensor, ...]:
    places, weights = neighbour_weights(g_QMD, k, beta, nonnegative=nonnegative)
    s1 = mix(_dots(g_QMD, q_QD), places, weights)
    best = s1.argsort(dim=-1, descending=True, stable=True)[:, : k + 1]
    expanded = refined(g_QMD, places, weights, best).amax(1)
    s2 = mix(_dots(g_QMD, expanded), places, weights)
    scores = (s1 + s2) / 2
    return scores.argsort(dim=-1, descending=True, stable=True), scores, s1, s2, expanded


def _dots(g_QMD: Tensor, q_QD: Tensor) -> Tensor:
    return (g_QMD @ q_QD[..., None]).squeeze(-1)
