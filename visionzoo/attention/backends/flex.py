"""torch's flex_attention, compiled."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable
from importlib import util
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.attention import flex_attention as flex

from ..call import AttentionCall, expand_mask, left_out
from .base import Backend

__all__ = ["FlexBackend"]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_KERNELS = 64  # compiled at most: one per heads, widths, dtype and kind of mask, and another where lengths vary
_COMPILERS = ("c++", "g++", "clang++", "cl")


class FlexBackend(Backend):
    """One kernel that torch.compile writes for the call: masks of every kind, unequal widths, and the log-sum-exp with
    its gradient on CUDA. On the CPU it computes outputs only, and torch's kernel there holds memory that grows with
    queries times keys (64 MB for 8 heads of 2048 x 2048, torch 2.15): sdpa and chunked are better choices.

    The first call of a kind compiles for some seconds; a length that varies is compiled once more, then for all.
    """

    name: ClassVar[str] = "flex"
    autograd: ClassVar[Literal["none", "output", "both"]] = "both"

    def unavailable(self) -> str | None:
        if not torch._dynamo.eval_frame.is_dynamo_supported():
            return "torch.compile does not run on this Python and platform"
        if not _has_compiler():
            return "torch.compile needs a C++ compiler, and none is installed (g++, clang++, or what CXX names)"
        return None

    def supports(self, call: AttentionCall) -> str | None:
        if call.q.dtype not in _DTYPES:
            return f"it computes in float32, float16 and bfloat16, not {str(call.q.dtype).removeprefix('torch.')}"
        if call.mask_needs_grad:
            return "it has no gradient for the mask"
        if call.q.device.type == "cpu":
            return _unsupported_on_cpu(call)
        if call.q.device.type == "cuda":
            return _unsupported_on_cuda(call)
        return f"it runs on CUDA and the CPU, not on {call.q.device.type}"

    def forward(self, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        q, k, v, mask = call.q, call.k, call.v, call.mask
        if not call.needs_grad:  # on the CPU torch refuses what could want a gradient, even where none is recorded
            q, k, v = q.detach(), k.detach(), v.detach()
        if mask is not None:
            mask = mask.detach()
            if mask.dtype == torch.float64:
                mask = mask.to(torch.float32)  # scores are summed in float32
            # Broadcast here, by strides of 0: inside, sizes of the mask that vary apart from those of q and k break the
            # kernel for the CPU (torch 2.15), and an expanded mask may be copied.
            mask = expand_mask(mask, q, k)
        with torch._dynamo.config.patch({_limit_name(): _KERNELS}):
            result = _compiled()(q, k, v, mask, call.scale, call.needs_lse)
        return result if call.needs_lse else (result, None)


def _unsupported_on_cpu(call: AttentionCall) -> str | None:
    if call.needs_grad:
        return "on the CPU it computes no gradients"
    if call.needs_lse:
        return "on the CPU it returns no log-sum-exp"
    # as torch._inductor.kernel.flex.flex_cpu asks
    if sys.platform == "darwin" or not torch.cpu._is_avx2_supported() or torch.xpu.is_available():
        return "on the CPU it needs AVX2, and neither macOS nor an XPU"
    return None


def _unsupported_on_cuda(call: AttentionCall) -> str | None:
    widths = (call.q.shape[3], call.v.shape[3])
    if util.find_spec("triton") is None:
        return "on CUDA it needs the package triton"
    if min(widths) < 16:
        return f"on CUDA, widths must be at least 16, got {min(widths)}"
    if hasattr(flex, "_supported_head_dim") and any(width & (width - 1) for width in widths):
        return (
            f"torch {torch.__version__} compiles it for widths that are powers of two, not {widths[0]} and {widths[1]}"
        )
    return None


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, needs_lse: bool) -> Any:
    score_mod = None if mask is None else _modification(mask)
    if not needs_lse:
        return flex.flex_attention(q, k, v, score_mod=score_mod, scale=scale)
    if hasattr(flex, "AuxRequest"):  # torch 2.9; both are the natural logarithm
        out, aux = flex.flex_attention(q, k, v, score_mod=score_mod, scale=scale, return_aux=flex.AuxRequest(lse=True))
        return out, aux.lse
    return flex.flex_attention(q, k, v, score_mod=score_mod, scale=scale, return_lse=True)


def _modification(mask: Tensor) -> Callable[..., Tensor]:
    def score_mod(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        value = mask[batch, head, query, key]
        added = score if mask.dtype == torch.bool else score + value
        return torch.where(left_out(value), -torch.inf, added)

    return score_mod


@functools.cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(_attend, fullgraph=True)


@functools.cache
def _limit_name() -> str:
    """The name of torch's limit on the number of kernels that one function may be compiled into."""
    return "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"


@functools.cache
def _has_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX") or "c++", *_COMPILERS))
