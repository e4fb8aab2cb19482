"""The ranking is that of a stable sort of exactly rounded scores, for all block sizes, types and devices."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visionzoo.memory import topk
from visionzoo.memory.topk import exact_scores, rank, top_k


def reference(queries: np.ndarray, matrix: np.ndarray, k: int, ids: np.ndarray | None = None) -> np.ndarray:
    """ids by a full sort of correctly rounded sums (math.fsum), independent of the code under test."""
    ids = np.arange(len(matrix)) if ids is None else ids
    out = []
    for query in queries:
        keys = []
        for id_, row in zip(ids.tolist(), matrix, strict=True):
            if id_ >= 0:
                score = np.float32(math.fsum(float(a) * float(b) for a, b in zip(query, row, strict=True)))
                keys.append((-score, id_))
        out.append([id_ for _, id_ in sorted(keys)[:k]])
    return np.array(out, np.int64).reshape(len(queries), -1)


def crowded(seed: int, rows: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Small whole numbers: many exact ties."""
    rng = np.random.default_rng(seed)
    return rng.integers(-2, 3, (5, dim)).astype(np.float32), rng.integers(-2, 3, (rows, dim)).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 9), st.integers(1, 80), st.integers(1, 70), st.booleans()
)
def test_ties_at_every_boundary(seed: int, rows: int, dim: int, k: int, block: int, gaps: bool) -> None:
    queries, matrix = crowded(seed, rows, dim)
    rng = np.random.default_rng(seed + 1)
    ids = rng.permutation(10 * rows)[:rows].astype(np.int64)
    if gaps:
        ids[rng.random(rows) < 0.4] = -1
    got, scores = top_k(queries, matrix, k, ids=ids, block_rows=block)
    wanted = reference(queries, matrix, k, ids)
    np.testing.assert_array_equal(got, wanted)
    where = {int(i): row for row, i in enumerate(ids.tolist()) if i >= 0}
    for query, line, values in zip(queries, got, scores, strict=True):
        assert values.tolist() == [float(query @ matrix[where[i]]) for i in line.tolist()]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("norm_bound", [None, 1.01])
def test_blocks_types_and_queries_do_not_change_the_result(dtype: type, norm_bound: float | None) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((700, 33)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    # Neighbours closer than a float32 product can tell apart.
    matrix[350:] = matrix[:350] * (1 + 1e-7 * rng.standard_normal((350, 1)).astype(np.float32))
    matrix = matrix.astype(dtype)
    queries = matrix[:6].astype(np.float32)
    wanted = reference(queries, matrix, 40)
    whole, scores = top_k(queries, matrix, 40, norm_bound=norm_bound)
    np.testing.assert_array_equal(whole, wanted)
    for block in (1, 7, 64, 699):
        got, again = top_k(queries, torch.from_numpy(matrix), 40, norm_bound=norm_bound, block_rows=block)
        np.testing.assert_array_equal(got, whole)
        np.testing.assert_array_equal(again, scores)
    for line in range(6):
        np.testing.assert_array_equal(top_k(queries[line : line + 1], matrix, 40)[0][0], whole[line])


def test_a_plain_float32_product_would_fail() -> None:
    """The case above can detect errors: a plain product ranks it differently."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((1, 33)).astype(np.float32)
    matrix = base * (1 + 3e-7 * rng.standard_normal((300, 1)).astype(np.float32))
    queries = rng.standard_normal((4, 33)).astype(np.float32)
    wanted = reference(queries, matrix, 300)
    for k in (1, 3, 40, 150, 299, 300):  # the choice of candidates must not trust the product either
        for block in (20, 300):
            np.testing.assert_array_equal(top_k(queries, matrix, k, block_rows=block)[0], wanted[:, :k])
    assert (np.argsort(-(queries @ matrix.T), axis=1, kind="stable") != wanted).any()


def test_one_vector_many_times_with_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """More equal scores than the list of candidates may hold."""
    matrix = np.ones((30_000, 3), np.float32)
    matrix[29_999] = 2
    ids = np.arange(30_000)[::-1].astype(np.int64).copy()
    largest = 0
    original = topk._Candidates._compact

    def watched(self: topk._Candidates) -> None:
        nonlocal largest
        original(self)
        largest = max(largest, len(self.row))

    monkeypatch.setattr(topk._Candidates, "_compact", watched)
    got, _ = top_k(np.ones((2, 3), np.float32), matrix, 5, ids=ids, block_rows=1000)
    assert got.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert 0 < largest <= 2 * (4 * 5 + 4096)


@pytest.mark.parametrize("order", ["rising", "falling"])
def test_sorted_rows(order: str) -> None:
    """Rising: every block beats all earlier ones. Falling: the first block holds the answer."""
    matrix = np.arange(5000, dtype=np.float32)[:, None]
    matrix = matrix if order == "rising" else matrix[::-1].copy()
    got, scores = top_k(np.ones((1, 1), np.float32), matrix, 7, block_rows=100)
    assert scores[0].tolist() == [4999, 4998, 4997, 4996, 4995, 4994, 4993]
    assert got[0].tolist() == (list(range(4999, 4992, -1)) if order == "rising" else list(range(7)))


def test_zeros_tiny_and_large_values() -> None:
    matrix = np.array([[0, 0], [1e-30, 0], [-1e-30, 0], [1e14, 1e14], [-1e14, 0], [1e-44, 0]], np.float32)
    queries = np.array([[1, 0], [0, 0], [1e-20, 1e-20], [1e14, -1e14]], np.float32)
    np.testing.assert_array_equal(top_k(queries, matrix, 6, block_rows=2)[0], reference(queries, matrix, 6))


def test_more_queries_than_one_pass_takes() -> None:
    queries, matrix = crowded(3, 50, 4)
    many = np.tile(queries, (210, 1))  # 1050: three passes
    got, _ = top_k(many, matrix, 9)
    np.testing.assert_array_equal(got, np.tile(top_k(queries, matrix, 9)[0], (210, 1)))


def test_exact_scores_do_not_depend_on_the_company() -> None:
    rng = np.random.default_rng(5)
    query, vectors = rng.standard_normal(77).astype(np.float32), rng.standard_normal((40, 77)).astype(np.float32)
    together = exact_scores(query, vectors)
    alone = np.concatenate([exact_scores(query, row[None]) for row in vectors])
    np.testing.assert_array_equal(together, alone)
    sums = [math.fsum(float(a) * float(b) for a, b in zip(query, row, strict=True)) for row in vectors]
    np.testing.assert_array_equal(together, np.array(sums).astype(np.float32))


def test_rank_orders_ties_by_id() -> None:
    scores = np.array([1, 2, 2, 1, 2], np.float32)
    assert rank(scores, np.array([9, 8, 7, 1, 30]), 4).tolist() == [2, 1, 4, 3]


def test_wrong_arguments_are_named() -> None:
    matrix = np.zeros((3, 4), np.float32)
    with pytest.raises(ValueError, match=r"expected \(Q, 4\)"):
        top_k(np.zeros((1, 5), np.float32), matrix, 1)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        top_k(np.zeros((1, 4), np.float32), matrix, 0)


def test_read_only_file_is_searched_without_a_warning(tmp_path, recwarn: pytest.WarningsRecorder) -> None:
    queries, matrix = crowded(8, 100, 6)
    matrix.astype(np.float16).tofile(tmp_path / "rows")
    mapped = np.memmap(tmp_path / "rows", np.float16, mode="r", shape=(100, 6))
    np.testing.assert_array_equal(top_k(queries, mapped, 10)[0], reference(queries, matrix, 10))
    assert not [w for w in recwarn if "writable" in str(w.message)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_cuda_gives_the_same(precision: str, dtype: type) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((20_000, 64)).astype(dtype)
    queries = rng.standard_normal((9, 64)).astype(np.float32)
    wanted = top_k(queries, matrix, 100)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        for source in (matrix, torch.from_numpy(matrix), torch.from_numpy(matrix).cuda()):
            got = top_k(torch.from_numpy(queries).cuda(), source, 100, block_rows=1024)
            np.testing.assert_array_equal(got[0], wanted[0])
            np.testing.assert_array_equal(got[1], wanted[1])
    finally:
        torch.set_float32_matmul_precision(before)


def test_device_path_on_the_cpu() -> None:
    """The code for devices, run on the CPU, as far as it can be checked without a device."""
    queries, matrix = crowded(4, 500, 8)
    ids = np.arange(500, dtype=np.int64)
    ids[::7] = -1
    product = topk._DeviceProduct(queries, torch.device("cpu"))
    candidates = topk._Candidates(queries, matrix, ids, 30)
    for start, block in product.blocks(matrix.astype(np.float16), 64):
        candidates.slack = topk.error_bound(queries, product.longest(block) + 10, product.unit)
        scores = product.scores(block)
        scores[:, np.flatnonzero(ids[start : start + len(block)] < 0)] = -np.inf
        floor = np.maximum(candidates.floor(), product.kth(scores, 30) - 2 * candidates.slack)
        assert product.count_above(scores, floor) == len(product.above(scores, floor)[1])
        query, row, score = product.above(scores, floor)
        candidates.add(query, row + start, score)
    np.testing.assert_array_equal(candidates.best()[0], reference(queries, matrix, 30, ids))
