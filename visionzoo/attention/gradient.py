"""Gradients for kernels without a backward pass, and for the log-sum-exp, which torch's own kernels do not differentiate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import blocks
from .backends.base import Backend
from .call import AttentionCall, accumulate_dtype

__all__ = ["differentiable", "row_term"]


def differentiable(backend: Backend, call: AttentionCall) -> tuple[Tensor, Tensor]:
    """`backend.forward` with gradients of output and log-sum-exp with respect to q, k, v and an additive mask.

    It saves q, k, v, the output and the log-sum-exp; the backward pass recomputes the weights block by block.
    """
    call = replace(call, needs_lse=True)
    return _Attention.apply(backend, call, call.q, call.k, call.v, call.mask)  # type: ignore[no-any-return]


def row_term(out: Tensor, out_grad: Tensor, lse_grad: Tensor | None) -> Tensor:
    """(B, H, L) rowsum(dOut * out) - dLse, in float32 (float64 for float64)."""
    dtype = accumulate_dtype(out.dtype)
    term = (out_grad.to(dtype) * out.to(dtype)).sum(-1)
    return term if lse_grad is None else term - lse_grad


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, backend: Backend, call: AttentionCall, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        out, lse = backend.forward(call.with_tensors(q, k, v, mask))
        assert lse is not None
        ctx.call = call.with_tensors(*(None,) * 4)  # type: ignore[arg-type]
        ctx.save_for_backward(q, k, v, mask, out, lse)
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        out_grad, lse_grad = grads
        q, k, v, mask, out, lse = ctx.saved_tensors
        if out_grad is None and lse_grad is None:
            return (None,) * 6
        if out_grad is None:
            out_grad = torch.zeros_like(out)
        call = ctx.call.with_tensors(q, k, v, mask)
        wanted = ctx.needs_input_grad[2:]
        sums = blocks.backward(call, out_grad, lse, row_term(out, out_grad, lse_grad), wanted)
        return (
            None,
            None,
            None if sums.q is None else sums.q.to(q.dtype),
            None if sums.k is None else sums.k.to(k.dtype),
            None if sums.v is None else sums.v.to(v.dtype),
            None if sums.mask is None or mask is None else sums.mask.to(mask.dtype),
        )
