"""Checked inputs of an attention call, in one layout for all backends."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..devices import autocast_dtype
from ..errors import InputError

__all__ = ["LOWEST", "AttentionCall", "Segment", "accumulate_dtype", "expand_mask", "left_out", "prepare"]

LOWEST = -65504.0
"""The lowest finite float16. An additive mask at or below it excludes a key, like -inf, whatever its dtype."""


class Segment(NamedTuple):
    """A segment of keys and values.

    Attributes:
        k: (B or 1, Hk, N, Dk); v: (B or 1, Hk, N, Dv). On the device of the queries, or on the CPU (pageable, pinned, or
            memory-mapped).
        length: number of valid keys at the front: an int, (B,) integers on the device of the queries, or None for all N.
    """

    k: Tensor
    v: Tensor
    length: int | Tensor | None = None


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """The checked inputs of `softmax(scale * q k^T + mask) v`.

    Attributes:
        q: (B, H, L, Dk).
        k: (B, H, N, Dk); batches or heads that were broadcast have stride 0.
        v: (B, H, N, Dv).
        mask: None, or boolean (True takes part) or additive float, four dimensions that broadcast to (B, H, L, N).
            `left_out` tells which keys it excludes.
        scale: factor of the scores.
        needs_lse: whether the log-sum-exp of the scores is requested besides the output.
        needs_grad: whether any input requires a gradient.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    scale: float
    needs_lse: bool = False
    needs_grad: bool = False

    @property
    def mask_needs_grad(self) -> bool:
        return self.mask is not None and self.mask.requires_grad and torch.is_grad_enabled()

    def with_tensors(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> AttentionCall:
        return replace(self, q=q, k=k, v=v, mask=mask)


def prepare(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, *, needs_lse: bool
) -> AttentionCall:
    """Check shapes, dtypes and devices, and expand all tensors to four dimensions.

    Raises:
        InputError: shapes, dtypes or devices that do not fit; the message states the expected shapes.
    """
    if q.ndim == 3:  # one head, no head axis
        if k.ndim != 3 or v.ndim != 3:
            raise InputError(f"q has no head axis, so k and v must have none: got {_shapes(q, k, v)}")
        q, k, v = q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)
        if mask is not None and mask.ndim == 3:
            mask = mask.unsqueeze(1)
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4:
        raise InputError(
            f"expected q (batch, heads, length, key width), k (batch, heads, keys, key width) and "
            f"v (batch, heads, keys, value width), or all three without the head axis; got {_shapes(q, k, v)}"
        )
    if k.shape[:3] != v.shape[:3]:
        raise InputError(f"k and v must agree in batch, heads and number of keys: got {_shapes(q, k, v)}")
    if q.shape[3] != k.shape[3] or q.shape[3] == 0 or v.shape[3] == 0:
        raise InputError(f"q and k must have the same width, and all widths must be at least 1: got {_shapes(q, k, v)}")
    if (lower := autocast_dtype(q.device)) is not None and q.dtype != torch.float64:
        q, k, v = q.to(lower), k.to(lower), v.to(lower)
    if not (q.dtype == k.dtype == v.dtype) or not q.is_floating_point():
        raise InputError(f"q, k and v must share one floating dtype: got {q.dtype}, {k.dtype}, {v.dtype}")
    if not (q.device == k.device == v.device) or (mask is not None and mask.device != q.device):
        raise InputError(
            f"q, k, v and mask must be on one device: got {q.device}, {k.device}, {v.device}"
            + ("" if mask is None else f", {mask.device}")
            + "; segment_attention streams keys and values from the host"
        )
    batch, heads = q.shape[0], q.shape[1]
    if k.shape[0] != batch:
        if k.shape[0] != 1 and batch != 1:
            raise InputError(f"the batch of k and v must be that of q, or one of them 1: got {_shapes(q, k, v)}")
        batch = max(batch, k.shape[0]) if min(batch, k.shape[0]) else 0
        q = q.expand(batch, -1, -1, -1)
        k, v = k.expand(batch, -1, -1, -1), v.expand(batch, -1, -1, -1)
    if k.shape[1] != heads and (k.shape[1] == 0 or heads % k.shape[1]):
        raise InputError(f"the heads of q must be a multiple of those of k and v: got {_shapes(q, k, v)}")
    if mask is not None:
        mask = _check_mask(mask, (batch, heads, q.shape[2], k.shape[2]))
    if scale is None:
        scale = 1.0 / math.sqrt(q.shape[3])
    elif not isinstance(scale, (int, float)) or not math.isfinite(scale):
        raise InputError(f"scale must be a finite number, or None for 1 / sqrt(key width), got {scale!r}")
    needs_grad = torch.is_grad_enabled() and (
        q.requires_grad or k.requires_grad or v.requires_grad or (mask is not None and mask.requires_grad)
    )
    return AttentionCall(q, k, v, mask, float(scale), needs_lse, needs_grad)


def _check_mask(mask: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise InputError(
            f"mask must be boolean (True takes part) or floating-point (added to the scores), got {mask.dtype}"
        )
    if mask.ndim > 4 or any(
        have not in (1, want) for have, want in zip(reversed(mask.shape), reversed(shape), strict=False)
    ):
        raise InputError(
            f"mask of shape {tuple(mask.shape)} does not broadcast to (batch, heads, queries, keys) {shape}"
        )
    mask = mask[(None,) * (4 - mask.ndim)]
    if not mask.requires_grad:  # a mask that was expanded to all heads or queries would become large where it is copied
        for dim, stride in enumerate(mask.stride()):
            mask = mask.narrow(dim, 0, 1) if stride == 0 and mask.shape[dim] > 1 else mask
    return mask


def left_out(mask: Tensor) -> Tensor:
    """Which keys a mask excludes: False, or a number at or below `LOWEST`.

    Programs use -inf, -1e9 or the lowest number of some dtype to exclude a key. Here, all of these have the same meaning in every
    backend. The bound is the lowest number of the narrowest dtype, so that larger numbers are finite in every other dtype, and
    casts exclude no further keys.
    """
    return ~mask if mask.dtype == torch.bool else mask <= LOWEST


def expand_mask(mask: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """The mask as (B, H, L, N), broadcast dimensions with stride 0."""
    return mask.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums and of the log-sum-exp: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _shapes(q: Tensor, k: Tensor, v: Tensor) -> str:
    return f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
