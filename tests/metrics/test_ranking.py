"""Average precision, precision at k and ranks in bounded memory."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visionzoo.errors import InputError
from visionzoo.metrics.ranking import (
    GroundTruth,
    TopRanking,
    average_precision,
    evaluate,
    evaluate_ranks,
    precision_at,
    rank_chunks,
    ranks_in,
    reranked_ranks,
)


@pytest.mark.parametrize(
    ("positions", "positives", "expected"),
    [
        ([0], 1, 1.0),
        ([1], 1, 0.25),  # precision 0 before the hit, 1/2 at it
        ([0, 1, 2], 3, 1.0),
        ([2, 0, 1], 3, 1.0),  # the order in which hits are named does not matter
        ([0, 1], 4, 0.5),  # what is not found adds nothing
        ([], 2, 0.0),
    ],
)
def test_average_precision_by_hand(positions, positives, expected):
    assert average_precision(positions, positives) == pytest.approx(expected)


def test_without_positives_the_result_is_nan():
    assert math.isnan(average_precision([], 0))


def test_precision_ends_at_the_last_positive():
    np.testing.assert_allclose(precision_at([0, 1, 2], [1, 5, 10]), [1, 1, 1])
    np.testing.assert_allclose(precision_at([1, 9], [1, 5, 10]), [0, 1 / 5, 2 / 10])


def test_ignored_images_leave_the_ranking():
    truth = [{"easy": [4], "hard": [2], "junk": [0]}]
    results = evaluate([[0, 2, 4, 1, 3]], truth)
    # Easy: 0 (junk) and 2 (hard) go, 4 is first. Medium: 2, 4 lead. Hard: 2 is first.
    assert [results[d]["map"] for d in "EMH"] == [1.0, 1.0, 1.0]
    results = evaluate([[1, 0, 2, 4, 3]], truth)
    assert results["E"]["map"] == pytest.approx(0.25)  # left: 1, 4, 3
    assert results["H"]["map"] == pytest.approx(0.25)  # left: 1, 2, 3


def test_a_query_without_positives_is_excluded_from_the_means():
    truth = [{"easy": [0], "hard": [], "junk": []}, {"easy": [], "hard": [1], "junk": []}]
    results = evaluate([[0, 1], [0, 1]], truth)
    assert results["E"]["map"] == 1.0
    assert math.isnan(results["E"]["aps"][1])
    assert results["H"]["map"] == pytest.approx(0.25)
    assert np.isnan(results["H"]["precision_per_query"][0]).all()
    np.testing.assert_allclose(results["H"]["mean_precision_at"], [0, 0.5, 0.5])


def test_a_ranking_may_be_truncated():
    truth = [{"easy": [0, 1], "hard": [2], "junk": [3]}]
    whole = evaluate([[3, 0, 2, 4, 1]], truth)
    cut = evaluate([[3, 0, 2]], truth)
    assert cut["E"]["map"] == pytest.approx(0.5)  # one of two, at the top
    assert cut["H"]["map"] == whole["H"]["map"]


def test_number_of_rankings_and_queries_must_agree():
    with pytest.raises(InputError, match="2 rankings for 1 queries"):
        evaluate_ranks([np.array([0]), np.array([0])], [{"easy": [0], "hard": [], "junk": []}])


def _naive(scores: np.ndarray) -> np.ndarray:
    return np.argsort(-scores, axis=1, kind="stable")


@st.composite
def databases(draw):
    """Descriptors of small integers: their products are exact, and many are equal."""
    seed = draw(st.integers(0, 2**31))
    num_queries, size, dim = draw(st.integers(1, 4)), draw(st.integers(1, 60)), draw(st.integers(1, 3))
    random = np.random.default_rng(seed)
    values = random.integers(-1, 2, (size, dim)).astype(np.float32)
    queries = random.integers(-1, 2, (num_queries, dim)).astype(np.float32)
    labels = random.integers(0, 5, (num_queries, size))
    cuts = sorted(draw(st.lists(st.integers(0, size), max_size=5)))
    return queries, values, labels, [0, *cuts, size], draw(st.integers(1, size + 3))


@settings(max_examples=150, deadline=None)
@given(databases())
def test_ranks_from_pieces_equal_those_of_a_stable_sort(case):
    queries, values, labels, cuts, top = case
    truths = [GroundTruth(*(np.flatnonzero(row == label) for label in range(3))) for row in labels]

    def chunks():
        for start, stop in itertools.pairwise(cuts):
            yield torch.from_numpy(values[start:stop])

    got = rank_chunks(torch.from_numpy(queries), chunks, [truth.named for truth in truths], top)
    rankings = _naive(queries @ values.T)
    assert got.size == len(values)
    np.testing.assert_array_equal(got.ids.numpy(), rankings[:, :top])
    np.testing.assert_array_equal(got.scores.numpy(), np.take_along_axis(queries @ values.T, rankings[:, :top], 1))
    for rank, ranking, truth in zip(got.ranks, rankings, truths, strict=True):
        np.testing.assert_array_equal(rank, ranks_in(ranking, truth.named))


@settings(max_examples=50, deadline=None)
@given(databases(), st.integers(0, 2**31))
def test_reranking_moves_the_best_and_leaves_the_rest(case, seed):
    queries, values, labels, _, top = case
    truths = [GroundTruth(*(np.flatnonzero(row == label) for label in range(3))) for row in labels]
    rankings = _naive(queries @ values.T)
    top = min(top, len(values))
    random = np.random.default_rng(seed)
    order = np.stack([random.permutation(top) for _ in queries])
    first = TopRanking(
        torch.from_numpy(rankings[:, :top].copy()),
        torch.zeros(len(queries), top),
        [ranks_in(ranking, truth.named) for ranking, truth in zip(rankings, truths, strict=True)],
        len(values),
    )
    moved = reranked_ranks(first, torch.from_numpy(order))
    for rank, ranking, own, truth in zip(moved, rankings, order, truths, strict=True):
        expected = np.concatenate([ranking[:top][own], ranking[top:]])
        np.testing.assert_array_equal(rank, ranks_in(expected, truth.named))


def test_ground_truth_beyond_the_database_is_named():
    with pytest.raises(InputError, match="names image number 9, but the database has 3"):
        rank_chunks(torch.ones(1, 2), lambda: [torch.ones(3, 2)], [np.array([9])], 2)


def test_damaged_descriptors_are_named():
    values = torch.ones(5, 2)
    values[3, 0] = torch.nan
    with pytest.raises(InputError, match="descriptor number 3 is not finite"):
        rank_chunks(torch.ones(1, 2), lambda: [values[:2], values[2:]], [np.array([0])], 2)
