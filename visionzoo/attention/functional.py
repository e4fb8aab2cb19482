"""Attention, its log-sum-exp, and the exact merging of partial results."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..devices import autocast_dtype
from ..errors import InputError
from .call import AttentionCall, accumulate_dtype, prepare
from .gradient import differentiable
from .select import choose

__all__ = ["attend", "attention", "attention_with_lse", "merge_attention"]


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, scale: float | None = None, backend: str = "auto"
) -> Tensor:
    """softmax(scale * q k^T + mask) v, without storing all scores.

    Args:
        q: (B, H, L, Dk) float16, bfloat16, float32 or float64; autocast casts as for torch's own attention. With a single
            head, the head axis may be omitted in all tensors.
        k: (B, Hk, N, Dk). Hk divides H: a head of k serves H / Hk neighbouring heads of q (grouped queries). A batch
            of 1 is broadcast to that of q without a copy, and vice versa.
        v: (B, Hk, N, Dv); Dv may differ from Dk.
        mask: broadcasts to (B, H, L, N). Boolean: True takes part. Float: added to the scores, and may require a gradient; a
            number at or below -65504, the lowest float16, excludes its key exactly like -inf and False. So a query whose
            whole row is -inf, -1e9 or the lowest number of any dtype attends to no key.
        scale: default 1 / sqrt(Dk).
        backend: "auto" or one of "sdpa", "flex", "xformers", "triton", "chunked", "math"; see `attention_backend`.

    Returns:
        (B, H, L, Dv) in the dtype of q. A query that attends to no key gives zeros, and zero gradients.

    Raises:
        InputError: shapes, dtypes or devices that do not fit, or a named backend that does not support them.
    """
    out = attend(prepare(q, k, v, mask, scale, needs_lse=False), backend)[0]
    return out.squeeze(1) if q.ndim == 3 else out


def attention_with_lse(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, scale: float | None = None, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """`attention` with the log-sum-exp of its scores, which `merge_attention` needs.

    Arguments and errors as for `attention`. Both results are differentiable.

    Returns:
        out: (B, H, L, Dv); lse: (B, H, L) natural logarithm, float32 (float64 for float64 inputs), -inf for a query that
        attends to no key.
    """
    out, lse = attend(prepare(q, k, v, mask, scale, needs_lse=True), backend)
    assert lse is not None
    return (out.squeeze(1), lse.squeeze(1)) if q.ndim == 3 else (out, lse)


def merge_attention(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Merge attention over disjoint sets of keys into the attention over their union.

    With L = logsumexp_i(lse_i), out = sum_i exp(lse_i - L) * out_i: exact, in any order, and differentiable.

    Args:
        parts: (out (..., L, Dv), lse (..., L)) of `attention_with_lse` for the same queries and scale.

    Returns:
        out in the dtype of the parts, lse.

    Raises:
        InputError: no parts, or parts whose shapes differ.
    """
    if not parts:
        raise InputError("merge_attention needs at least one (out, lse) pair")
    first = parts[0][0]
    for out, lse in parts:
        if out.shape != first.shape or lse.shape != first.shape[:-1]:
            raise InputError(
                f"the parts belong to different queries: out {tuple(out.shape)} and lse {tuple(lse.shape)}, but "
                f"out {tuple(first.shape)}; each needs out (..., L, Dv) and lse (..., L)"
            )
    if len(parts) == 1:
        return parts[0]
    dtype = accumulate_dtype(first.dtype)
    lses = torch.stack([lse for _, lse in parts]).to(dtype)
    highest = lses.detach().amax(0)
    highest = highest.masked_fill(highest == -torch.inf, 0)
    weights = torch.exp(lses - highest)
    total = weights.sum(0)
    empty = total == 0
    total = total.masked_fill(empty, 1)
    merged = torch.zeros(first.shape, dtype=dtype, device=first.device)
    for weight, (out, _) in zip(weights / total, parts, strict=True):
        merged = torch.addcmul(merged, weight.unsqueeze(-1), out.to(dtype))
    return merged.to(first.dtype), (total.log() + highest).masked_fill(empty, -torch.inf)


def attend(call: AttentionCall, backend: str) -> tuple[Tensor, Tensor | None]:
    """Compute a checked call: handle autocast and empty inputs, choose a backend, and add gradients."""
    q, k, v = call.q, call.k, call.v
    if (
        autocast_dtype(q.device) is not None
    ):  # inputs are cast already; a backend's own float32 computations must not be
        with torch.autocast(q.device.type, enabled=False):
            return attend(call, backend)
    if q.shape[1] != k.shape[1]:
        return _grouped(call, backend)
    if 0 in (*q.shape[:3], k.shape[2]):
        out = (q @ k.transpose(-2, -1)) @ v  # empty sums: zeros that are connected to the inputs in the graph
        return out, torch.full(q.shape[:3], -torch.inf, dtype=accumulate_dtype(q.dtype), device=q.device)
    chosen = choose(call, backend)
    if not call.needs_grad or chosen.autograd == "both" or (chosen.autograd == "output" and not call.needs_lse):
        return chosen.forward(call)
    return differentiable(chosen, call)


def _grouped(call: AttentionCall, backend: str) -> tuple[Tensor, Tensor | None]:
    """Grouped queries: query heads share a head of keys, without copies of the keys."""
    batch, heads, queries, width = call.q.shape
    groups = call.k.shape[1]
    q = call.q.reshape(batch, groups, heads // groups, queries, width)
    mask = call.mask
    if mask is None or (mask.shape[1] == 1 and mask.shape[2] == 1):  # the heads of a group become additional queries
        out, lse = attend(call.with_tensors(q.flatten(2, 3), call.k, call.v, mask), backend)
        out = out.reshape(batch, heads, queries, -1)
        return out, None if lse is None else lse.reshape(batch, heads, queries)
    outs, lses = [], []
    for member in range(heads // groups):
        part = mask if mask.shape[1] == 1 else mask.unflatten(1, (groups, heads // groups))[:, :, member]
        out, lse = attend(call.with_tensors(q[:, :, member], call.k, call.v, part), backend)
        outs.append(out)
        lses.append(lse)
    out = torch.stack(outs, 2).flatten(1, 2)
    return out, torch.stack(lses, 2).flatten(1, 2) if call.needs_lse else None
