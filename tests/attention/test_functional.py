"""Attention, its log-sum-exp and merging: the numbers, the gradients, what is refused."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import visionzoo
from visionzoo import VisionZooError
from visionzoo.attention import attention, attention_with_lse, merge_attention, segment_attention

from .cases import Case, cases, error, finite, reference, textbook

BACKENDS = ["sdpa", "chunked", "math"]  # `auto` takes one of these
quick = settings(max_examples=15, deadline=None)


@quick
@given(case=cases(), scale=st.sampled_from([None, 0.25, 1.0]))
def test_the_reference_is_the_textbook(case: Case, scale: float | None) -> None:
    q, k, v, mask = case.tensors()
    out, lse = reference(q, k, v, mask, scale)
    want, want_lse = textbook(q, k, v, mask, scale)
    seen = want_lse > -torch.inf
    torch.testing.assert_close(lse, want_lse)
    torch.testing.assert_close(out[seen], want[seen])
    assert (out[~seen] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@quick
@given(case=cases(), scale=st.sampled_from([None, 0.25]))
def test_float64(backend: str, case: Case, scale: float | None) -> None:
    q, k, v, mask = case.tensors()
    want, want_lse = reference(q, k, v, mask, scale)
    out, lse = attention_with_lse(q, k, v, mask=mask, scale=scale, backend=backend)
    torch.testing.assert_close(out, want, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(lse, want_lse, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(
        attention(q, k, v, mask=mask, scale=scale, backend=backend), want, rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("dtype", "bound", "lse_bound"),
    [(torch.float32, 2e-6, 1e-5), (torch.float16, 2e-3, 2e-3), (torch.bfloat16, 1.5e-2, 6e-2)],
)
@quick
@given(case=cases(masks=("none", "boolean", "keys")))
def test_lower_precision(backend: str, dtype: torch.dtype, bound: float, lse_bound: float, case: Case) -> None:
    q, k, v, mask = case.tensors(dtype)
    want, want_lse = reference(q, k, v, mask)
    out, lse = attention_with_lse(q, k, v, mask=mask, backend=backend)
    assert out.dtype == dtype
    assert lse.dtype == torch.float32
    assert not out.isnan().any()
    assert error(out, want) < bound
    assert (finite(lse) - finite(want_lse)).abs().max() < lse_bound
    assert torch.equal(lse == -torch.inf, want_lse == -torch.inf)


@pytest.mark.parametrize("backend", ["sdpa", "chunked"])
@quick
@given(case=cases(longest=30))
def test_gradients_through_output_and_lse(backend: str, case: Case) -> None:
    q, k, v, mask = case.tensors()
    wanting = [q, k, v]
    if mask is not None and mask.dtype != torch.bool and backend != "sdpa":
        wanting.append(mask)
    for tensor in wanting:
        tensor.requires_grad_(True)
    draw = torch.Generator().manual_seed(1)
    out, lse = attention_with_lse(q, k, v, mask=mask, backend=backend)
    out_grad = torch.randn(out.shape, generator=draw, dtype=torch.float64)
    lse_grad = torch.randn(lse.shape, generator=draw, dtype=torch.float64)

    def gradients(out: torch.Tensor, lse: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad((out * out_grad).sum() + (finite(lse) * lse_grad).sum(), wanting)

    got = gradients(out, lse)
    want = gradients(*attention_with_lse(q, k, v, mask=mask, backend="math"))
    for mine, other in zip(got, want, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)
    plain = torch.autograd.grad((attention(q, k, v, mask=mask, backend=backend) * out_grad).sum(), wanting)
    alone = torch.autograd.grad((attention(q, k, v, mask=mask, backend="math") * out_grad).sum(), wanting)
    for mine, other in zip(plain, alone, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mask", ["none", "boolean", "additive"])
def test_gradcheck(backend: str, mask: str) -> None:
    case = Case(1, 1, 2, 3, 4, 3, 2, mask, "plain", 0)
    q, k, v, m = case.tensors()
    if m is not None and m.dtype != torch.bool:
        m = m.clamp(min=-5)  # finite differences of -inf are none
        if backend != "sdpa":
            m.requires_grad_(True)
    for tensor in (q, k, v):
        tensor.requires_grad_(True)

    def both(*inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out, lse = attention_with_lse(*inputs[:3], mask=inputs[3] if len(inputs) > 3 else m, backend=backend)
        return out, finite(lse)

    assert torch.autograd.gradcheck(both, (q, k, v, m) if m is not None and m.requires_grad else (q, k, v))


@quick
@given(case=cases(), cuts=st.lists(st.integers(0, 70), max_size=4))
def test_parts_merge_to_the_whole(case: Case, cuts: list[int]) -> None:
    """Any split of the keys, including empty parts and fully masked parts; gradients too."""
    q, k, v, mask = case.tensors()
    wanting = [tensor.requires_grad_(True) for tensor in (q, k, v)]
    edges = [0, *sorted(min(cut, case.keys) for cut in cuts), case.keys]
    parts = [
        attention_with_lse(
            q, k[:, :, a:b], v[:, :, a:b], mask=None if mask is None else mask[..., a:b], backend="chunked"
        )
        for a, b in itertools.pairwise(edges)
    ]
    out, lse = merge_attention(parts)
    want, want_lse = attention_with_lse(q, k, v, mask=mask, backend="math")
    torch.testing.assert_close(out, want, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(lse, want_lse, rtol=1e-10, atol=1e-12)
    got = torch.autograd.grad(out.square().sum() + finite(lse).sum(), wanting)
    whole = torch.autograd.grad(want.square().sum() + finite(want_lse).sum(), wanting)
    for mine, other in zip(got, whole, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("queries", "keys", "batch"), [(5, 0, 2), (0, 5, 2), (0, 0, 2), (5, 4, 0)])
def test_nothing_to_attend_to(backend: str, queries: int, keys: int, batch: int) -> None:
    """Without keys, torch's CPU kernel ends the process; here the result is zeros and -inf, with gradients of zero."""
    q = torch.randn(batch, 2, queries, 8, requires_grad=True)
    k = torch.randn(batch, 2, keys, 8, requires_grad=True)
    v = torch.randn(batch, 2, keys, 4, requires_grad=True)
    out, lse = attention_with_lse(q, k, v, backend=backend)
    assert out.shape == (batch, 2, queries, 4)
    if keys == 0:
        assert (out == 0).all()
        assert (lse == -math.inf).all()
    out.sum().backward()
    assert q.grad is not None
    assert q.grad.shape == q.shape


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_head_needs_no_head_axis(backend: str) -> None:
    q, k, v = (torch.randn(2, 9, 8, dtype=torch.float64) for _ in range(3))
    mask = torch.rand(2, 9, 9) > 0.3
    want = attention(q[:, None], k[:, None], v[:, None], mask=mask[:, None], backend="math")[:, 0]
    out, lse = attention_with_lse(q, k, v, mask=mask, backend=backend)
    torch.testing.assert_close(out, want)
    assert lse.shape == (2, 9)


def test_large_scores_do_not_overflow() -> None:
    q = torch.full((1, 1, 4, 16), 200.0)
    k = torch.randn(1, 1, 3000, 16) * 100
    v = torch.randn(1, 1, 3000, 8)
    want, want_lse = reference(q, k, v, None)
    for backend in BACKENDS:
        out, lse = attention_with_lse(q, k, v, backend=backend)
        assert error(out, want) < 1e-3
        assert error(lse, want_lse) < 1e-6


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_casts_the_inputs_and_nothing_else(backend: str) -> None:
    """As for torch's own attention, mixed inputs become bfloat16, sums stay float32, and gradients keep their dtype."""
    q = torch.randn(1, 2, 300, 16, requires_grad=True)
    k, v = torch.randn(1, 2, 2500, 16).bfloat16(), torch.randn(1, 2, 2500, 16, requires_grad=True)
    want, want_lse = reference(q.bfloat16(), k, v.bfloat16(), None)
    with torch.autocast("cpu", torch.bfloat16):
        out, lse = attention_with_lse(q, k, v, backend=backend)
        pieces = segment_attention(q, [(k[:, :, :900], v[:, :, :900]), (k[:, :, 900:], v[:, :, 900:])], backend=backend)
        (out.float().square().sum() + pieces.float().square().sum()).backward()
    assert out.dtype == pieces.dtype == torch.bfloat16
    assert error(out, want) < 5e-3
    assert error(pieces, want) < 5e-3
    assert (lse.double() - want_lse).abs().max() < 5e-3
    assert q.grad is not None
    assert q.grad.dtype == torch.float32
    assert v.grad is not None
    got = v.grad.clone()
    v.grad = None
    (2 * attention(q.detach(), k.float(), v, backend="math").square().sum()).backward()
    want = v.grad
    assert want is not None
    assert error(got, want) < 2e-2


def test_same_inputs_give_the_same_bits() -> None:
    q, k, v = (torch.randn(2, 4, 600, 32) for _ in range(3))
    for backend in BACKENDS:
        first = attention_with_lse(q, k, v, backend=backend)
        second = attention_with_lse(q, k, v, backend=backend)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_long_inputs_go_in_blocks() -> None:
    """More keys and more queries than in a block, for both ways of computing it."""
    q, k, v = torch.randn(2, 1, 1100, 16), torch.randn(2, 1, 5000, 16), torch.randn(2, 1, 5000, 24)
    want, want_lse = reference(q, k, v, None)
    out, lse = attention_with_lse(q, k, v, backend="chunked")
    assert error(out, want) < 2e-6
    torch.testing.assert_close(lse.double(), want_lse, rtol=1e-6, atol=1e-5)
    q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
    want, want_lse = reference(q, k, v, None)
    out, lse = attention_with_lse(q, k, v, backend="chunked")
    assert error(out, want) < 5e-3
    torch.testing.assert_close(lse.double(), want_lse, rtol=1e-3, atol=5e-3)


def test_bfloat16_keeps_large_scores_exact_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """MCNet's single head of width 512 at scale 1/4: scores in the hundreds, which bfloat16 would round to integers."""
    from visionzoo.attention import blocks

    q = torch.randn(1, 1, 128, 512).abs().bfloat16()
    k = torch.randn(1, 1, 512, 512).abs().bfloat16()
    v = torch.randn(1, 1, 512, 512).bfloat16()
    want = reference(q, k, v, None, 0.25)[0]
    monkeypatch.setattr(blocks, "MULTIPLIES_BFLOAT16", True)  # test this path even where it is not the faster one
    assert error(attention(q, k, v, scale=0.25, backend="chunked"), want) < 8e-3
    plain = torch.softmax(q @ k.transpose(-2, -1) * 0.25, -1) @ v
    assert error(plain, want) > 3e-2


@pytest.mark.parametrize(
    ("q", "k", "v", "extra", "message"),
    [
        ((1, 2, 3, 8), (1, 2, 4, 9), (1, 2, 4, 8), {}, "q and k must have the same width"),
        ((1, 2, 3, 8), (1, 2, 4, 8), (1, 2, 5, 8), {}, "agree in batch, heads and number of keys"),
        ((1, 3, 3, 8), (1, 2, 4, 8), (1, 2, 4, 8), {}, "must be a multiple"),
        ((2, 2, 3, 8), (3, 2, 4, 8), (3, 2, 4, 8), {}, "or one of them 1"),
        ((2, 3, 8), (2, 2, 4, 8), (2, 2, 4, 8), {}, "no head axis"),
        ((3, 8), (4, 8), (4, 8), {}, "expected q (batch, heads, length, key width)"),
        ((1, 2, 3, 8), (1, 2, 4, 8), (1, 2, 4, 8), {"mask": torch.ones(5, 4).bool()}, "does not broadcast"),
        ((1, 2, 3, 8), (1, 2, 4, 8), (1, 2, 4, 8), {"mask": torch.ones(3, 4).int()}, "must be boolean"),
        ((1, 2, 3, 8), (1, 2, 4, 8), (1, 2, 4, 8), {"scale": float("nan")}, "scale must be a finite number"),
        ((1, 2, 3, 8), (1, 2, 4, 8), (1, 2, 4, 8), {"backend": "sdp"}, "did you mean sdpa"),
    ],
)
def test_inputs_that_do_not_fit_are_named(q, k, v, extra, message: str) -> None:
    with pytest.raises(VisionZooError, match=message.replace("(", r"\(").replace(")", r"\)")):
        attention(torch.randn(q), torch.randn(k), torch.randn(v), **extra)


def test_dtypes_must_agree() -> None:
    q = torch.randn(1, 1, 2, 4)
    with pytest.raises(VisionZooError, match="share one floating dtype"):
        attention(q, q.half(), q)
    with pytest.raises(VisionZooError, match="share one floating dtype"):
        attention(q.int(), q.int(), q.int())


def test_merging_refuses_parts_of_different_queries() -> None:
    out, lse = attention_with_lse(*(torch.randn(1, 1, 3, 4) for _ in range(3)))
    with pytest.raises(VisionZooError, match="different queries"):
        merge_attention([(out, lse), (out[:, :, :2], lse[:, :, :2])])
    with pytest.raises(VisionZooError, match="at least one"):
        merge_attention([])


def test_the_package_is_the_function() -> None:
    q = torch.randn(1, 1, 3, 4)
    assert torch.equal(visionzoo.attention(q, q, q), attention(q, q, q))
    assert getattr(visionzoo.attention, "attention_with_lse") is attention_with_lse  # noqa: B009


def test_compiles_without_a_graph_break() -> None:
    def step(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out, lse = attention_with_lse(q, k, v)
        return attention(out, k, v[..., :4], mask=torch.ones(k.shape[2], dtype=torch.bool)) * lse.unsqueeze(-1)

    q, k, v = (torch.randn(1, 2, 8, 4) for _ in range(3))
    compiled = torch.compile(step, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v), step(q, k, v))
