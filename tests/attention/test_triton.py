"""The Triton kernel: on CUDA if available, else in Triton's interpreter with the smallest blocks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.attention.cases import Case, cases, error, finite, reference
from visionzoo.attention import Segment, attention, attention_with_lse, segment_attention
from visionzoo.attention.backends.triton import TritonBackend
from visionzoo.attention.select import backend_named
from visionzoo.errors import InputError

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BOUNDS = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}  # about one rounding of the output
few = settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is decorated at its first use, which without CUDA happens only under this variable."""
    if DEVICE == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")


def agrees(
    got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor], dtype: torch.dtype, bound: float | None = None
) -> None:
    out, lse = (tensor.cpu() for tensor in got)
    assert out.dtype == dtype
    assert lse.dtype == torch.float32
    assert not out.isnan().any()
    assert error(out, want[0]) < (BOUNDS[dtype] if bound is None else bound)
    empty = want[1] == -torch.inf
    assert torch.equal(lse == -torch.inf, empty)
    assert torch.equal(out[empty], torch.zeros_like(out[empty]))
    torch.testing.assert_close(lse.double()[~empty], want[1][~empty], rtol=2e-6, atol=4e-6)


def over_pieces(q: Tensor, pieces: list[Segment]) -> tuple[Tensor, Tensor]:
    """Calls the kernel directly, because `segment_attention` would gather pieces as small as these first."""
    backend = TritonBackend()
    assert backend.unavailable() is None
    pieces = [Segment(k[:, :, :n], v[:, :, :n]) if isinstance(n, int) else Segment(k, v, n) for k, v, n in pieces]
    assert backend.supports_segments(q, pieces, None)
    return backend.forward_segments(q, pieces, q.shape[3] ** -0.5)


@few
@given(
    case=cases(masks=("none", "keys")),
    dtype=st.sampled_from(list(BOUNDS)),
    scale=st.sampled_from([None, None, 0.3, -0.2, 0.0]),
)
def test_agrees_with_the_textbook(case: Case, dtype: torch.dtype, scale: float | None) -> None:
    q, k, v, mask = case.tensors(dtype)
    moved = [tensor.to(DEVICE) for tensor in (q, k, v)]
    got = attention_with_lse(*moved, mask=None if mask is None else mask.to(DEVICE), scale=scale, backend="triton")
    agrees(got, reference(q, k, v, mask, scale), dtype)


@st.composite
def cuts(draw: st.DrawFn) -> tuple[Case, list[int], list[str]]:
    case = draw(cases(longest=40, masks=("none",)))
    sizes = draw(st.lists(st.integers(0, 40), min_size=1, max_size=4))
    kinds = draw(st.lists(st.sampled_from(["whole", "int", "per batch", "int32", "shared"]), min_size=4, max_size=4))
    return case, [case.keys, *sizes], ["whole", *kinds]


@few
@given(cut=cuts(), dtype=st.sampled_from(list(BOUNDS)))
def test_pieces_equal_their_concatenation(cut: tuple[Case, list[int], list[str]], dtype: torch.dtype) -> None:
    case, sizes, kinds = cut
    draw = torch.Generator().manual_seed(case.seed)
    q = case.tensors(dtype)[0]
    pieces, joined, kept = [], [], []
    for size, kind in zip(sizes, kinds, strict=False):
        owners = 1 if kind == "shared" else case.batch
        # keys as (B, N, H, D) and values as a slice of something wider: strides differ from piece to piece
        k = torch.randn(owners, size, case.heads, case.key_width, generator=draw).to(dtype).transpose(1, 2)
        v = torch.randn(owners, case.heads, size, case.value_width + 2, generator=draw).to(dtype)[..., 1:-1]
        keep = torch.ones(case.batch, size, dtype=torch.bool)
        length = None
        if kind == "int":
            length = size // 2
            keep[:, length:] = False
        elif kind in ("per batch", "int32"):
            length = torch.randint(-1, size + 3, (case.batch,), generator=draw)
            keep = torch.arange(size) < length[:, None]
            length = length.to(DEVICE, torch.int32 if kind == "int32" else torch.int64)
        pieces.append(Segment(k.to(DEVICE), v.to(DEVICE), length))
        joined.append((k.expand(case.batch, -1, -1, -1), v.expand(case.batch, -1, -1, -1)))
        kept.append(keep)
    want = reference(
        q,
        torch.cat([k for k, _ in joined], 2),
        torch.cat([v for _, v in joined], 2),
        torch.cat(kept, 1)[:, None, None],
    )
    agrees(over_pieces(q.to(DEVICE), pieces), want, dtype)


def test_all_pieces_are_one_launch_and_nothing_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    backend = backend_named("triton")
    whole = backend.forward_segments
    monkeypatch.setattr(backend, "forward_segments", lambda *given: calls.append(len(given[1])) or whole(*given))
    monkeypatch.setattr(torch, "cat", lambda *_: pytest.fail("pieces were joined"))
    q = torch.randn(1, 2, 5, 8, device=DEVICE)
    keys = [torch.randn(1, 1, n, 8, device=DEVICE) for n in (3, 20, 0, 520)]
    segment_attention(q, [(k, k) for k in keys], backend="triton")
    assert calls == [4]


@pytest.mark.parametrize(
    ("key_width", "value_width"), [(512, 40), (24, 300), pytest.param(512, 512, marks=pytest.mark.slow)]
)
def test_wide_keys_and_values(key_width: int, value_width: int) -> None:
    """Values wider than a block are split over programs: each must write its own columns, and one of them the lse."""
    q, k, v = torch.randn(1, 1, 5, key_width), torch.randn(1, 1, 37, key_width), torch.randn(1, 1, 37, value_width)
    got = attention_with_lse(*(t.to(DEVICE) for t in (q, k, v)), backend="triton")
    agrees(got, reference(q, k, v, None), torch.float32)


@pytest.mark.parametrize("flip", ["k", "q and v"])
def test_widths_with_a_stride(flip: str) -> None:
    q, k, v = (torch.randn(2, 2, 20, 12) for _ in range(3))
    if flip == "k":
        k = k.mT.contiguous().mT
    else:
        q, v = q.mT.contiguous().mT, v.mT.contiguous().mT
    want = reference(q, k, v, None)
    q, k, v = (torch.empty_strided(t.shape, t.stride(), device=DEVICE).copy_(t) for t in (q, k, v))
    agrees(attention_with_lse(q, k, v, backend="triton"), want, torch.float32)
    pieces = [Segment(k[:, :, :9], v[:, :, :9]), Segment(k[:, :, 9:], v[:, :, 9:])]
    agrees(over_pieces(q, pieces), want, torch.float32)


def test_rows_without_a_key() -> None:
    q, k = torch.randn(2, 2, 9, 8, device=DEVICE), torch.randn(2, 2, 30, 8, device=DEVICE)
    nothing = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    pieces = [Segment(k, k, nothing), Segment(k[:, :, :0], k[:, :, :0]), Segment(k, k, 0)]
    for out, lse in (
        attention_with_lse(q, k, k, mask=torch.zeros(1, 1, 1, 30, dtype=torch.bool, device=DEVICE), backend="triton"),
        over_pieces(q, pieces),
        over_pieces(q, pieces[1:]),
    ):
        assert torch.equal(out, torch.zeros_like(q))
        assert torch.equal(lse, torch.full_like(lse, -torch.inf))


def test_scores_far_from_zero_stay_finite() -> None:
    q, k, v = (torch.randn(1, 1, 20, 16) for _ in range(3))
    q = q * 100
    got = attention_with_lse(*(t.to(DEVICE) for t in (q, k, v)), backend="triton")
    agrees(got, reference(q, k, v, None), q.dtype, bound=5e-5)  # scores of some hundreds are rounded to 3e-5


def test_offsets_beyond_32_bits(tmp_path: Path) -> None:
    """Row 2 is 2^31 elements after row 0, in a sparse file."""
    if DEVICE == "cuda":
        flat = torch.empty(2**31 + 64, dtype=torch.float16, device=DEVICE)
    else:
        flat = torch.from_file(str(tmp_path / "sparse"), shared=True, size=2**31 + 64, dtype=torch.float16)
    k = flat.as_strided((1, 1, 3, 8), (2**31, 2**31, 2**30, 1))
    k.copy_(torch.randn(1, 1, 3, 8))
    q = torch.randn(1, 1, 4, 8, device=DEVICE).half()
    want = reference(q.cpu(), k.cpu(), k.cpu(), None)
    agrees(attention_with_lse(q, k, k, backend="triton"), want, torch.float16)
    agrees(over_pieces(q, [Segment(k, k)]), want, torch.float16)
    k = flat.as_strided((1, 1, 8, 3), (2**31, 2**31, 1, 2**30))  # the same, along the width
    k.copy_(torch.randn(1, 1, 8, 3))
    want = reference(q[..., :3].cpu(), k.cpu(), k.cpu(), None)
    agrees(attention_with_lse(q[..., :3], k, k, backend="triton"), want, torch.float16)


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_through_output_and_log_sum_exp(groups: int) -> None:
    torch.manual_seed(groups)
    inputs = [torch.randn(2, 2 * groups, 9, 8), torch.randn(2, 2, 40, 8), torch.randn(2, 2, 40, 5)]
    mask = torch.rand(2, 1, 1, 40) > 0.5
    lengths = torch.tensor([13, 40])

    def grads(dtype: torch.dtype, backend: str, device: str) -> list[Tensor]:
        q, k, v = (tensor.to(device, dtype).requires_grad_() for tensor in inputs)
        out, lse = attention_with_lse(q, k, v, mask=mask.to(device), backend=backend)
        loss = out.square().sum() + finite(lse).sin().sum()
        if backend == "math":
            keep = torch.cat([torch.arange(40) < lengths[:, None], torch.ones(2, 40, dtype=torch.bool)], 1)
            out, lse = attention_with_lse(
                q, torch.cat([k, k], 2), torch.cat([v, v], 2), mask=keep[:, None, None], backend=backend
            )
        else:
            pieces = [Segment(k, v, lengths.to(device)), Segment(k, v)]
            out, lse = segment_attention(q, pieces, backend=backend, return_lse=True)
        loss = loss + out.square().sum() + lse.sin().sum()
        return [grad.cpu() for grad in torch.autograd.grad(loss, (q, k, v))]

    for got, want in zip(grads(torch.float32, "triton", DEVICE), grads(torch.float64, "math", "cpu"), strict=True):
        assert error(got, want) < 3e-6


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dtype": torch.float64}, "not float64"),
        ({"width": 520}, "key width must be at most 512, got 520"),
        ({"mask": torch.zeros(6, 7)}, "no additive mask"),
        ({"mask": torch.ones(6, 7, dtype=torch.bool)}, "by batch and key only"),
    ],
)
def test_unsupported_calls_are_named(change: dict, reason: str) -> None:
    like = {"dtype": change.get("dtype", torch.float32), "device": DEVICE}
    q, k = (torch.zeros(1, 1, length, change.get("width", 8), **like) for length in (6, 7))
    mask = change.get("mask")
    with pytest.raises(InputError, match=reason):
        attention(q, k, k, mask=None if mask is None else mask.to(DEVICE), backend="triton")


def test_pieces_that_do_not_fit_are_left_to_the_check_that_names_them() -> None:
    """The kernel reads by address: with an unchecked batch or width, it would read foreign memory."""
    backend, q = TritonBackend(), torch.randn(3, 4, 5, 8, device=DEVICE)

    def piece(*shape: int, length: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Segment:
        k = torch.randn(shape, device=DEVICE).to(dtype)
        return Segment(k, k, length)

    assert backend.supports_segments(q, [piece(3, 2, 7, 8), piece(1, 2, 0, 8)], None)
    assert not backend.supports_segments(q, [piece(3, 2, 7, 8)], torch.ones(1, 1, 1, 7, dtype=torch.bool))
    for unfit in (
        piece(2, 2, 7, 8),
        piece(3, 3, 7, 8),
        piece(3, 2, 7, 9),
        piece(3, 2, 7, 8, dtype=torch.float16),
        piece(3, 2, 7, 8, length=torch.ones(2, dtype=torch.int64, device=DEVICE)),
        piece(3, 2, 7, 8, length=torch.ones(3, device=DEVICE)),
    ):
        assert not backend.supports_segments(q, [piece(3, 2, 7, 8), unfit], None)


@pytest.mark.skipif(DEVICE == "cuda", reason="about machines without CUDA")
def test_the_reason_for_being_unavailable_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    q = torch.randn(1, 1, 4, 8)
    with pytest.raises(InputError, match="no CUDA device, and TRITON_INTERPRET=1 is not set"):
        attention(q, q, q, backend="triton")
    monkeypatch.setattr("visionzoo.attention.backends.triton.util.find_spec", lambda name: None)
    assert TritonBackend().unavailable() == "the package triton is not installed"


SHARED_KB = {(8, 0): 163, (8, 6): 99, (8, 9): 99, (9, 0): 227, (10, 0): 227, (12, 0): 99}


@pytest.mark.parametrize("capability", SHARED_KB)
def test_blocks_fit_shared_memory(capability: tuple[int, int]) -> None:
    """Too much shared memory fails at the launch, on machines where the tests may never run."""
    from visionzoo.attention.backends.triton_kernels import sizes_for

    for itemsize in (2, 4):
        for key_width in (1, 24, 64, 128, 192, 512):
            for value_width in (1, 64, 96, 200, 512, 4096):
                for queries in (1, 16, 64, 128):
                    sizes = sizes_for(key_width, value_width, queries, itemsize, capability)
                    numbers = sizes.queries * sizes.key_block
                    numbers += sizes.stages * sizes.keys * (sizes.key_block + sizes.value_block)
                    assert numbers * itemsize <= SHARED_KB[capability] * 1024
                    assert sizes.key_block >= key_width
                    assert min(sizes.queries, sizes.keys, sizes.value_block) >= 16


COMPILE = """
import re, sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import triton
from visionzoo.attention.backends.triton_kernels import attention_kernel as kernel, sizes_for

segmented = sys.argv[1] == "segmented"
sizes = sizes_for(128, 128, 128, 2, (9, 0))
constants = dict(
    SIGN=1, SEGMENTED=segmented, MASKED=False, LENGTHS=segmented, UNIT=True, ALIGN=8, KEY_WIDTH=128, VALUE_WIDTH=128,
    KEY_BLOCK=128, VALUE_BLOCK=128, QUERIES=sizes.queries, KEYS=sizes.keys, STAGES=sizes.stages, PRECISION="ieee",
    INTERPRET=False, q_width=1, k_width=1, v_width=1, mask_stride=1,
)
pointers = dict(out="bf16", q="bf16", k="bf16", v="bf16", lse="fp32", table="i64", mask="u8")
names = kernel.arg_names
source = ASTSource(
    fn=kernel,
    signature={
        n: "constexpr" if n in constants else "*" + pointers[n] if n in pointers else "fp32" if n == "scale" else "i32"
        for n in names
    },
    constexprs={(names.index(n),): value for n, value in constants.items()},
    attrs={(names.index(n),): [["tt.divisibility", 16]] for n in (*pointers, "q_batch", "q_head", "q_row")},
)
made = triton.compile(
    source, target=GPUTarget("cuda", 90, 32), options=dict(num_warps=sizes.warps, num_stages=sizes.stages)
)
code = made.asm["ptx"]
print(len(re.findall("wgmma.mma_async", code)), len(re.findall(r"cp.async.cg.shared.global.* 0x10", code)))
print(made.metadata.shared)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["segmented", "one"])
def test_compiled_for_hopper_it_loads_16_bytes_ahead_of_use(kind: str) -> None:
    """Triton knows nothing about addresses that are read from a table, so they need hints. A lost hint costs most of the
    speed without changing the result; the compiler's output shows it without a GPU."""
    settled = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", COMPILE, kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=settled)
    assert done.returncode == 0, done.stderr[-2000:]
    products, loads, shared = map(int, done.stdout.split())
    assert products > 0
    assert loads > 0
    assert shared <= SHARED_KB[9, 0] * 1024


def on_cpu(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return pair[0].cpu(), pair[1].cpu()


@pytest.mark.gpu
@pytest.mark.parametrize("width", [64, 128])
def test_at_real_size_it_agrees_with_float64_and_needs_no_more_than_the_result(width: int) -> None:
    q, k, v = (torch.randn(1, 8, 4096, width, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    pieces = [(k[:, :, i : i + 500], v[:, :, i : i + 500]) for i in range(0, 4096, 500)]
    for compute in (
        lambda: attention_with_lse(q, k, v, backend="triton"),
        lambda: segment_attention(q, pieces, backend="triton", return_lse=True),
    ):
        compute()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        out, lse = compute()
        torch.cuda.synchronize()
        extra = torch.cuda.max_memory_allocated() - before - out.nbytes - lse.nbytes
        assert extra < 0.05 * (q.nbytes + k.nbytes + v.nbytes + out.nbytes)
        rows = slice(0, 512)
        agrees((out[:, :, rows], lse[:, :, rows]), on_cpu(reference(q[:, :, rows], k, v, None)), out.dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", list(BOUNDS))
@pytest.mark.parametrize("widths", [(16, 48), (64, 64), (80, 80), (96, 40), (256, 256), (512, 512), (64, 512)])
def test_every_block_size_launches(widths: tuple[int, int], dtype: torch.dtype) -> None:
    q = torch.randn(2, 4, 300, widths[0], device="cuda").to(dtype)
    k, v = (torch.randn(2, 2, 777, width, device="cuda").to(dtype) for width in widths)
    want = on_cpu(reference(q, k, v, None))
    agrees(attention_with_lse(q, k, v, backend="triton"), want, dtype)
    pieces = [Segment(k[:, :, :100], v[:, :, :100]), Segment(k[:, :, 100:], v[:, :, 100:])]
    agrees(over_pieces(q, pieces), want, dtype)
