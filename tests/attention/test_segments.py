"""Attention over pieces that are never concatenated."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from visionzoo import VisionZooError
from visionzoo.attention import Segment, attention, attention_with_lse, segment_attention
from visionzoo.benchmark import peak_memory_mb

from .cases import Case, cases, finite


def split(k: Tensor, v: Tensor, cuts: list[int]) -> list[tuple[Tensor, Tensor]]:
    edges = [0, *sorted(min(cut, k.shape[2]) for cut in cuts), k.shape[2]]
    return [(k[:, :, a:b], v[:, :, a:b]) for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("backend", ["chunked", "sdpa", "math"])
@settings(max_examples=15, deadline=None)
@given(case=cases(), cuts=st.lists(st.integers(0, 70), max_size=5))
def test_pieces_equal_the_whole(backend: str, case: Case, cuts: list[int]) -> None:
    q, k, v, mask = case.tensors()
    wanting = [tensor.requires_grad_(True) for tensor in (q, k, v)]
    if mask is not None and mask.dtype != torch.bool:
        wanting.append(mask.requires_grad_(True))
        if backend == "sdpa":
            wanting.pop().requires_grad_(False)
    out, lse = segment_attention(q, split(k, v, cuts), mask=mask, backend=backend, return_lse=True)
    want, want_lse = attention_with_lse(q, k, v, mask=mask, backend="math")
    torch.testing.assert_close(out, want, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(lse, want_lse, rtol=1e-10, atol=1e-12)
    got = torch.autograd.grad(out.square().sum() + finite(lse).sum(), wanting)
    whole = torch.autograd.grad(want.square().sum() + finite(want_lse).sum(), wanting)
    for mine, other in zip(got, whole, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(segment_attention(q, split(k, v, cuts), mask=mask, backend=backend), want)


def test_pieces_larger_than_the_gathering_limit() -> None:
    """Pieces of every size around the limits, so that some are gathered and some are not."""
    q = torch.randn(1, 2, 40, 16)
    sizes = [3, 500, 511, 512, 513, 100, 0, 1500, 7, 7, 1]
    pieces = [(torch.randn(1, 2, n, 16), torch.randn(1, 2, n, 8)) for n in sizes]
    want = attention(q, torch.cat([k for k, _ in pieces], 2), torch.cat([v for _, v in pieces], 2), backend="math")
    torch.testing.assert_close(segment_attention(q, pieces), want)


def test_lengths_cut_pieces_short() -> None:
    q = torch.randn(2, 2, 5, 8)
    k, v = torch.randn(2, 2, 600, 8), torch.randn(2, 2, 600, 8)
    lengths = torch.tensor([17, 0])
    first = Segment(k, v, lengths)
    second = Segment(k.flip(2), v.flip(2), 30)
    out, lse = segment_attention(q, [first, second], return_lse=True)
    for row, length in enumerate(lengths.tolist()):
        keys = torch.cat([k[row : row + 1, :, :length], k.flip(2)[row : row + 1, :, :30]], 2)
        values = torch.cat([v[row : row + 1, :, :length], v.flip(2)[row : row + 1, :, :30]], 2)
        want, want_lse = attention_with_lse(q[row : row + 1], keys, values, backend="math")
        torch.testing.assert_close(out[row : row + 1], want)
        torch.testing.assert_close(lse[row : row + 1], want_lse)


def test_all_empty_gives_zeros() -> None:
    q = torch.randn(2, 2, 5, 8, requires_grad=True)
    empty = torch.randn(2, 2, 0, 8)
    for pieces in ([(empty, empty)], [(empty, empty)] * 3, [Segment(q.detach(), q.detach(), torch.zeros(2).int())] * 2):
        out, lse = segment_attention(q, pieces, return_lse=True)
        assert (out == 0).all()
        assert (lse == -torch.inf).all()


def test_half_precision_pieces_under_float32_queries() -> None:
    """A bank that stores bfloat16 is read at the precision of the query, bounded by the storage's own rounding."""
    q, k, v = torch.randn(1, 2, 30, 16), torch.randn(1, 2, 2000, 16), torch.randn(1, 2, 2000, 16)
    stored = [(a.bfloat16(), b.bfloat16()) for a, b in split(k, v, [700, 1400])]
    out = segment_attention(q, stored)
    assert out.dtype == torch.float32
    want = attention(q, k.bfloat16().float(), v.bfloat16().float(), backend="math")
    torch.testing.assert_close(out, want, rtol=1e-5, atol=1e-6)


def test_pieces_of_a_memory_mapped_file(tmp_path: Path) -> None:
    values = torch.randn(2, 4096, 16)
    values.numpy().tofile(tmp_path / "kv.bin")
    mapped = torch.from_file(str(tmp_path / "kv.bin"), shared=False, size=values.numel()).view(2, 1, 1, 4096, 16)
    q = torch.randn(1, 1, 20, 16)
    out = segment_attention(q, split(mapped[0], mapped[1], [1000, 2000, 3000]))
    torch.testing.assert_close(out, attention(q, values[0][None, None], values[1][None, None], backend="math"))


@pytest.mark.parametrize("wants_grad", [False, True])
def test_memory_is_about_one_piece(wants_grad: bool) -> None:
    """Sixteen pieces of 2 MB each: concatenating them would take 32 MB, and all scores 128 MB."""
    q = torch.randn(1, 1, 1024, 64)
    pieces = [(torch.randn(1, 1, 4096, 64).requires_grad_(wants_grad), torch.randn(1, 1, 4096, 64)) for _ in range(8)]

    def run() -> None:
        out = segment_attention(q, pieces)
        if wants_grad:
            out.sum().backward()

    gradients = 8 if wants_grad else 0  # the result itself: a gradient for each k
    assert peak_memory_mb(run) < 28 + gradients


def test_pieces_may_come_from_a_generator() -> None:
    q, k, v = (torch.randn(1, 2, 50, 8) for _ in range(3))
    torch.testing.assert_close(segment_attention(q, (piece for piece in split(k, v, [20]))), attention(q, k, v))


def test_one_head_needs_no_head_axis() -> None:
    q, k, v = (torch.randn(2, 50, 8) for _ in range(3))
    out, lse = segment_attention(q, [(k[:, :20], v[:, :20]), (k[:, 20:], v[:, 20:])], return_lse=True)
    torch.testing.assert_close(out, attention(q, k, v))
    assert lse.shape == (2, 50)


def test_inputs_that_do_not_fit_are_named() -> None:
    q, k = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 5, 8)
    with pytest.raises(VisionZooError, match="at least one segment"):
        segment_attention(q, [])
    with pytest.raises(VisionZooError, match="segment 1 has k"):
        segment_attention(q, [(k, k), (k[..., :4], k)])
    with pytest.raises(VisionZooError, match="its length cannot be 6"):
        segment_attention(q, [Segment(k, k, 6)])
    with pytest.raises(VisionZooError, match="10 keys of all segments"):
        segment_attention(q, [(k, k), (k, k)], mask=torch.ones(3, 9).bool())
    with pytest.raises(VisionZooError, match="lengths or a mask"):
        segment_attention(q, [Segment(k, k, 3)], mask=torch.ones(3, 5).bool())


@pytest.mark.gpu
def test_host_pieces_stream_to_the_device() -> None:
    q = torch.randn(1, 4, 512, 64, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(1, 4, 65536, 64, dtype=torch.bfloat16) for _ in range(2))
    pieces = split(k, v, list(range(8192, 65536, 8192)))
    want = attention(q, k.cuda(), v.cuda())
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = segment_attention(q, pieces)
    assert torch.cuda.max_memory_allocated() - before < 4 * 2 * 8192 * 64 * 4 * 2
    torch.testing.assert_close(out, want, rtol=2e-2, atol=2e-3)
    pinned = [(a.pin_memory(), b.pin_memory()) for a, b in pieces]
    assert torch.equal(segment_attention(q, pinned), out)


@pytest.mark.gpu
def test_gradients_reach_host_pieces() -> None:
    q = torch.randn(1, 2, 64, 32, device="cuda", requires_grad=True)
    k, v = (torch.randn(1, 2, 2000, 32, requires_grad=True) for _ in range(2))
    segment_attention(q, split(k, v, [900])).square().sum().backward()
    assert q.grad is not None and k.grad is not None and v.grad is not None  # noqa: PT018
    got = (q.grad.clone(), k.grad.clone(), v.grad.clone())
    q.grad = k.grad = v.grad = None
    attention(q, k.cuda(), v.cuda(), backend="math").square().sum().backward()
    for mine, want in zip(got, (q.grad, k.grad, v.grad), strict=True):
        torch.testing.assert_close(mine, want, rtol=1e-3, atol=1e-4)
