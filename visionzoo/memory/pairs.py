"""Finds all pairs of entries above a score, block by block, without a matrix of all pairs in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from .store import VectorStore
from .topk import error_bound, exact_scores

__all__ = ["pairs_above"]

_BLOCK = 4096  # rows: with 2048 values of float32, a block takes 32 MB, and the scores of two blocks 64 MB
_PAIRS = 1 << 20  # pairs per yielded array


def pairs_above(
    store: VectorStore, min_score: float, *, device: torch.device | str = "cpu", block: int = _BLOCK
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Every unordered pair of different entries whose inner product is `min_score` or more.

    Scores are those of `store.search`, so the result is the same on every device and for every block size: a fast product
    selects the pairs, and pairs too close to the limit for its precision are scored exactly.

    Args:
        store: a store of any backend. The vectors of a block are fetched once, and once more for every earlier block.
        device: where the products are computed.
        block: rows per block. It determines the memory: two blocks of vectors, and block x block scores.

    Yields:
        (n,) lower ids and (n,) higher ids of the pairs; no pair appears twice.
    """
    ids = store.ids()
    starts = range(0, len(ids), block)
    for start in starts:
        first_ids = ids[start : start + block]
        first = store.fetch(first_ids)
        here = torch.from_numpy(first).to(device)
        for other in starts[start // block :]:
            second_ids = first_ids if other == start else ids[other : other + block]
            second = first if other == start else store.fetch(second_ids)
            scores = here @ (here if other == start else torch.from_numpy(second).to(device)).T
            longest = float(np.sqrt(np.einsum("nd,nd->n", second, second, dtype=np.float64).max()))
            slack = torch.from_numpy(error_bound(first, longest, _unit(here))).to(device, torch.float32)[:, None]
            above = scores >= min_score - slack
            if other == start:
                above = above.triu(1)
            left, right = above.nonzero(as_tuple=True)
            sure = scores[left, right] >= min_score + slack[left, 0]
            for low in range(0, len(left), _PAIRS):
                part = slice(low, low + _PAIRS)
                a, b = left[part].cpu().numpy(), right[part].cpu().numpy()
                keep = sure[part].cpu().numpy()
                for place in np.flatnonzero(~keep).tolist():
                    keep[place] = exact_scores(first[a[place]], second[b[place], None])[0] >= min_score
                yield first_ids[a[keep]], second_ids[b[keep]]


def _unit(vectors: torch.Tensor) -> float:
    """Relative rounding error of a matrix product on the device of `vectors`."""
    if vectors.device.type == "cpu":
        return 2.0**-24
    full = torch.get_float32_matmul_precision() == "highest" and not torch.backends.cuda.matmul.allow_tf32
    return 2.0**-24 if full else 2.0**-7 / (vectors.shape[1] + 4) + 2.0**-24
