"""Our own Triton kernel: one launch over all segments of keys and values."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from importlib import util
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..call import AttentionCall, Segment
from .base import Backend

__all__ = ["TritonBackend"]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_WIDEST_KEY = 512


class TritonBackend(Backend):
    """Forward and log-sum-exp in one launch, over one piece or over many, anywhere on the device.

    Keys and values may differ in width, be of any width up to 512 (values of any), have any strides, and serve groups of
    query heads and whole batches without copies. A mask may say which keys count, not which pairs. Memory beyond the
    result is 128 bytes per piece. The backward is the blocked one of `gradient.py` and `segments.py`.

    It runs on CUDA, and on the CPU in Triton's interpreter (TRITON_INTERPRET=1; slow, for tests). Nothing was measured
    on a GPU yet, so "auto" never picks it: ask for it by name.
    """

    name: ClassVar[str] = "triton"
    autograd: ClassVar[Literal["none", "output", "both"]] = "none"

    def unavailable(self) -> str | None:
        if util.find_spec("triton") is None:
            return "the package triton is not installed"
        if os.environ.get("TRITON_INTERPRET"):
            kernels = _kernels()
            if kernels.interpreter_requested() and not kernels.INTERPRETED:
                return "TRITON_INTERPRET was set after the kernel had been loaded; set it before Python starts"
            if kernels.INTERPRETED:
                return None
        if not torch.cuda.is_available():
            return "there is no CUDA device, and TRITON_INTERPRET=1 is not set, which would run Triton on the CPU"
        if torch.version.hip is not None:
            return "the sizes of its blocks are for CUDA, not for ROCm"
        return None

    def supports(self, call: AttentionCall) -> str | None:
        if (reason := _unsupported(call.q)) is not None:
            return reason
        mask = call.mask
        if mask is None:
            return None
        if mask.dtype != torch.bool:
            return "it supports no additive mask, only a boolean mask of keys"
        if mask.shape[1] != 1 or mask.shape[2] != 1:
            return f"a mask may differ by batch and key only, not by head or query, as {tuple(mask.shape)} does"
        return None

    def supports_segments(self, q: Tensor, pieces: Sequence[Segment], mask: Tensor | None) -> bool:
        return mask is None and _unsupported(q) is None and all(_matches(q, piece) for piece in pieces)

    def forward(self, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        k, v, mask = call.k, call.v, call.mask
        out, lse = _results(call.q, v.shape[3])
        strides = [*_strides(k), *_strides(v)]
        mask_strides = 0, 0
        if mask is not None:
            mask = mask.expand(call.q.shape[0], 1, 1, k.shape[2]).view(torch.uint8)
            mask_strides = (mask.stride(0), mask.stride(3))
        _launch(
            out,
            lse,
            call.q,
            call.scale,
            heads_of_keys=k.shape[1],
            table=None,
            one=(k, v, *strides, k.shape[2]),
            mask=(mask, mask_strides[0], mask_strides[1]),
            flags={
                "LENGTHS": False,
                "UNIT": strides[3] == strides[7] == 1,
                "ALIGN": _alignment(call.q.element_size(), [k.data_ptr(), v.data_ptr()], [*strides[:3], *strides[4:7]]),
            },
        )
        return out, lse

    def forward_segments(self, q: Tensor, pieces: Sequence[Segment], scale: float) -> tuple[Tensor, Tensor]:
        out, lse = _results(q, pieces[0].v.shape[3])
        rows: list[list[int]] = []
        kept: list[Tensor] = []  # lengths whose addresses are in the table
        for k, v, length in pieces:
            address = stride = 0
            if isinstance(length, Tensor):
                if length.dtype not in (torch.int32, torch.int64):
                    length = length.to(torch.int32)
                kept.append(length)
                address = length.data_ptr()
                stride = length.stride(0) * length.element_size() // 4 if length.numel() > 1 else 0
            keys = k.shape[2] if length is None or isinstance(length, Tensor) else length
            rows.append([k.data_ptr(), v.data_ptr(), keys, *_strides(k), *_strides(v), address, stride, 0, 0, 0])
        # pageable memory is copied before the call returns, so the list may go
        table = torch.tensor(rows, dtype=torch.int64).to(q.device, non_blocking=True)
        _launch(
            out,
            lse,
            q,
            scale,
            heads_of_keys=pieces[0].k.shape[1],
            table=table,
            one=(q, q, *(0,) * 8, 0),
            mask=(None, 0, 0),
            flags={
                "LENGTHS": bool(kept),
                "UNIT": all(row[6] == row[10] == 1 for row in rows),
                "ALIGN": _alignment(
                    q.element_size(),
                    [address for row in rows for address in row[:2]],
                    [stride for row in rows for stride in (*row[3:6], *row[7:10])],
                ),
            },
        )
        return out, lse


def _kernels() -> Any:
    from . import triton_kernels

    return triton_kernels


def _unsupported(q: Tensor) -> str | None:
    """Why queries like these are not supported, whatever the keys."""
    if q.dtype not in _DTYPES:
        return f"it computes in float32, float16 and bfloat16, not {str(q.dtype).removeprefix('torch.')}"
    if q.shape[3] > _WIDEST_KEY:
        return f"the key width must be at most {_WIDEST_KEY}, got {q.shape[3]}"
    if _kernels().INTERPRETED:
        return (
            None
            if q.device.type == "cpu"
            else f"TRITON_INTERPRET=1 supports only tensors on the CPU, not on {q.device}"
        )
    if q.device.type != "cuda":
        return f"the kernel runs on CUDA, not on {q.device}"
    if (capability := torch.cuda.get_device_capability(q.device)) < (8, 0):
        return f"needs CUDA capability 8.0, not {capability[0]}.{capability[1]}"
    return None


def _matches(q: Tensor, piece: Segment) -> bool:
    """Whether the kernel can read this segment for these queries; wrong shapes are refused elsewhere."""
    k, v, length = piece
    if not (k.device == v.device == q.device and k.dtype == v.dtype == q.dtype):
        return False
    if k.shape[0] not in (1, q.shape[0]) or k.shape[:3] != v.shape[:3] or k.shape[3] != q.shape[3]:
        return False
    if k.shape[1] == 0 or q.shape[1] % k.shape[1] or v.shape[3] == 0:
        return False
    if not isinstance(length, Tensor):
        return True
    integer = not length.is_floating_point() and length.dtype != torch.bool
    return integer and length.device == q.device and length.ndim == 1 and length.numel() in (1, q.shape[0])


def _results(q: Tensor, width: int) -> tuple[Tensor, Tensor]:
    out = torch.empty((*q.shape[:3], width), dtype=q.dtype, device=q.device)
    return out, torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)


def _strides(tensor: Tensor) -> list[int]:
    """Strides of batch, head, row and width; 0 (for the width 1) along a single entry, whatever torch says."""
    strides = [stride if size > 1 else 0 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)]
    return [*strides[:3], strides[3] if tensor.shape[3] > 1 else 1]


def _alignment(itemsize: int, addresses: Sequence[int], strides: Sequence[int]) -> int:
    """Elements in 16 bytes if every row starts at a multiple of 16 bytes, else 1."""
    elements = 16 // itemsize
    fits = all(address % 16 == 0 for address in addresses) and all(stride % elements == 0 for stride in strides)
    return elements if fits else 1


def _launch(
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    scale: float,
    *,
    heads_of_keys: int,
    table: Tensor | None,
    one: tuple[Any, ...],
    mask: tuple[Tensor | None, int, int],
    flags: dict[str, Any],
) -> None:
    kernels = _kernels()
    batch, heads, queries, key_width = q.shape
    value_width = out.shape[3]
    interpreted = q.device.type == "cpu"
    capability = (0, 0) if interpreted else torch.cuda.get_device_capability(q.device)
    rows = 1 << (queries - 1).bit_length() if queries < 128 else 128
    sizes = kernels.sizes_for(key_width, value_width, rows, q.element_size(), capability)
    blocks = -(-queries // sizes.queries)
    programs = blocks * -(-value_width // sizes.value_block) * heads * batch
    if programs == 0:
        return
    with torch.cuda.device(q.device) if not interpreted else contextlib.nullcontext():
        kernels.attention_kernel[(programs,)](
            out,
            lse,
            q,
            *_strides(q),
            lse if table is None else table,
            *one,
            lse if mask[0] is None else mask[0],
            *mask[1:],
            queries,
            heads,
            heads // heads_of_keys,
            0 if table is None else table.shape[0],
            blocks,
            abs(scale) * math.log2(math.e) if scale else 1.0,
            SIGN=(scale > 0) - (scale < 0),
            SEGMENTED=table is not None,
            MASKED=mask[0] is not None,
            **flags,
            KEY_WIDTH=key_width,
            VALUE_WIDTH=value_width,
            KEY_BLOCK=sizes.key_block,
            VALUE_BLOCK=sizes.value_block,
            QUERIES=sizes.queries,
            KEYS=sizes.keys,
            STAGES=sizes.stages,
            PRECISION="ieee",
            INTERPRET=interpreted,
            num_warps=sizes.warps,
            num_stages=sizes.stages,
        )
