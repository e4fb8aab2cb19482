"""The reference implementation: scores, softmax, product. Memory is quadratic."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..call import AttentionCall, accumulate_dtype, left_out
from .base import Backend

__all__ = ["MathBackend"]


class MathBackend(Backend):
    """Stores the whole (B, H, L, N) score matrix in float32, or float64 for float64 inputs; for tests and tiny inputs."""

    name: ClassVar[str] = "math"
    autograd: ClassVar[Literal["none", "output", "both"]] = "both"

    def supports(self, call: AttentionCall) -> str | None:
        return None

    def forward(self, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        dtype = accumulate_dtype(call.q.dtype)
        scores = call.q.to(dtype) @ call.k.to(dtype).transpose(-2, -1) * call.scale
        if call.mask is not None:
            scores = scores if call.mask.dtype == torch.bool else scores + call.mask.to(dtype)
            scores = scores.masked_fill(left_out(call.mask), -torch.inf)
        highest = scores.detach().amax(-1, keepdim=True)
        highest = highest.masked_fill(highest == -torch.inf, 0)
        weights = torch.exp(scores - highest)
        total = weights.sum(-1, keepdim=True)
        empty = total == 0
        total = total.masked_fill(empty, 1)
        out = ((weights / total) @ call.v.to(dtype)).to(call.q.dtype)
        lse = (total.log() + highest).masked_fill(empty, -torch.inf).squeeze(-1)
        return out, lse
