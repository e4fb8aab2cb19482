"""Attention over segments of keys and values without concatenation; segments may be on the host or memory-mapped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..devices import autocast_dtype
from ..errors import InputError
from ..streaming import stream_to
from . import blocks
from .call import AttentionCall, Segment, accumulate_dtype, prepare
from .functional import attend
from .gradient import row_term
from .select import segmented_backend

__all__ = ["segment_attention"]

_SMALL, _GATHERED = 512, 1024  # segments of fewer keys are gathered into passes of at most this many keys


@overload
def segment_attention(
    q: Tensor,
    segments: Iterable[Segment | tuple[Tensor, Tensor]],
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
    backend: str = "auto",
    return_lse: Literal[False] = False,
) -> Tensor: ...


@overload
def segment_attention(
    q: Tensor,
    segments: Iterable[Segment | tuple[Tensor, Tensor]],
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
    backend: str = "auto",
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def segment_attention(
    q: Tensor,
    segments: Iterable[Segment | tuple[Tensor, Tensor]],
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
    backend: str = "auto",
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """`attention` over the keys and values of all segments together, exactly, without concatenating them.

    Segments on the host are streamed to the device of `q`, the next one while the current one is computed. Besides the result,
    memory holds one segment (two while streaming), a float32 copy of the result, and at most 1024 keys, into which neighbouring
    segments of fewer than 512 keys are gathered. Gradients flow to q, every k and v, and an additive mask; the backward pass
    goes over the segments once more.

    Args:
        q: (B, H, L, Dk).
        segments: any number of `Segment` or (k, v), each with the layout of `attention`.
        mask: as for `attention`; broadcasts to (B, H, L, sum of all N): the keys of all segments in their order.
        scale, backend: as for `attention`. "triton" processes all segments in one launch.
        return_lse: also return the log-sum-exp.

    Returns:
        out (B, H, L, Dv), and with `return_lse` lse (B, H, L); zeros and -inf if there is no key.

    Raises:
        InputError: segments that do not fit `q` or each other, or no segment (the value width is then unknown).
    """
    pieces = [segment if isinstance(segment, Segment) else Segment(*segment) for segment in segments]
    q4, pieces, mask = _check(q, pieces, mask)
    if (lower := autocast_dtype(q.device)) is not None and q.dtype != torch.float64:
        q4 = q4.to(lower)
    factor = 1 / math.sqrt(max(1, q4.shape[3])) if scale is None else scale
    plan = _Plan(tuple(_passes(pieces)), factor, backend)
    flat = [tensor for piece in pieces for tensor in (piece.k, piece.v)]
    wants_grad = torch.is_grad_enabled() and any(
        t.requires_grad for t in (q4, *flat, *([] if mask is None else [mask]))
    )
    at_once = len(pieces) > 1 and segmented_backend(backend, q4, pieces, mask) is not None
    if len(plan.passes) == 1 and not at_once and all(t.device == q4.device for t in flat):
        k, v, part = next(iter(_stream(plan, q4, mask, pieces)))
        out, lse = attend(prepare(q4, k, v, part, factor, needs_lse=return_lse), backend)
    elif wants_grad:
        out, lse = _Segments.apply(plan, [piece.length for piece in pieces], q4, mask, *flat)
    else:
        out, lse = _forward(plan, q4, mask, pieces)
    if q.ndim == 3:
        out, lse = out.squeeze(1), None if lse is None else lse.squeeze(1)
    if not return_lse:
        return out
    assert lse is not None
    return out, lse


@dataclass(frozen=True)
class _Pass:
    """Neighbouring segments that are computed together, and the position of their keys among all keys."""

    pieces: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class _Plan:
    passes: tuple[_Pass, ...]
    scale: float
    backend: str


def _check(q: Tensor, pieces: list[Segment], mask: Tensor | None) -> tuple[Tensor, list[Segment], Tensor | None]:
    """Check the inputs, add head axes, apply integer lengths, and expand the batch of q to the largest of the segments."""
    if not pieces:
        raise InputError("segment_attention needs at least one segment; it may be empty, with N = 0")
    if q.ndim == 3:
        q = q.unsqueeze(1)
        pieces = [Segment(p.k.unsqueeze(1), p.v.unsqueeze(1), p.length) if p.k.ndim == 3 else p for p in pieces]
        mask = mask.unsqueeze(1) if mask is not None and mask.ndim == 3 else mask
    checked = []
    first = pieces[0]
    for number, piece in enumerate(pieces):
        k, v = piece.k, piece.v
        if k.ndim != 4 or v.ndim != 4 or k.shape[1::2] != first.k.shape[1::2] or v.shape[1::2] != first.v.shape[1::2]:
            raise InputError(
                f"segment {number} has k {tuple(k.shape)} and v {tuple(v.shape)}; the first one has "
                f"{tuple(first.k.shape)} and {tuple(first.v.shape)}: heads and widths must agree"
            )
        if k.device != v.device or k.device not in (q.device, torch.device("cpu")):
            raise InputError(
                f"segment {number} is on {k.device} and {v.device}; keep it on the device of q ({q.device}) or on the CPU"
            )
        if mask is not None and piece.length is not None:
            raise InputError("give lengths or a mask, not both; a mask can exclude the same keys")
        if isinstance(piece.length, int):
            if not 0 <= piece.length <= k.shape[2]:
                raise InputError(f"segment {number} has {k.shape[2]} keys; its length cannot be {piece.length}")
            piece = Segment(k[:, :, : piece.length], v[:, :, : piece.length])
        checked.append(piece)
    batch = max(piece.k.shape[0] for piece in checked)
    if q.shape[0] == 1 and batch > 1:
        q = q.expand(batch, -1, -1, -1)
    total = sum(piece.k.shape[2] for piece in checked)
    if mask is not None:
        if mask.ndim > 4 or (mask.ndim and mask.shape[-1] not in (1, total)):
            raise InputError(
                f"mask of shape {tuple(mask.shape)} does not broadcast to (batch, heads, queries, {total} keys of all segments)"
            )
        mask = mask[(None,) * (4 - mask.ndim)]
    return q, checked, mask


def _passes(pieces: Sequence[Segment]) -> Iterator[_Pass]:
    """One pass per segment; runs of small segments share a pass, as a pass costs about the same for 1 key as for 500."""
    waiting: list[int] = []
    start = stop = 0
    for number, piece in enumerate(pieces):
        size = piece.k.shape[2]
        small = size < _SMALL and piece.length is None
        joins = small and bool(waiting) and stop - start + size <= _GATHERED and _alike(pieces[waiting[0]], piece)
        if waiting and not joins:
            yield _Pass(tuple(waiting), start, stop)
            waiting, start = [], stop
        waiting.append(number)
        stop += size
        if not small:
            yield _Pass(tuple(waiting), start, stop)
            waiting, start = [], stop
    if waiting:
        yield _Pass(tuple(waiting), start, stop)


def _alike(a: Segment, b: Segment) -> bool:
    return a.k.device == b.k.device and a.k.shape[0] == b.k.shape[0] and a.k.dtype == b.k.dtype


def _stream(
    plan: _Plan, q: Tensor, mask: Tensor | None, pieces: Sequence[Segment]
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Keys, values and mask of each pass, on the device of q."""

    def joined() -> Iterator[tuple[Tensor, Tensor]]:
        for step in plan.passes:
            members = [pieces[number] for number in step.pieces]
            if len(members) == 1:
                yield members[0].k, members[0].v
            else:
                yield torch.cat([m.k for m in members], 2), torch.cat([m.v for m in members], 2)

    for step, (k, v) in zip(plan.passes, stream_to(q.device, joined()), strict=True):
        yield k.to(q.dtype), v.to(q.dtype), _mask_of(step, mask, pieces, k)


def _mask_of(step: _Pass, mask: Tensor | None, pieces: Sequence[Segment], k: Tensor) -> Tensor | None:
    length = pieces[step.pieces[0]].length
    if isinstance(length, Tensor):
        return (torch.arange(k.shape[2], device=length.device) < length.reshape(-1, 1))[:, None, None]
    if mask is None or mask.shape[3] == 1:
        return mask
    return mask[..., step.start : step.stop]


def _forward(plan: _Plan, q: Tensor, mask: Tensor | None, pieces: Sequence[Segment]) -> tuple[Tensor, Tensor]:
    out: Tensor | None = None
    lse: Tensor | None = None
    if (backend := segmented_backend(plan.backend, q, pieces, mask)) is not None:
        return backend.forward_segments(q, pieces, plan.scale)
    several = len(plan.passes) > 1
    for k, v, part_mask in _stream(plan, q, mask, pieces):
        part, part_lse = attend(prepare(q, k, v, part_mask, plan.scale, needs_lse=True), plan.backend)
        assert part_lse is not None
        if out is None or lse is None:
            out, lse = part.to(accumulate_dtype(q.dtype), copy=True) if several else part, part_lse
        else:
            lse = blocks.merge_into(out, lse, part, part_lse)
    assert out is not None
    assert lse is not None
    return out.to(q.dtype), lse


class _Segments(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: _Plan, lengths: list[Any], q: Tensor, mask: Tensor | None, *flat: Tensor
    ) -> tuple[Tensor, Tensor]:
        out, lse = _forward(plan, q, mask, _regroup(flat, lengths))
        ctx.plan, ctx.lengths = plan, lengths
        ctx.save_for_backward(q, mask, out, lse, *flat)
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *out_grads: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        out_grad, lse_grad = out_grads
        q, mask, out, lse, *flat = ctx.saved_tensors
        nothing = (None,) * (4 + len(flat))
        if out_grad is None and lse_grad is None:
            return nothing
        if out_grad is None:
            out_grad = torch.zeros_like(out)
        pieces = _regroup(flat, ctx.lengths)
        delta = row_term(out, out_grad, lse_grad)
        wants_q, wants_mask = ctx.needs_input_grad[2:4]
        wants = ctx.needs_input_grad[4:]
        grads: list[Tensor | None] = [None] * len(flat)
        q_grad = torch.zeros(q.shape, dtype=delta.dtype, device=q.device) if wants_q else None
        mask_grad = torch.zeros(mask.shape, dtype=delta.dtype, device=q.device) if wants_mask else None
        for step, (k, v, part_mask) in zip(ctx.plan.passes, _stream(ctx.plan, q, mask, pieces), strict=True):
            wanted = (
                wants_q,
                any(wants[2 * number] for number in step.pieces),
                any(wants[2 * number + 1] for number in step.pieces),
                wants_mask,
            )
            sums = _backward_pass(q, k, v, part_mask, ctx.plan.scale, out_grad, lse, delta, wanted)
            if q_grad is not None and sums.q is not None:
                q_grad += sums.q
            if mask_grad is not None and sums.mask is not None:
                mask_grad[..., slice(None) if mask.shape[3] == 1 else slice(step.start, step.stop)] += sums.mask
            place = 0
            for number in step.pieces:
                size = pieces[number].k.shape[2]
                for offset, total in ((0, sums.k), (1, sums.v)):
                    if total is not None and wants[2 * number + offset]:
                        source = flat[2 * number + offset]
                        grads[2 * number + offset] = total[:, :, place : place + size].to(source.device, source.dtype)
                place += size
        return (
            None,
            None,
            None if q_grad is None else q_grad.to(q.dtype),
            None if mask_grad is None else mask_grad.to(mask.dtype),
            *grads,
        )


def _regroup(flat: Sequence[Tensor], lengths: Sequence[Any]) -> list[Segment]:
    return [Segment(flat[2 * i], flat[2 * i + 1], length) for i, length in enumerate(lengths)]


def _backward_pass(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scale: float,
    out_grad: Tensor,
    lse: Tensor,
    delta: Tensor,
    wanted: tuple[bool, bool, bool, bool],
) -> blocks.Gradients:
    """`blocks.backward`, summed over the broadcast dimensions of k and v: the batch, and the query heads of a group."""
    groups = q.shape[1] // k.shape[1]
    if groups == 1:
        call = AttentionCall(q, k.expand(q.shape[0], -1, -1, -1), v.expand(q.shape[0], -1, -1, -1), mask, scale)
        sums = blocks.backward(call, out_grad, lse, delta, wanted)
    else:
        sums = blocks.Gradients(None, None, None, None)
        heads = [slice(member, None, groups) for member in range(groups)]
        parts = []
        for own in heads:
            part_mask = mask if mask is None or mask.shape[1] == 1 else mask[:, own]
            parts.append(
                _backward_pass(q[:, own], k, v, part_mask, scale, out_grad[:, own], lse[:, own], delta[:, own], wanted)
            )
        if wanted[0]:
            sums.q = torch.stack([part.q for part in parts if part.q is not None], 2).flatten(1, 2)
        if wanted[3] and mask is not None:
            masks = [part.mask for part in parts if part.mask is not None]
            sums.mask = torch.stack(masks, 2).flatten(1, 2) if mask.shape[1] > 1 else torch.stack(masks).sum(0)
        sums.k = _total([part.k for part in parts])
        sums.v = _total([part.v for part in parts])
        return sums
    if k.shape[0] == 1 and q.shape[0] > 1:
        sums.k = None if sums.k is None else sums.k.sum(0, keepdim=True)
        sums.v = None if sums.v is None else sums.v.sum(0, keepdim=True)
    return sums


def _total(parts: list[Tensor | None]) -> Tensor | None:
    found = [part for part in parts if part is not None]
    return sum(found[1:], found[0]) if found else None
