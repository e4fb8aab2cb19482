"""Attention in blocks of queries and keys: the forward pass uses online softmax, the backward pass recomputes the weights.

Besides the results, only a few blocks of scores are in memory, whatever the number of queries and keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..devices import autocast_dtype
from .call import AttentionCall, accumulate_dtype, expand_mask, left_out

__all__ = ["MULTIPLIES_BFLOAT16", "Gradients", "backward", "forward", "merge_into"]

_QUERIES, _KEYS = 256, 2048
_SCORES = {"cpu": 1 << 21, "cuda": 1 << 25}  # entries in a block of scores: 8 MB, 128 MB in float32
# Whether this CPU has instructions for products of bfloat16 (AVX512-BF16, AMX).
MULTIPLIES_BFLOAT16: bool = any(
    getattr(torch.cpu, check, bool)() for check in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
)
_NO_KEY = -1e37  # a log-sum-exp below this comes from keys that `_masked` has excluded
# since 2.8, torch can multiply half-precision matrices on CUDA with a float32 result
_WIDE_PRODUCTS = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 8)


@dataclass
class Gradients:
    """Summed gradients of one attention, or of several over disjoint keys; None if not requested."""

    q: Tensor | None
    k: Tensor | None
    v: Tensor | None
    mask: Tensor | None


def forward(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
    """Output (B, H, L, Dv) in the dtype of q, and if requested the log-sum-exp (B, H, L) in float32 or float64.

    Each block of keys gives a complete softmax (torch's is one fused pass, while its exp alone is slower) and its log-sum-exp,
    by which blocks are merged.
    """
    q, k, v = call.q, call.k, call.v
    dtype = accumulate_dtype(q.dtype)
    out = q.new_empty((*q.shape[:3], v.shape[3]))
    lse = torch.empty(q.shape[:3], dtype=dtype, device=q.device) if call.needs_lse else None
    mask = None if call.mask is None else expand_mask(call.mask, q, k)
    narrow = _fast_bfloat16(q) and (mask is None or mask.dtype == torch.bool)
    for here, keys in _outer_blocks(q, k):
        q_block = q[here]
        result, total = None, None
        for columns in keys:
            k_block, v_block = k[here[:2]][:, :, columns], v[here[:2]][:, :, columns]
            wants_lse = lse is not None or mask is not None or len(keys) > 1
            mask_block = None if mask is None else mask[here][..., columns]
            if narrow:
                part, part_lse = _narrow_block(q_block, k_block, v_block, mask_block, call.scale, wants_lse)
            else:
                scores = _scores(q_block, k_block, mask_block, call.scale, dtype)
                part, part_lse = _wide_block(scores, v_block, wants_lse)
            if result is None or total is None:
                result, total = part if len(keys) == 1 else part.to(dtype), part_lse
            else:
                assert part_lse is not None
                total = merge_into(result, total, part, part_lse)
        assert result is not None
        if mask is not None:
            assert total is not None
            empty = total < _NO_KEY
            result = result.masked_fill(empty.unsqueeze(-1), 0)
            total = total.masked_fill(empty, -torch.inf)
        out[here] = result
        if lse is not None and total is not None:
            lse[here] = total
    return out, lse


def merge_into(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> Tensor:
    """`merge_attention` of (out, lse) and (part, part_lse): changes `out` in place and returns the new log-sum-exp."""
    total = torch.logaddexp(lse, part_lse)
    weight = torch.exp(part_lse - total.masked_fill(total == -torch.inf, 0))
    out.lerp_(part.to(out.dtype), weight.unsqueeze(-1))
    return total


def _wide_block(scores: Tensor, v: Tensor, wants_lse: bool) -> tuple[Tensor, Tensor | None]:
    weights = torch.softmax(scores, -1)
    # the largest weight is exp(largest score - lse)
    lse = scores.amax(-1) - weights.amax(-1).log() if wants_lse else None
    return _product(weights, v, scores.dtype), lse


def _narrow_block(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, wants_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute both products in bfloat16, which a CPU with bfloat16 instructions multiplies five times as fast as float32.

    torch rounds such a product to bfloat16, which is too coarse for scores far from 0. So a constant near the largest score of
    each row is subtracted inside the product, by an additional column: the relevant scores are then near 0, where bfloat16
    is precise enough. The constant cancels in the softmax and is added to the log-sum-exp.
    """
    some = slice(None, None, max(1, min(8, k.shape[2] // 8)))
    column = -(q @ k[:, :, some].transpose(-2, -1)).amax(-1, keepdim=True)
    shape = (*q.shape[:3], k.shape[2])
    q_wide = torch.cat([q, column], -1).flatten(0, 1)
    k_wide = torch.cat([k, torch.ones_like(k[..., :1])], -1).flatten(0, 1)
    unused = q.new_empty(()).expand(q_wide.shape[0], *shape[2:])
    scores = torch.baddbmm(unused, q_wide, k_wide.transpose(-2, -1), beta=0, alpha=scale).view(shape)
    scores = _masked(scores, mask)
    if not wants_lse:
        return torch.softmax(scores, -1) @ v, None
    weights = torch.softmax(scores, -1, dtype=torch.float32)
    lse = scores.amax(-1).float() - weights.amax(-1).log() - column.squeeze(-1).float() * scale
    return weights.to(q.dtype) @ v, lse


def _fast_bfloat16(tensor: Tensor) -> bool:
    return tensor.dtype == torch.bfloat16 and tensor.device.type == "cpu" and MULTIPLIES_BFLOAT16


def backward(
    call: AttentionCall, out_grad: Tensor, lse: Tensor, delta: Tensor, wanted: tuple[bool, bool, bool, bool]
) -> Gradients:
    """Gradients of `out` and `lse` with respect to q, k, v and mask.

    With P = exp(S - lse) and S = scale q k^T + mask, the gradient of the scores is
    P * (dOut v^T - rowsum(dOut * out) + dLse); kernels without a differentiable log-sum-exp lack the term dLse.

    Args:
        out_grad: (B, H, L, Dv).
        lse: (B, H, L) over all keys, including those of other segments.
        delta: (B, H, L) rowsum(dOut * out) - dLse.
        wanted: which gradients to compute, of q, k, v, mask.

    Returns:
        float32 sums (float64 for float64); that of the mask has the shape of `call.mask`.
    """
    if autocast_dtype(call.q.device) is not None:  # a backward pass inside an autocast region
        with torch.autocast(call.q.device.type, enabled=False):
            return backward(call, out_grad, lse, delta, wanted)
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
    # a row without keys has lse -inf; with +inf, its weights become 0, as they should be
    lse = lse.masked_fill(lse == -torch.inf, torch.inf).unsqueeze(-1)
    delta = delta.unsqueeze(-1)
    for here, keys in _outer_blocks(q, k):
        batch_heads = here[:2]
        q_block, grad_block = q[here], out_grad[here]
        for columns in keys:
            k_block, v_block = k[batch_heads][:, :, columns], v[batch_heads][:, :, columns]
            mask_block = None if mask is None else mask[here][..., columns]
            weights = _scores(q_block, k_block, mask_block, call.scale, dtype).sub_(lse[here]).exp_()
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


def _scores(q: Tensor, k: Tensor, mask: Tensor | None, scale: float, dtype: torch.dtype) -> Tensor:
    return _masked(_product(q, k.transpose(-2, -1), dtype, scale), mask)


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Apply a mask in place: excluded keys get the lowest finite number, as -inf would give NaN in the softmax."""
    if mask is None:
        return scores
    scores = scores if mask.dtype == torch.bool else scores.add_(mask)
    return scores.masked_fill_(left_out(mask), torch.finfo(scores.dtype).min)


def _product(a: Tensor, b: Tensor, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    """scale * a @ b, accumulated and returned in `dtype`; half-precision operands are not cast if the device widens the sums."""
    half = b.dtype if b.dtype != dtype else a.dtype
    shape = (*a.shape[:-1], b.shape[-1])
    if half != dtype and b.device.type == "cuda" and _WIDE_PRODUCTS:
        product = torch.bmm(a.to(half).flatten(0, 1), b.to(half).flatten(0, 1), out_dtype=dtype)
        return (product if scale == 1 else product.mul_(scale)).view(shape)
    a, b = a.to(dtype).flatten(0, 1), b.to(dtype).flatten(0, 1)
    if scale == 1:
        return torch.bmm(a, b).view(shape)
    unused = a.new_empty(()).expand(a.shape[0], *shape[2:])
    return torch.baddbmm(unused, a, b, beta=0, alpha=scale).view(shape)


def _add_to_mask(total: Tensor, grad: Tensor, here: tuple[slice, slice, slice], columns: slice) -> None:
    broadcast = [dim for dim, size in enumerate(total.shape) if size == 1]
    place = tuple(slice(None) if dim in broadcast else (*here, columns)[dim] for dim in range(4))
    total[place] += grad.sum(broadcast, keepdim=True) if broadcast else grad


def _outer_blocks(q: Tensor, k: Tensor) -> Iterator[tuple[tuple[slice, slice, slice], list[slice]]]:
    """(batch, heads, queries) blocks, each with its blocks of keys."""
    batch, heads, queries, keys = *q.shape[:3], k.shape[2]
    budget = _SCORES.get(q.device.type, _SCORES["cpu"])
    # a single block of keys needs no online softmax: enlarge it rather than leave a small remainder
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
