"""Metrics of a ranked list, as the revisited Oxford and Paris benchmark defines them.

There are two ways to the same numbers: `evaluate` takes whole rankings; `rank_chunks` reads the database in pieces and
keeps, per query, only the best M images and the ranks of the images in the ground truth, so that a million distractors
do not need rankings of that length.

The protocol (Radenovic et al., CVPR 2018, arXiv 1803.11285) evaluates one ranking at three difficulties:

    Easy    positives: easy          ignored: junk and hard
    Medium  positives: easy, hard    ignored: junk
    Hard    positives: hard          ignored: junk and easy

This is our own implementation because torchmetrics and scikit-learn have neither ignored images nor this average precision,
which integrates the curve by the trapezoidal rule.

Shapes: Q queries, N images in the database, D length of a descriptor, M kept per query, K = len(kappas).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visionzoo.errors import InputError, check_items, described

DIFFICULTIES = {
    "E": (("easy",), ("junk", "hard")),
    "M": (("easy", "hard"), ("junk",)),
    "H": (("hard",), ("junk", "easy")),
}
"""Difficulty -> (labels that count as positive, labels that are removed from the ranking)."""

NOT_LISTED = -1
"""The rank of an image that is not in a ranking."""


@dataclass(frozen=True)
class GroundTruth:
    """Ground truth of one query: disjoint sets of database indices, (n,) int64 each."""

    easy: np.ndarray
    hard: np.ndarray
    junk: np.ndarray

    @classmethod
    def of(cls, entry: GroundTruth | dict[str, Any]) -> GroundTruth:
        """Create it from a dictionary with the keys easy, hard and junk (others are ignored)."""
        if isinstance(entry, GroundTruth):
            return entry
        if not isinstance(entry, Mapping):
            raise InputError(
                f"the ground truth of a query must have easy, hard and junk images, got {described(entry)}"
            )
        return cls(*(np.asarray(entry[label], dtype=np.int64).reshape(-1) for label in ("easy", "hard", "junk")))

    @property
    def named(self) -> np.ndarray:
        """All images in this ground truth, (n,) int64: easy, then hard, then junk."""
        return np.concatenate([self.easy, self.hard, self.junk])


# Metrics


def average_precision(positions: Sequence[int] | np.ndarray, num_positives: int) -> float:
    """Area under the precision-recall curve by the trapezoidal rule, in [0, 1].

    Args:
        positions: 0-based ranks of the positives that were found, after ignored images are removed.
        num_positives: total number of positives; those not found add nothing.

    Returns:
        The average precision, NaN if there are no positives.
    """
    if num_positives <= 0:
        return float("nan")
    position = np.sort(np.asarray(positions, dtype=np.float64))
    found = np.arange(len(position))
    before = np.where(position == 0, 1.0, found / np.maximum(position, 1))
    after = (found + 1) / (position + 1)
    return float(np.sum(before + after) / (2 * num_positives))


def precision_at(positions: Sequence[int] | np.ndarray, kappas: Sequence[int]) -> np.ndarray:
    """Precision among the first k images: (K,) float64 in [0, 1].

    A list ends at its last positive: with three positives at the first three ranks, precision at 10 is 1.

    Args:
        positions: as for `average_precision`.
        kappas: the values of k.
    """
    place = np.asarray(positions, dtype=np.int64) + 1
    if len(place) == 0:
        return np.zeros(len(kappas))
    cuts = np.minimum(int(place.max()), np.asarray(kappas))
    return (place[:, None] <= cuts).sum(0) / cuts


def evaluate_ranks(
    ranks: Sequence[np.ndarray],
    ground_truth: Sequence[GroundTruth | dict[str, Any]],
    kappas: Sequence[int] = (1, 5, 10),
) -> dict[str, dict[str, Any]]:
    """All metrics from the ranks of the images in the ground truth.

    Args:
        ranks: per query, the 0-based ranks of the images in `GroundTruth.named`, in that order; `NOT_LISTED` for an image
            that is not in the ranking.
        ground_truth: ground truth of each query.
        kappas: the values of k for precision at k.

    Returns:
        For each difficulty "E", "M", "H" a dictionary with `map` (float), `aps` (Q,), `mean_precision_at` (K,) and
        `precision_per_query` (Q, K), as fractions. A query without positives is NaN and excluded from the means.
    """
    truths = [GroundTruth.of(entry) for entry in ground_truth]
    if len(ranks) != len(truths):
        raise InputError(f"{len(ranks)} rankings for {len(truths)} queries of the ground truth")
    results: dict[str, dict[str, Any]] = {}
    for difficulty, (positive, ignored) in DIFFICULTIES.items():
        aps = np.full(len(truths), np.nan)
        precision = np.full((len(truths), len(kappas)), np.nan)
        for i, (truth, rank) in enumerate(zip(truths, ranks, strict=True)):
            by_label = _split(truth, rank)
            num_positives = sum(len(getattr(truth, label)) for label in positive)
            if num_positives:
                positions = _without(_listed(by_label, positive), _listed(by_label, ignored))
                aps[i] = average_precision(positions, num_positives)
                precision[i] = precision_at(positions, kappas)
        results[difficulty] = {
            "map": _mean(aps),
            "aps": aps,
            "mean_precision_at": np.array([_mean(column) for column in precision.T]),
            "precision_per_query": precision,
        }
    return results


def evaluate(
    rankings: Iterable[Any], ground_truth: Sequence[GroundTruth | dict[str, Any]], kappas: Sequence[int] = (1, 5, 10)
) -> dict[str, dict[str, Any]]:
    """All metrics from rankings: per query, database indices from best to worst ((Q, N), or lists of any length).

    Returns the same as `evaluate_ranks`.
    """
    check_items("rankings", rankings, "a list of database indices for each query")
    check_items("ground_truth", ground_truth, "the ground truth of each query")
    truths, rankings = [GroundTruth.of(entry) for entry in ground_truth], list(rankings)
    if len(rankings) != len(truths):
        raise InputError(f"{len(rankings)} rankings for {len(truths)} queries of the ground truth")
    ranks = [ranks_in(ranking, truth.named) for ranking, truth in zip(rankings, truths, strict=True)]
    return evaluate_ranks(ranks, truths, kappas)


def ranks_in(ranking: Any, images: np.ndarray) -> np.ndarray:
    """The 0-based ranks of `images` in one `ranking`; `NOT_LISTED` for those that are not in it."""
    ranking = np.asarray(ranking, dtype=np.int64)
    order = np.argsort(ranking, kind="stable")
    place = np.searchsorted(ranking, images, sorter=order)
    held = place < len(ranking)
    rank = np.full(len(images), NOT_LISTED, dtype=np.int64)
    at = order[place[held]]
    rank[held] = np.where(ranking[at] == images[held], at, NOT_LISTED)
    return rank


def _split(truth: GroundTruth, rank: np.ndarray) -> dict[str, np.ndarray]:
    easy, hard = len(truth.easy), len(truth.easy) + len(truth.hard)
    return {"easy": rank[:easy], "hard": rank[easy:hard], "junk": rank[hard:]}


def _listed(by_label: dict[str, np.ndarray], labels: Iterable[str]) -> np.ndarray:
    rank = np.concatenate([by_label[label] for label in labels])
    return np.sort(rank[rank != NOT_LISTED])


def _without(positions: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """`positions` in the list after the `ignored` positions are removed; both are sorted."""
    return positions - np.searchsorted(ignored, positions)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


# Ranks in bounded memory


@dataclass(frozen=True)
class TopRanking:
    """The part of a first ranking that is needed.

    Attributes:
        ids: (Q, M) int64, the M best database indices for each query, best first.
        scores: (Q, M) float32, their scores.
        ranks: per query, the ranks of its watched images in the whole database, (n,) int64.
        size: N, number of images in the database.
    """

    ids: Tensor
    scores: Tensor
    ranks: list[np.ndarray]
    size: int


def rank_chunks(
    queries: Tensor, chunks: Callable[[], Iterable[Tensor]], watched: Sequence[np.ndarray], top: int
) -> TopRanking:
    """Rank a database that is read in pieces. Equal scores are ordered by the lower index, as in a stable sort.

    It needs memory for one piece, its (Q, n) scores, and (Q, top) results. The pieces up to the last watched image are read
    twice: once for the scores of the watched images, once to count the scores above them.

    Args:
        queries: (Q, D) float32, on the device for the computation.
        chunks: each call iterates over the whole database, as (n, D) tensors in the order of their indices.
        watched: per query, the database indices whose ranks are needed.
        top: M, the number of best images to keep.

    Raises:
        InputError: a watched index is beyond the database, or a descriptor has another length or values that are not finite.
    """
    target, index = _watched_scores(queries, chunks, watched)
    ranks = torch.zeros_like(index)
    best_scores = queries.new_empty(len(queries), 0)
    best_ids = index.new_empty(len(queries), 0)
    start = 0
    for chunk in chunks():
        scores = _scores(queries, chunk, start)
        ranks += _count_above(scores, start, target, index)
        best_scores, best_ids = _merge_top(best_scores, best_ids, scores, start, top)
        start += len(chunk)
    held = [np.asarray(row[: len(own)]) for row, own in zip(ranks.cpu().numpy(), watched, strict=True)]
    return TopRanking(best_ids, best_scores, held, start)


def reranked_ranks(first: TopRanking, order: Tensor) -> list[np.ndarray]:
    """The ranks after the best M were reordered; ranks from M on stay the same.

    Args:
        first: the first ranking.
        order: (Q, M) int64, positions in `first.ids` from best to worst (`RerankResult.order`).
    """
    top = order.shape[1]
    if not top:
        return first.ranks
    places = torch.arange(top, device=order.device).expand_as(order)
    moved = torch.empty_like(order).scatter_(1, order, places).cpu().numpy()
    return [
        np.where(rank < top, row[np.minimum(rank, top - 1)], rank) for rank, row in zip(first.ranks, moved, strict=True)
    ]


def _scores(queries: Tensor, chunk: Tensor, start: int) -> Tensor:
    """Dot products (Q, n) of one piece."""
    if chunk.ndim != 2 or chunk.shape[1] != queries.shape[1]:
        raise InputError(
            f"descriptors from number {start} on have shape {tuple(chunk.shape)}, expected (n, {queries.shape[1]})"
        )
    scores = queries @ chunk.to(queries).T
    if not bool(torch.isfinite(scores).all()):
        wrong = start + int((~torch.isfinite(scores)).any(0).nonzero()[0])
        raise InputError(f"the score of descriptor number {wrong} is not finite; its file is damaged: make it again")
    return scores


def _watched_scores(
    queries: Tensor, chunks: Callable[[], Iterable[Tensor]], watched: Sequence[np.ndarray]
) -> tuple[Tensor, Tensor]:
    """Scores and indices of the watched images, both (Q, W), padded with +inf and -1.

    They come from the same products, piece by piece, with which they are compared later: a product of another shape may
    round differently, and an image would then not even tie with itself.
    """
    if len(watched) != len(queries):
        raise InputError(f"{len(queries)} queries, but ground truth for {len(watched)}")
    width = max((len(own) for own in watched), default=0)
    index = torch.full((len(queries), width), -1, dtype=torch.long)
    for i, own in enumerate(watched):
        index[i, : len(own)] = torch.as_tensor(np.asarray(own, dtype=np.int64))
    index = index.to(queries.device)
    target = torch.full(index.shape, torch.inf, dtype=queries.dtype, device=queries.device)
    last, start = int(index.max()) if index.numel() else -1, 0
    for chunk in chunks():
        if start > last:
            break
        scores = _scores(queries, chunk, start)
        inside = (index >= start) & (index < start + len(chunk))
        local = (index - start).clamp(0, max(len(chunk) - 1, 0))
        if len(chunk):
            target = torch.where(inside, scores.gather(1, local), target)
        start += len(chunk)
    if start <= last:
        raise InputError(f"the ground truth names image number {last}, but the database has {start}")
    return target, index


def _count_above(scores: Tensor, start: int, target: Tensor, index: Tensor) -> Tensor:
    """Number of images of one piece that rank before each watched image, (Q, W) int64."""
    size = scores.shape[1]
    if not size or not target.numel():
        return torch.zeros_like(index)
    ordered = _sorted_rows(scores)
    not_above = torch.searchsorted(ordered, target, right=True)
    equal = not_above - torch.searchsorted(ordered, target)
    above = size - not_above
    above += torch.where(index >= start + size, equal, 0)
    own = (index >= start) & (index < start + size) & (equal > 1)
    for q, w in own.nonzero().tolist():  # rare: another image of this piece has exactly the same score
        above[q, w] += (scores[q, : int(index[q, w]) - start] == target[q, w]).sum()
    return above


def _sorted_rows(scores: Tensor) -> Tensor:
    if scores.device.type == "cpu":  # faster than torch.sort, which carries the indices along
        return torch.from_numpy(np.sort(scores.numpy(), axis=1))
    return scores.sort(dim=1).values


def _merge_top(best_scores: Tensor, best_ids: Tensor, scores: Tensor, start: int, top: int) -> tuple[Tensor, Tensor]:
    """The best `top` among those kept so far and one piece; ties go to the lower index."""
    size = scores.shape[1]
    keep = min(top, best_ids.shape[1] + size)
    if not size or not keep:
        return best_scores[:, :keep], best_ids[:, :keep]
    least = scores.topk(min(top, size), dim=1).values[:, -1:]  # values only: ties in topk are arbitrary
    candidate = scores >= least
    if best_ids.shape[1] == top:
        candidate &= scores > best_scores[:, -1:]
    rows = []
    for q in range(len(scores)):
        new = candidate[q].nonzero().squeeze(1)
        joined = torch.cat([best_scores[q], scores[q, new]])
        order = joined.sort(descending=True, stable=True).indices[:keep]
        rows.append((joined[order], torch.cat([best_ids[q], new + start])[order]))
    return torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])
