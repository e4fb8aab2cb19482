"""The keys that a mask excludes: the same result from all backends, dtypes of the mask, and lengths."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from visionzoo.attention import attention, attention_with_lse, merge_attention, segment_attention
from visionzoo.attention.backends import sdpa
from visionzoo.attention.call import LOWEST, prepare
from visionzoo.memory import Fifo, TensorBank

from .cases import error, finite, textbook

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
BOUNDS = {torch.float16: 2e-3, torch.bfloat16: 1.5e-2, torch.float32: 4e-6, torch.float64: 1e-12}


# Values that people use to exclude a key, and the dtype of the mask.
LOWS = [
    (torch.float32, -torch.inf),
    (torch.float32, LOWEST),
    (torch.float32, -1e9),
    *((dtype, torch.finfo(dtype).min) for dtype in FLOATS),
]


def made(dtype: torch.dtype, keys: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v, and which keys take part: none for query 0; for query 1 none of the first half; for query 2 one key."""
    draw = torch.Generator().manual_seed(keys)
    q, k, v = (torch.randn(1, 2, n, 8, generator=draw).to(dtype) for n in (5, keys, keys))
    keep = torch.rand(1, 1, 5, keys, generator=draw) > 0.3
    keep[..., 0, :], keep[..., 1, : keys // 2], keep[..., 2, :], keep[..., 2, 1] = False, False, False, True
    return q, k, v, keep


def right(q: Tensor, k: Tensor, v: Tensor, keep: Tensor, weights: Tensor) -> list[Tensor]:
    """Output, log-sum-exp and the gradients to q, k, v in float64, without our code. Every row must have a key."""
    seen = keep.any(-1)[0, 0]
    q, k, v = (tensor.double().requires_grad_() for tensor in (q, k, v))
    part, part_lse = textbook(q[:, :, seen], k, v, keep[:, :, seen])
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=torch.float64)
    lse = torch.full(q.shape[:3], -torch.inf, dtype=torch.float64)
    out[:, :, seen], lse[:, :, seen] = part, part_lse
    return [out, finite(lse), *torch.autograd.grad(((out * weights).sum() + finite(lse).sum()), (q, k, v))]


def whole(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    return attention_with_lse(q, k, v, mask=mask, backend=backend)


def merged(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    half = k.shape[2] // 2
    return merge_attention(
        [
            attention_with_lse(q, k[:, :, part], v[:, :, part], mask=mask[..., part], backend=backend)
            for part in (slice(0, half), slice(half, None))
        ]
    )


def in_pieces(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    half = k.shape[2] // 2
    pieces = [(k[:, :, :half], v[:, :, :half]), (k[:, :, half:], v[:, :, half:])]
    return segment_attention(q, pieces, mask=mask, backend=backend, return_lse=True)


@pytest.mark.parametrize("compute", [whole, merged, in_pieces])
@pytest.mark.parametrize(
    ("backend", "keys"),  # pieces of 600 keys are not gathered; `chunked` goes over 4400 in blocks
    [("sdpa", 12), ("sdpa", 1200), ("chunked", 12), ("chunked", 4400), ("math", 12), ("auto", 1200)],
)
@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_of_lowest_numbers(dtype: torch.dtype, backend: str, keys: int, compute: Any) -> None:
    q, k, v, keep = made(dtype, keys)
    weights = torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    want = right(q, k, v, keep, weights)
    lows = LOWS if keys < 100 else LOWS[2:4]
    masks = [torch.zeros(keep.shape, dtype=kind).masked_fill_(~keep, low) for kind, low in lows]
    for mask in [keep, *masks]:
        inputs = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
        out, lse = compute(*inputs, mask, backend)
        assert (out[:, :, 0] == 0).all()
        assert torch.equal(lse == -torch.inf, ~keep.any(-1).expand(-1, 2, -1))
        grads = torch.autograd.grad((out * weights).sum() + finite(lse).sum(), inputs)
        for got, expected in zip([out, finite(lse), *grads], want, strict=True):
            assert error(got, expected) < BOUNDS[dtype], (mask.dtype, mask.min())
        assert (grads[0][:, :, 0] == 0).all()
        with torch.no_grad():
            torch.testing.assert_close(
                attention(q, k, v, mask=mask, backend=backend).double(), want[0], rtol=0, atol=BOUNDS[dtype]
            )


@pytest.mark.parametrize("top_k", [None, 40])
def test_reads_of_a_memory(top_k: int | None) -> None:
    """The memory's own scores, for the best k and for use counts, follow the rule too."""
    q, k, v, keep = made(torch.float32, 30)
    want, usage = None, None
    for low in (-torch.inf, -1e9, LOWEST):
        bank = TensorBank(8, 8, heads=2, policy=Fifo(100))
        bank.write(k, v)
        mask = torch.zeros(keep.shape).masked_fill_(~keep, low)
        got = bank.read(q, mask=mask, top_k=top_k, count_usage=True)
        assert got.usage is not None
        if want is None:
            want, usage = right(q, k, v, keep, torch.zeros(1, 2, 5, 8)), got.usage
        assert error(got.output, want[0]) < 1e-6
        assert torch.equal(got.lse == -torch.inf, ~keep.any(-1).expand(-1, 2, -1))
        torch.testing.assert_close(got.usage, usage)
        assert got.usage.sum().item() == pytest.approx(2 * 4)  # heads x queries that see something


@pytest.mark.parametrize("backend", ["sdpa", "chunked", "math"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_numbers_above_the_bound_are_added(dtype: torch.dtype, backend: str) -> None:
    """Even if half precision would round them: a row of -10000 is not excluded, and its log-sum-exp is right."""
    q, k, v, _ = made(dtype, 20)
    mask = torch.randn(1, 1, 5, 20, generator=torch.Generator().manual_seed(2)) * 3
    mask[..., 0, :] = -1e4
    mask[..., 1, :] += 77.7
    out, lse = attention_with_lse(q, k, v, mask=mask, backend=backend)
    want, want_lse = textbook(q.double(), k.double(), v.double(), mask.double())
    assert (out.double() - want).abs().max() < max(BOUNDS[dtype], 2e-3 if dtype != torch.float64 else 0)
    torch.testing.assert_close(lse.double(), want_lse, rtol=1e-7, atol=1e-12 if dtype == torch.float64 else 1e-4)


def test_a_mask_that_was_expanded_stays_small() -> None:
    """The mask is never copied for all heads or queries, which would take 16 MB."""
    from visionzoo.benchmark import peak_memory_mb

    q, k = torch.randn(1, 16, 64, 8), torch.randn(1, 16, 4096, 8)
    mask = torch.zeros(1, 1, 1, 4096).expand(1, 16, 64, 4096)
    assert peak_memory_mb(lambda: attention(q, k, k, mask=mask, backend="sdpa")) < 8


@pytest.mark.parametrize("needs_lse", [False, True])
@pytest.mark.parametrize(("dtype", "kind"), list(itertools.product(FLOATS[:3], (*FLOATS, torch.bool))))
def test_inputs_of_the_cuda_kernels(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, kind: torch.dtype, needs_lse: bool
) -> None:
    """With a fake that has their rules: the mask is boolean or in the dtype of q, and a row without keys gives NaN."""
    q, k, v, keep = made(dtype, 20)
    mask = keep
    if kind != torch.bool:
        mask = torch.randn(keep.shape, generator=torch.Generator().manual_seed(3)).to(kind)
        mask[..., 3, :] -= 5e4
        mask = mask.masked_fill(~keep, torch.finfo(kind).min)

    def with_lse(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, *_: Any, scale: float) -> tuple[Tensor, Tensor]:
        assert bias.dtype == dtype
        return textbook(q, k, v, bias, scale)

    def without(q: Tensor, k: Tensor, v: Tensor, *, attn_mask: Tensor, scale: float) -> Tensor:
        assert attn_mask.dtype in (dtype, torch.bool)
        return textbook(q, k, v, attn_mask, scale)[0]

    monkeypatch.setattr(torch.ops.aten, "_scaled_dot_product_efficient_attention", with_lse)
    monkeypatch.setattr(sdpa.F, "scaled_dot_product_attention", without)
    inputs = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
    call = prepare(*inputs, mask, None, needs_lse=needs_lse)
    out, lse = sdpa._cuda_with_lse(call) if needs_lse else (sdpa._cuda(call), None)
    seen = keep.any(-1)[0, 0]
    added = mask if kind == torch.bool else mask.double()
    want, want_lse = textbook(q[:, :, seen].double(), k.double(), v.double(), added[:, :, seen])
    bound = {torch.float16: 5e-3, torch.bfloat16: 4e-2, torch.float32: 1e-6}[dtype]  # sums in half precision here
    assert error(out[:, :, seen], want) < bound
    assert (out[:, :, ~seen] == 0).all()
    if lse is not None:
        assert (lse[:, :, ~seen] == -torch.inf).all()
        assert (lse[:, :, seen].double() - want_lse).abs().max() < max(
            bound, 4e-3
        )  # at 50000, float32 has steps of 4e-3
    out.float().sum().backward()
    for tensor in inputs:
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
    assert inputs[0].grad is not None
    assert (inputs[0].grad[:, :, ~seen] == 0).all()
