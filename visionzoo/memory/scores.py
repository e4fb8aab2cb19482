"""Scores of queries against pieces of keys, block by block, for the best k keys and for use counts.

Dimensions: a bank's batch Bk is the batch B of the queries or 1, its number of heads Hk is H or a divisor of it. Queries
that share keys are rows of one product: (Bk, Hk, E, G, L), where E batch members and G heads share those of the bank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..attention import Segment
from ..attention.call import accumulate_dtype, left_out
from ..errors import InputError
from ..streaming import stream_to

__all__ = ["Rows", "best_k", "column_sums", "gather", "weighted"]

_BLOCK = {"cpu": 1 << 21, "cuda": 1 << 25}  # scores, or gathered numbers, in memory at a time
_KEYS = 4096


class Rows:
    """Queries and mask in the layout of this module.

    Args:
        q: queries (B, H, L, Dk).
        pieces: segments with keys (Bk, Hk, N, Dk), Bk = B or 1.
        mask: broadcasts to (B, H, L, sum of all N), or None.

    Raises:
        InputError: shapes that do not fit.
    """

    def __init__(self, q: Tensor, pieces: Sequence[Segment], mask: Tensor | None, scale: float) -> None:
        keys = pieces[0].k
        self.pieces, self.scale = pieces, scale
        self.keys = sum(piece.k.shape[2] for piece in pieces)
        batch, heads = keys.shape[:2]
        if q.shape[0] == 1 and batch > 1:
            q = q.expand(batch, -1, -1, -1)
        if q.ndim != 4 or batch not in (1, q.shape[0]) or q.shape[1] % heads or q.shape[3] != keys.shape[3]:
            raise InputError(
                f"query {tuple(q.shape)} does not fit keys {tuple(keys.shape)}: expected (batch, heads, queries, width) "
                "with the batch of the keys (or either of them 1), a multiple of their heads, and their width"
            )
        self.batch, self.heads, self.queries = q.shape[:3]
        self.split = (batch, self.batch // batch, heads, self.heads // heads)
        self.q = self.rows(q)
        self.mask = None if mask is None else self._mask_rows(mask)
        self.dtype = accumulate_dtype(q.dtype)

    def rows(self, tensor: Tensor) -> Tensor:
        """Reshape (B, H, L, …) to (Bk, Hk, E, G, L, …)."""
        batch, members, heads, group = self.split
        shape = (batch, members, heads, group, *tensor.shape[2:])
        return tensor.reshape(shape).transpose(1, 2)

    def back(self, rows: Tensor) -> Tensor:
        """Reshape (Bk, Hk, E, G, L, …) to (B, H, L, …)."""
        return rows.transpose(1, 2).reshape(self.batch, self.heads, *rows.shape[4:])

    def _mask_rows(self, mask: Tensor) -> Tensor:
        mask = mask[(None,) * (4 - mask.ndim)]
        wanted = (self.batch, self.heads, self.queries, self.keys)
        if mask.ndim != 4 or any(have not in (1, want) for have, want in zip(mask.shape, wanted, strict=True)):
            raise InputError(
                f"mask of shape {tuple(mask.shape)} does not broadcast to (batch, heads, queries, keys) {wanted}"
            )
        batch, members, heads, group = self.split
        first = (1, 1) if mask.shape[0] == 1 else (batch, members)
        second = (1, 1) if mask.shape[1] == 1 else (heads, group)
        return mask.reshape(*first, *second, *mask.shape[2:]).transpose(1, 2)

    def mask_at(self, queries: slice, keys: slice) -> Tensor | None:
        if self.mask is None:
            return None
        mask = self.mask if self.mask.shape[4] == 1 else self.mask[..., queries, :]
        return mask if mask.shape[5] == 1 else mask[..., keys]

    def blocks(self, per_row: int) -> list[slice]:
        """Blocks of queries, each with a limited total if every query needs `per_row` numbers."""
        rows = self.batch * self.heads * max(1, per_row)
        step = max(1, _BLOCK.get(self.q.device.type, _BLOCK["cpu"]) // rows)
        return [slice(start, min(start + step, self.queries)) for start in range(0, self.queries, step)]

    def key_blocks(self, size: int) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of keys (Bk, Hk, n, Dk) in float32 on the device of the queries, each after its range among all keys."""

        def parts() -> Iterator[tuple[Tensor]]:
            for piece in self.pieces:
                for start in range(0, piece.k.shape[2], size):
                    yield (piece.k[:, :, start : start + size],)

        start = 0
        for (keys,) in stream_to(self.q.device, parts()):
            yield slice(start, start + keys.shape[2]), keys.to(self.dtype)
            start += keys.shape[2]

    def scores(self, queries: slice, keys: Tensor, place: slice) -> Tensor:
        """Scaled and masked scores of a block, (Bk, Hk, E, G, l, n), -inf where a key is masked out."""
        q = self.q[..., queries, :].to(self.dtype)
        product = torch.bmm(q.flatten(2, 4).flatten(0, 1), keys.flatten(0, 1).transpose(1, 2))
        product = product.mul_(self.scale).view(*q.shape[:5], keys.shape[2])
        mask = self.mask_at(queries, place)
        if mask is None:
            return product
        product = product if mask.dtype == torch.bool else product.add_(mask)
        return product.masked_fill_(left_out(mask), -torch.inf)


@torch.no_grad()
def best_k(rows: Rows, k: int) -> tuple[Tensor, Tensor]:
    """The k highest scores of each query and the indices of their keys, (Bk, Hk, E, G, L, k) each.

    Masked keys have the score -inf (and an arbitrary index). The result is exact; ties are broken arbitrarily.
    """
    k = min(k, rows.keys)
    shape = (*rows.q.shape[:5], k)
    best = torch.full(shape, -torch.inf, dtype=rows.dtype, device=rows.q.device)
    where = torch.zeros(shape, dtype=torch.int64, device=rows.q.device)
    size = max(_KEYS, 4 * k)
    blocks = rows.blocks(min(size, rows.keys))
    for place, keys in rows.key_blocks(size):
        for queries in blocks:
            found, index = rows.scores(queries, keys, place).topk(min(k, keys.shape[2]), -1)
            found = torch.cat([best[..., queries, :], found], -1)
            index = torch.cat([where[..., queries, :], index + place.start], -1)
            best[..., queries, :], order = found.topk(k, -1)
            where[..., queries, :] = index.gather(-1, order)
    return best, where


def gather(rows: Rows, name: str, where: Tensor) -> Tensor:
    """Gather rows of the keys ("k") or values ("v") of all pieces: `where` (Bk, Hk, M) -> (Bk, Hk, M, D).

    Only those rows are copied from the host.
    """
    sources = [getattr(piece, name) for piece in rows.pieces]
    if len(sources) == 1:
        return _rows_of(sources[0], where).to(where.device, rows.dtype)
    out = torch.zeros((*where.shape, sources[0].shape[3]), dtype=rows.dtype, device=where.device)
    start = 0
    for source in sources:
        stop = start + source.shape[2]
        b, h, m = ((where >= start) & (where < stop)).nonzero(as_tuple=True)
        if len(b):
            here = where[b, h, m] - start
            found = source[b.to(source.device), h.to(source.device), here.to(source.device)]
            out = out.index_put((b, h, m), found.to(out.device, out.dtype))
        start = stop
    return out


def _rows_of(source: Tensor, where: Tensor) -> Tensor:
    where = where.to(source.device)
    batch = torch.arange(source.shape[0], device=source.device)[:, None, None]
    heads = torch.arange(source.shape[1], device=source.device)[None, :, None]
    return source[batch, heads, where]


def weighted(rows: Rows, best: Tensor, where: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax over the kept scores, and the weighted sum of their values.

    Returns:
        out (Bk, Hk, E, G, L, Dv) and lse (Bk, Hk, E, G, L), with gradients to queries, keys, values and mask, and weights
        (Bk, Hk, E, G, L, k) without gradients.
    """
    tensors = [rows.q, *(t for piece in rows.pieces for t in piece[:2]), *([] if rows.mask is None else [rows.mask])]
    wants_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    width = rows.pieces[0].v.shape[3]
    outs, lses, weights = [], [], []
    for queries in rows.blocks(best.shape[-1] * (width + (rows.q.shape[-1] if wants_grad else 0))):
        kept, places = best[..., queries, :], where[..., queries, :]
        shape, flat = kept.shape, places.flatten(2)
        if wants_grad:
            kept = _recompute(rows, queries, kept, places)
        highest = kept.detach().amax(-1, keepdim=True)
        highest = highest.masked_fill(highest == -torch.inf, 0)
        exp = torch.exp(kept - highest)
        total = exp.sum(-1, keepdim=True)
        empty = total == 0
        total = total.masked_fill(empty, 1)
        weight = exp / total
        values = gather(rows, "v", flat).view(*shape, width)
        outs.append((weight.unsqueeze(-2) @ values).squeeze(-2))
        lses.append((total.log() + highest).masked_fill(empty, -torch.inf).squeeze(-1))
        weights.append(weight.detach())
    return torch.cat(outs, 4), torch.cat(lses, 4), torch.cat(weights, 4)


def _recompute(rows: Rows, queries: slice, kept: Tensor, places: Tensor) -> Tensor:
    """Recompute the kept scores from the gathered keys, so that gradients flow."""
    keys = gather(rows, "k", places.flatten(2)).view(*places.shape, rows.q.shape[-1])
    scores = (keys @ rows.q[..., queries, :].to(rows.dtype).unsqueeze(-1)).squeeze(-1) * rows.scale
    mask = rows.mask_at(queries, slice(None))
    if mask is not None and mask.dtype != torch.bool:
        if mask.shape[-1] == 1:
            scores = scores + mask
        else:
            scores = scores + mask.expand(*places.shape[:5], -1).gather(-1, places)
    return scores.masked_fill(kept == -torch.inf, -torch.inf)


@torch.no_grad()
def column_sums(rows: Rows, lse: Tensor) -> Tensor:
    """Attention weights of each key, summed over queries and heads and averaged over the batch, (N,) float64.

    Args:
        lse: (B, H, L) over all keys.
    """
    total = torch.zeros(rows.keys, dtype=torch.float64, device=rows.q.device)
    # +inf where no key takes part, so that the weights become 0
    shift = rows.rows(lse.detach().masked_fill(lse == -torch.inf, torch.inf)).unsqueeze(-1)
    blocks = rows.blocks(min(_KEYS, rows.keys))
    for place, keys in rows.key_blocks(_KEYS):
        for queries in blocks:
            weights = rows.scores(queries, keys, place).sub_(shift[..., queries, :]).exp_()
            total[place] += weights.sum((1, 3, 4)).double().sum((0, 1))
    return total / rows.batch
