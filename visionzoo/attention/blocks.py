"""Attention in blocks of queries and keys: forward by online softmax, backward by recomputing the weights.

Memory beyond the results is a few blocks of scores, whatever the number of queries and keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .call import AttentionCall, accumulate_dtype, expand_mask

__all__ = ["Gradients", "backward", "forward"]

_QUERIES, _KEYS = 1024, 1024
_SCORES = {"cpu": 1 << 21, "cuda": 1 << 25}  # entries of a block of scores: 8 MB, 128 MB in float32
# torch multiplies half-precision matrices on CUDA with a float32 result since 2.8
_WIDE_PRODUCTS = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 8)


@dataclass
class Gradients:
    """Sums of the gradients of one attention or of several over disjoint keys; None where not wanted."""

    q: Tensor | None
    k: Tensor | None
    v: Tensor | None
    mask: Tensor | None


def forward(call: AttentionCall) -> tuple[Tensor, Tensor]:
    """Output (B, H, L, Dv) in the dtype of q, log-sum-exp (B, H, L) in float32 (float64 for float64)."""
    q, k, v = call.q, call.k, call.v
    dtype = accumulate_dtype(q.dtype)
    out = q.new_empty((*q.shape[:3], v.shape[3]))
    lse = torch.empty(q.shape[:3], dtype=dtype, device=q.device)
    mask = None if call.mask is None else expand_mask(call.mask, q, k)
    for here, keys in _outer_blocks(q, k):
        q_block = q[here]
        total, shift, result = None, None, None
        for columns in keys:
            scores = _scores(q_block, k[here[:2]][:, :, columns], mask, here, columns, call.scale, dtype)
            highest = scores.amax(-1, keepdim=True)
            if shift is not None:
                highest = torch.maximum(highest, shift)
            anchor = highest.masked_fill(highest == -torch.inf, 0) if mask is not None else highest
            weights = scores.sub_(anchor).exp_()
            part_total = weights.sum(-1, keepdim=True)
            part = _product(weights, v[here[:2]][:, :, columns], dtype)
            if shift is None or total is None or result is None:
                total, result = part_total, part
            else:
                decay = torch.exp(shift - anchor)
                total = total.mul_(decay).add_(part_total)
                result = result.mul_(decay).add_(part)
            shift = highest
        assert total is not None and shift is not None and result is not None
        if mask is not None:
            empty = total == 0
            result /= total.masked_fill(empty, 1)
            lse[here] = torch.where(empty, -torch.inf, total.log() + shift).squeeze(-1)
        else:
            result /= total
            lse[here] = (total.log_() + shift).squeeze(-1)
        out[here] = result
    return out, lse


def backward(
    call: AttentionCall, out_grad: Tensor, lse: Tensor, delta: Tensor, wanted: tuple[bool, bool, bool, bool]
) -> Gradients:
    """Gradients of `out` and `lse` with respect to q, k, v and mask.

    With P = exp(S - lse) and S = scale q k^T + mask, the gradient of the scores is
    P * (dOut v^T - rowsum(dOut * out) + dLse): the term dLse is what a kernel without a differentiable log-sum-exp drops.

    Args:
        out_grad: (B, H, L, Dv).
        lse: (B, H, L) over all keys, also those of other pieces.
        delta: (B, H, L) rowsum(dOut * out) - dLse.
        wanted: which of q, k, v, mask.

    Returns:
        float32 sums (float64 for float64); the mask's in the shape of `call.mask`.
    """
    q, k, v = call.q, call.k, call.v
    dtype = accumulate_dtype(q.dtype)

    def zeros(like: Tensor) -> Tensor:
        return torch.zeros(like.shape, dtype=dtype, device=like.device)

    mask = None if call.mask is None else expand_mask(call.mask, q, k)
    sums = Gradients(
        zeros(q) if wanted[0] else None,
        zeros(k) if wanted[1] else None,
        zeros(v) if wanted[2] else None,
        zeros(call.mask) if wanted[3] and call.mask is not None else None,
    )
    # a row without any key has lse -inf and weights exp(-inf - -inf); +inf makes them the zeros they are
    lse = lse.masked_fill(lse == -torch.inf, torch.inf).unsqueeze(-1)
    delta = delta.unsqueeze(-1)
    for here, keys in _outer_blocks(q, k):
        batch_heads = here[:2]
        q_block, grad_block = q[here], out_grad[here]
        for columns in keys:
            k_block, v_block = k[batch_heads][:, :, columns], v[batch_heads][:, :, columns]
            weights = _scores(q_block, k_block, mask, here, columns, call.scale, dtype).sub_(lse[here]).exp_()
            if sums.v is not None:
                sums.v[batch_heads][:, :, columns] += _product(weights.transpose(-2, -1), grad_block, dtype)
            if sums.q is None and sums.k is None and sums.mask is None:
                continue
            scores_grad = _product(grad_block, v_block.transpose(-2, -1), dtype).sub_(delta[here]).mul_(weights)
            if sums.mask is not None:
                _add_to_mask(sums.mask, scores_grad, here, columns)
            scores_grad *= call.scale
            if sums.q is not None:
                sums.q[here] += _product(scores_grad, k_block, dtype)
            if sums.k is not None:
                sums.k[batch_heads][:, :, columns] += _product(scores_grad.transpose(-2, -1), q_block, dtype)
    return sums


def _scores(
    q: Tensor,
    k: Tensor,
    mask: Tensor | None,
    here: tuple[slice, slice, slice],
    columns: slice,
    scale: float,
    dtype: torch.dtype,
) -> Tensor:
    scores = _product(q, k.transpose(-2, -1), dtype).mul_(scale)
    if mask is not None:
        part = mask[here][..., columns]
        if part.dtype == torch.bool:
            scores.masked_fill_(~part, -torch.inf)
        else:
            scores += part
    return scores


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a @ b, summed and returned in `dtype`; half-precision operands stay so where the device can widen the sums."""
    half = b.dtype if b.dtype != dtype else a.dtype
    if half == dtype:
        return a @ b
    if b.device.type == "cuda" and _WIDE_PRODUCTS:
        shape = (*a.shape[:-1], b.shape[-1])
        a, b = a.to(half).reshape(-1, *a.shape[-2:]), b.to(half).reshape(-1, *b.shape[-2:])
        return torch.bmm(a, b, out_dtype=dtype).view(shape)
    return a.to(dtype) @ b.to(dtype)


def _add_to_mask(total: Tensor, grad: Tensor, here: tuple[slice, slice, slice], columns: slice) -> None:
    broadcast = [dim for dim, size in enumerate(total.shape) if size == 1]
    place = tuple(slice(None) if dim in broadcast else (*here, columns)[dim] for dim in range(4))
    total[place] += grad.sum(broadcast, keepdim=True) if broadcast else grad


def _outer_blocks(q: Tensor, k: Tensor) -> Iterator[tuple[tuple[slice, slice, slice], list[slice]]]:
    """(batch, heads, queries) blocks of the work, each with the blocks of keys that it passes over."""
    batch, heads, queries, keys = *q.shape[:3], k.shape[2]
    budget = _SCORES.get(q.device.type, _SCORES["cpu"])
    # a single block of keys needs no online softmax: stretch it rather than leave a small rest
    key_step = keys if keys <= 2 * _KEYS else _KEYS
    query_step = max(1, min(queries, max(_QUERIES, budget // (heads * key_step)), budget // key_step))
    head_step = max(1, min(heads, budget // (query_step * key_step)))
    batch_step = max(1, min(batch, budget // (head_step * query_step * key_step))) if head_step == heads else 1
    columns = _steps(keys, key_step)
    for b in _steps(batch, batch_step):
        for h in _steps(heads, head_step):
            for i in _steps(queries, query_step):
                yield (b, h, i), columns


def _steps(size: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]
