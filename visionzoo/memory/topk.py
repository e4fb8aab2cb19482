"""Exact top-k by inner product over a matrix of any size, in row blocks.

The rounding of a matrix product depends on block sizes, device and library, so its scores alone cannot define a ranking.
Here a score is *defined* as the float64 sum of the products in one fixed order (`exact_scores`), rounded to float32, and
the ranking is by that score, ties by the lower id. The fast product only selects candidates: its rounding error is
bounded, and every row within that bound of the k-th best is scored exactly. So the result is the same on every device
and for every block size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..streaming import stream_to

__all__ = ["error_bound", "exact_scores", "rank", "top_k"]

Matrix = np.ndarray | torch.Tensor

_QUERIES = 512  # queries per pass over the matrix
_SCORES = 1 << 24  # entries of a score block: 64 MB
_VALUES = 1 << 23  # entries of a row block: 32 MB in float32
_CACHE = 1 << 18  # values converted to float32 at once: 1 MB
_SERIAL = (1 << 15) - 1  # values that torch copies in one thread
_EXACT = 1 << 21  # products that are summed exactly at once: 16 MB


def exact_scores(query: NDArray[np.float32], vectors: np.ndarray) -> NDArray[np.float32]:
    """The scores that define the ranking.

    Args:
        query: (D,) float32.
        vectors: (n, D) float32 or float16.

    Returns:
        (n,) float32: inner products summed pairwise in float64, in an order that depends on D alone.
    """
    scores = np.empty(len(vectors), np.float32)
    wide = query.astype(np.float64)
    step = max(1, _EXACT // max(1, len(query)))
    for start in range(0, len(vectors), step):
        part = vectors[start : start + step].astype(np.float64)
        part *= wide
        width = part.shape[1]
        while width > 1:
            half = width // 2
            part[:, :half] += part[:, width - half : width]
            width -= half
        scores[start : start + step] = part[:, 0]
    return scores


def rank(scores: NDArray[np.float32], ids: NDArray[np.int64], k: int) -> NDArray[np.intp]:
    """Positions of the k best of (n,) scores, by descending score, then by the lower id."""
    return np.lexsort((ids, -scores))[:k]


def error_bound(queries: NDArray[np.float32], norm_bound: float, unit: float = 2.0**-24) -> NDArray[np.float64]:
    """Bound on the difference between a float32 product in any summation order and `exact_scores`.

    Args:
        queries: (Q, D).
        norm_bound: upper bound of the norms of the vectors.
        unit: relative rounding error of one operation.

    Returns:
        (Q,) float64: (D + 4) * unit * |query| * norm_bound, plus a term for underflow.
    """
    dim = queries.shape[1]
    norms = np.linalg.norm(queries.astype(np.float64), axis=1)
    return 1.01 * (dim + 4) * unit * norms * norm_bound + dim * 2.0**-125


def top_k(
    queries: Matrix,
    matrix: Matrix,
    k: int,
    *,
    ids: NDArray[np.int64] | None = None,
    norm_bound: float | None = None,
    block_rows: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k rows of `matrix` with the largest inner product, for every query.

    Args:
        queries: (Q, D) finite floats. CUDA queries are processed on their device, to which the blocks are streamed.
        matrix: (N, D) float32 or float16, finite; a tensor or an array, e.g. a memory-mapped file.
        k: number of results, at least 1; limited to the number of entries.
        ids: (N,) int64, the unique id of each row; rows with negative ids are skipped. Default: the row numbers.
        norm_bound: upper bound of the norms of the rows. Default: measured, which costs a pass over the rows.
        block_rows: rows per block. Default: chosen by D and Q, so that a block takes 32 MB and its scores at most 64 MB.

    Returns:
        ids (Q, k) int64 and scores (Q, k) float32, by descending score, ties by the lower id.
    """
    device = queries.device if isinstance(queries, torch.Tensor) else torch.device("cpu")
    host = np.ascontiguousarray(_host(queries), np.float32)
    count, dim = matrix.shape
    if host.ndim != 2 or host.shape[1] != dim:
        raise ValueError(
            f"queries of shape {tuple(host.shape)} do not fit a matrix of {dim} columns; expected (Q, {dim})"
        )
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    row_ids = np.arange(count, dtype=np.int64) if ids is None else ids
    k = min(k, int(np.count_nonzero(row_ids >= 0)))
    out_ids = np.empty((len(host), k), np.int64)
    out_scores = np.empty((len(host), k), np.float32)
    if k == 0:
        return out_ids, out_scores
    for start in range(0, len(host), _QUERIES):
        some = host[start : start + _QUERIES]
        rows_at_once = block_rows or max(256, min(_VALUES // dim, _SCORES // len(some)))
        found = _scan(some, matrix, k, row_ids, norm_bound, rows_at_once, device)
        out_ids[start : start + len(some)], out_scores[start : start + len(some)] = found
    return out_ids, out_scores


def _scan(
    queries: NDArray[np.float32],
    matrix: Matrix,
    k: int,
    ids: NDArray[np.int64],
    norm_bound: float | None,
    block_rows: int,
    device: torch.device,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """`top_k` for queries that share one pass."""
    candidates = _Candidates(queries, matrix, ids, k)
    product: Any = _HostProduct(queries) if device.type == "cpu" else _DeviceProduct(queries, device)
    for start, block in product.blocks(matrix, block_rows):
        bound = norm_bound if norm_bound is not None else product.longest(block)
        candidates.slack = np.maximum(candidates.slack, error_bound(queries, bound, product.unit))
        scores = product.scores(block)
        free = np.flatnonzero(ids[start : start + len(block)] < 0)
        if len(free):
            scores[:, free] = -np.inf
        floor = candidates.floor()
        known = not np.isinf(floor).any()
        if not known or product.count_above(scores, floor) > 4 * k * len(queries):
            # Too many candidates to keep: rows below the block's own k-th best cannot be in the result either.
            floor = np.maximum(floor, product.kth(scores, k) - 2 * candidates.slack)
        query, row, approximate = product.above(scores, floor)
        candidates.add(query, row + start, approximate)
    return candidates.best()


class _Candidates:
    """Rows that may be among the k best, for all queries in flat arrays; their scores are approximate until the end."""

    def __init__(self, queries: NDArray[np.float32], matrix: Matrix, ids: NDArray[np.int64], k: int) -> None:
        self.queries, self.matrix, self.ids, self.k = queries, matrix, ids, k
        self.slack = np.zeros(len(queries))  # (Q,) bound on |approximate - exact|
        self.kth = np.full(len(queries), -np.inf)  # (Q,) k-th best approximate score so far
        self.query = np.empty(0, np.int64)
        self.row = np.empty(0, np.int64)
        self.score = np.empty(0, np.float32)
        self.limit = 0

    def floor(self) -> NDArray[np.float64]:
        """(Q,) limits: a row with a lower approximate score cannot be among the k best.

        At least k rows have an exact score of kth - slack or more, and such a row has less than kth - slack.
        """
        return self.kth - 2 * self.slack

    def add(self, query: NDArray[np.int64], row: NDArray[np.int64], score: NDArray[np.float32]) -> None:
        self.query = np.concatenate([self.query, query])
        self.row = np.concatenate([self.row, row])
        self.score = np.concatenate([self.score, score])
        if len(self.row) > self.limit:
            self._compact()
            # Another pass over the list pays off once the list has grown by half.
            self.limit = len(self.row) + len(self.row) // 2

    def _compact(self) -> None:
        """Raise `kth` and drop rows below the floor; rank lists that ties have made long by exact scores."""
        order = np.lexsort((-self.score, self.query))
        self.query, self.row, self.score = self.query[order], self.row[order], self.score[order]
        starts = np.searchsorted(self.query, np.arange(len(self.queries) + 1))
        full = np.flatnonzero(np.diff(starts) >= self.k)
        self.kth[full] = np.maximum(self.kth[full], self.score[starts[full] + self.k - 1])
        keep = self.score >= self.floor()[self.query]
        kept = np.bincount(self.query[keep], minlength=len(self.queries))
        for query in np.flatnonzero(kept > 4 * self.k + 4096):
            span = np.flatnonzero(keep & (self.query == query))
            exact = exact_scores(self.queries[query], _rows(self.matrix, self.row[span]))
            keep[span] = False
            keep[span[rank(exact, self.ids[self.row[span]], self.k)]] = True
        self.query, self.row, self.score = self.query[keep], self.row[keep], self.score[keep]

    def best(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The ids and exact scores of the k best, (Q, k) each."""
        self._compact()
        out_ids = np.empty((len(self.queries), self.k), np.int64)
        out_scores = np.empty((len(self.queries), self.k), np.float32)
        starts = np.searchsorted(self.query, np.arange(len(self.queries) + 1))
        for query in range(len(self.queries)):
            rows = np.sort(self.row[starts[query] : starts[query + 1]])  # in file order, which a disk reads faster
            exact = exact_scores(self.queries[query], _rows(self.matrix, rows))
            order = rank(exact, self.ids[rows], self.k)
            out_ids[query], out_scores[query] = self.ids[rows[order]], exact[order]
        return out_ids, out_scores


class _HostProduct:
    """Products on the CPU with NumPy, whose BLAS is faster here for few queries."""

    unit = 2.0**-24

    def __init__(self, queries: NDArray[np.float32]) -> None:
        self.queries = queries
        self._wide = np.empty((max(1, _CACHE // queries.shape[1]), queries.shape[1]), np.float32)
        self._scores = np.empty((0, 0), np.float32)

    def blocks(self, matrix: Matrix, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, len(matrix), rows):
            block = matrix[start : start + rows]
            yield start, block.cpu().numpy() if isinstance(block, torch.Tensor) else block

    def _widened(self, block: np.ndarray) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The block in float32: unchanged, or converted in pieces that stay in the processor's cache."""
        if block.dtype == np.float32:
            yield 0, block
            return
        step, serial = len(self._wide), max(1, _SERIAL // block.shape[1])
        for start in range(0, len(block), step):
            part = block[start : start + step]
            wide = self._wide[: len(part)]
            source, target = as_tensor(part), torch.from_numpy(wide)
            # torch converts ten times as fast as NumPy. The pieces are small enough for one thread: torch's threads and
            # those of NumPy's BLAS would otherwise compete for the processor.
            for low in range(0, len(part), serial):
                target[low : low + serial].copy_(source[low : low + serial])
            yield start, wide

    def longest(self, block: np.ndarray) -> float:
        squares = [np.einsum("nd,nd->n", part, part, dtype=np.float64).max() for _, part in self._widened(block)]
        return float(np.sqrt(max(squares)))

    def scores(self, block: np.ndarray) -> NDArray[np.float32]:
        if self._scores.shape[1] < len(block):
            self._scores = np.empty((len(self.queries), len(block)), np.float32)
        scores = self._scores[:, : len(block)]
        for start, part in self._widened(block):
            np.matmul(self.queries, part.T, out=scores[:, start : start + len(part)])
        return scores

    def count_above(self, scores: NDArray[np.float32], floor: NDArray[np.float64]) -> int:
        return int(np.count_nonzero(scores >= _rounded_down(floor)[:, None]))

    def above(
        self, scores: NDArray[np.float32], floor: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """(query, row, score) of all entries of (Q, B) that are at least the query's floor."""
        query, row = np.nonzero(scores >= _rounded_down(floor)[:, None])
        return query, row, scores[query, row]

    def kth(self, scores: NDArray[np.float32], k: int) -> NDArray[np.float64]:
        """The k-th largest of each row of (Q, B), or the smallest if B < k; (Q,)."""
        place = max(0, scores.shape[1] - k)
        return np.partition(scores, place, axis=1)[:, place].astype(np.float64)


class _DeviceProduct:
    """The same on a CUDA (or other) device; blocks of a host matrix pass through two pinned buffers."""

    def __init__(self, queries: NDArray[np.float32], device: torch.device) -> None:
        self.queries = torch.from_numpy(queries).to(device)
        self.device = device
        # A lower product precision (TF32, bfloat16) is fine: it is faster, and the larger slack keeps the result exact.
        self.unit = 2.0**-24 if _full_precision() else 2.0**-7 / (queries.shape[1] + 4) + 2.0**-24

    def blocks(self, matrix: Matrix, rows: int) -> Iterator[tuple[int, torch.Tensor]]:
        if isinstance(matrix, torch.Tensor) and matrix.device.type != "cpu":
            for start in range(0, len(matrix), rows):
                yield start, matrix[start : start + rows].to(self.device).float()
            return
        source = matrix if isinstance(matrix, torch.Tensor) else as_tensor(matrix)
        pieces = ((source[start : start + rows],) for start in range(0, len(source), rows))
        for number, (there,) in enumerate(stream_to(self.device, pieces)):
            yield number * rows, there.float()

    def longest(self, block: torch.Tensor) -> float:
        return 1.001 * float(torch.linalg.vector_norm(block, dim=1).max())

    def scores(self, block: torch.Tensor) -> torch.Tensor:
        return self.queries @ block.T

    def count_above(self, scores: torch.Tensor, floor: NDArray[np.float64]) -> int:
        return int((scores >= torch.from_numpy(_rounded_down(floor)).to(self.device)[:, None]).sum())

    def above(
        self, scores: torch.Tensor, floor: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        mask = scores >= torch.from_numpy(_rounded_down(floor)).to(self.device)[:, None]
        query, row = mask.nonzero(as_tuple=True)
        return query.cpu().numpy(), row.cpu().numpy(), scores[query, row].cpu().numpy()

    def kth(self, scores: torch.Tensor, k: int) -> NDArray[np.float64]:
        best = torch.topk(scores, min(k, scores.shape[1]), dim=1, sorted=False).values
        return best.amin(dim=1).double().cpu().numpy() if self.device.type != "mps" else best.amin(dim=1).cpu().numpy()


def _full_precision() -> bool:
    return torch.get_float32_matmul_precision() == "highest" and not torch.backends.cuda.matmul.allow_tf32


def _rounded_down(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """`values` rounded down to finite float32, since -inf marks rows that are left out."""
    return np.nextafter(np.maximum(values, -1e38).astype(np.float32), np.float32(-np.inf))


def _rows(matrix: Matrix, rows: NDArray[np.int64]) -> np.ndarray:
    if isinstance(matrix, torch.Tensor):
        return matrix[torch.from_numpy(rows).to(matrix.device)].cpu().numpy()
    return matrix[rows]


def _host(values: Matrix) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


class _Writable:
    """The memory of an array, declared as writable."""

    def __init__(self, array: np.ndarray) -> None:
        self.owner = array
        self.__array_interface__ = {**array.__array_interface__, "data": (array.__array_interface__["data"][0], False)}


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor over the memory of `array`, which must only be read.

    torch warns about read-only arrays (e.g. memory-mapped files), although nothing here writes to them.
    """
    if array.flags.writeable or array.size == 0:
        return torch.from_numpy(np.ascontiguousarray(array))
    return torch.from_numpy(np.asarray(_Writable(np.ascontiguousarray(array))))
