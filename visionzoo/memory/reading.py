"""Reads a memory by attention: over pieces that are never concatenated, or over the best k keys of each query."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..attention import Segment, segment_attention
from ..errors import InputError
from .bank import ReadResult
from .ring import Ring
from .scores import Rows, best_k, column_sums, weighted

__all__ = ["Selection", "check_query", "read"]


@dataclass
class Selection:
    """Elements of a ring that a read considers.

    Attributes:
        chosen: their indices in reading order, ascending; None selects all.
        counts: whether this read is added to their use counts.
    """

    ring: Ring
    chosen: NDArray[np.int64] | None = None
    counts: bool = False

    def segments(self, value: str) -> list[Segment]:
        tensors = self.ring.tensors
        keys, values = tensors["key"], tensors[value]
        found = []
        for run in self.ring.runs(self.chosen):
            if isinstance(run, slice):
                found.append(Segment(keys[:, :, run], values[:, :, run]))
            else:
                index = torch.from_numpy(run).to(keys.device)
                found.append(Segment(keys.index_select(2, index), values.index_select(2, index)))
        return found

    def ids(self) -> NDArray[np.int64]:
        return self.ring.tags_of(self.chosen).ids

    def lend(self) -> None:
        """Mark the buffers as held by an autograd graph, so that the next write replaces them instead of writing in place."""
        self.ring.buffers.shared = True


def blocks_of(segments: Sequence[Segment], q: Tensor, size: int) -> list[Segment]:
    """The segments; those that must be copied or converted for the queries are split into pieces of at most `size` keys."""
    found = []
    for segment in segments:
        count = segment.k.shape[2]
        ready = segment.k.device == q.device and segment.k.dtype == segment.v.dtype == q.dtype
        if ready or count <= size:
            found.append(segment)
            continue
        for start in range(0, count, size):
            found.append(Segment(segment.k[:, :, start : start + size], segment.v[:, :, start : start + size]))
    return found


def check_query(query: Tensor, batch: int, heads: int, width: int) -> None:
    """Raise `InputError` unless `query` fits a bank with this batch, number of heads and key width."""
    if query.ndim not in (3, 4) or (query.ndim == 3 and heads != 1) or not query.is_floating_point():
        raise InputError(
            f"query is {tuple(query.shape)} {query.dtype}; expected floats (batch, heads, queries, {width})"
            + ("" if heads > 1 else " or, for one head, (batch, queries, width)")
        )
    query_heads = query.shape[1] if query.ndim == 4 else 1
    if query.shape[-1] != width or query_heads % heads or (batch != 1 and query.shape[0] not in (1, batch)):
        raise InputError(
            f"query {tuple(query.shape)} does not fit the bank: expected batch {batch if batch > 1 else 'of any size'}, "
            f"{heads} heads or a multiple, width {width}"
        )


def read(
    query: Tensor,
    selections: Sequence[Selection],
    empty: Segment,
    value: str,
    *,
    top_k: int | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    backend: str = "auto",
    usage_queries: int | None = None,
    counts: bool = False,
    block: int,
) -> ReadResult:
    """Attend with one softmax over all selected elements; see `TensorBank.read`.

    Args:
        empty: a segment without keys, with the right widths.
        counts: return usage, and add it to the selections with `counts` set.
        block: maximum number of keys in a piece that is copied or converted.
    """
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k must be at least 1, or None for all keys, got {top_k}")
    if usage_queries is not None and usage_queries < 1:
        raise InputError(f"usage_queries must be at least 1, or None for all, got {usage_queries}")
    segments = [segment for selection in selections for segment in selection.segments(value)]
    total = sum(segment.k.shape[2] for segment in segments)
    heads = query if query.ndim == 4 else query.unsqueeze(1)
    if mask is not None and query.ndim == mask.ndim == 3:
        mask = mask.unsqueeze(1)
    scale = float(query.shape[-1] ** -0.5 if scale is None else scale)
    if torch.is_grad_enabled() and any(
        tensor.requires_grad
        for tensor in (query, *([] if mask is None else [mask]), *(t for s in segments for t in s[:2]))
    ):
        for selection in selections:
            selection.lend()
    usage: Tensor | None = None
    if top_k is not None and total:
        rows = Rows(heads, segments, mask, scale)
        best, where = best_k(rows, top_k)
        out, lse, weights = weighted(rows, best, where)
        out, lse = rows.back(out).to(query.dtype), rows.back(lse)
        if counts:
            usage = torch.zeros(total, dtype=torch.float64, device=query.device)
            usage.index_add_(0, where.flatten(), weights.flatten().double())
            usage /= rows.batch
    else:
        pieces = blocks_of(segments, query, block) or [empty]
        out, lse = segment_attention(heads, pieces, mask=mask, scale=scale, backend=backend, return_lse=True)
        if counts:
            usage = _usage(heads, segments, mask, scale, lse, usage_queries) if total else torch.zeros(0)
    if query.ndim == 3:
        out, lse = out.squeeze(1), lse.squeeze(1)
    ids = np.concatenate([np.zeros(0, np.int64), *(selection.ids() for selection in selections)])
    if usage is None:
        return ReadResult(out, lse, None, torch.from_numpy(ids))
    usage = usage.cpu()
    _count(selections, usage.numpy())
    return ReadResult(out, lse, usage.float(), torch.from_numpy(ids))


@torch.no_grad()
def _usage(
    q: Tensor, segments: list[Segment], mask: Tensor | None, scale: float, lse: Tensor, limit: int | None
) -> Tensor:
    queries = q.shape[2]
    if limit is None or limit >= queries:
        return column_sums(Rows(q, segments, mask, scale), lse)
    some = torch.linspace(0, queries - 1, limit).round().long().to(q.device)
    if mask is not None:
        mask = mask[(None,) * (4 - mask.ndim)]
        mask = mask if mask.shape[2] == 1 else mask[:, :, some]
    return column_sums(Rows(q[:, :, some], segments, mask, scale), lse[:, :, some]) * (queries / limit)


def _count(selections: Sequence[Selection], usage: NDArray[np.float64]) -> None:
    sizes = [len(s.ring) if s.chosen is None else len(s.chosen) for s in selections]
    for selection, (start, stop) in zip(selections, itertools.pairwise([0, *itertools.accumulate(sizes)]), strict=True):
        if selection.counts:
            selection.ring.add_usage(selection.chosen, usage[start:stop])
