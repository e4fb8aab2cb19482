"""Selection of the backend: by whom, in which order, and how much memory it may take."""

from __future__ import annotations

import itertools
import threading

import pytest
import torch

from visionzoo import VisionZooError
from visionzoo.attention import attention, attention_backend, attention_with_lse
from visionzoo.attention.backends.base import Backend
from visionzoo.attention.backends.sdpa import SdpaBackend
from visionzoo.attention.call import prepare
from visionzoo.attention.select import BACKENDS, RULES, backend_named, choose
from visionzoo.benchmark import peak_memory_mb

from .cases import Case, error, finite, reference


def call(q=(1, 2, 8, 16), k=None, v=None, dtype=torch.float32, mask=None, grad=False, **options):
    q_, k_, v_ = (torch.zeros(shape, dtype=dtype) for shape in (q, k or q, v or k or q))
    return prepare(q_.requires_grad_(grad), k_, v_, mask, None, needs_lse=options.get("lse", False))


def test_every_name_is_a_backend() -> None:
    for name in BACKENDS:
        backend = backend_named(name)
        assert isinstance(backend, Backend)
        assert backend.name == name
    assert {name for rule in RULES for name in rule.order} <= set(BACKENDS)


def test_auto_always_has_an_answer() -> None:
    long = (2, 4, 1024, 64)
    for c in (
        call(),
        call(dtype=torch.float64),
        call(long, dtype=torch.bfloat16),
        call(long, dtype=torch.float16),
        call((64, 1, 64, 32)),
        call(v=(1, 2, 8, 48)),
        call(grad=True),
        call(mask=torch.zeros(8, 8, requires_grad=True)),
        call(lse=True),
    ):
        assert choose(c).name in ("sdpa", "chunked")
    assert choose(call(mask=torch.zeros(8, 8, requires_grad=True))).name == "chunked"
    assert choose(call(v=(1, 2, 8, 48))).name == "chunked"


def test_an_argument_overrides_the_context_which_overrides_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(call()).name == "sdpa"
    monkeypatch.setenv("VISIONZOO_ATTENTION", "math")
    assert choose(call()).name == "math"
    with attention_backend("chunked"):
        assert choose(call()).name == "chunked"
        assert choose(call(), "sdpa").name == "sdpa"
        with attention_backend("math"):
            assert choose(call()).name == "math"
        assert choose(call()).name == "chunked"
    assert choose(call()).name == "math"


def test_a_list_is_an_order_of_preference(monkeypatch: pytest.MonkeyPatch) -> None:
    with_grad = call(mask=torch.zeros(8, 8, requires_grad=True))
    with attention_backend("sdpa", "math"):
        assert choose(with_grad).name == "math"
    monkeypatch.setenv("VISIONZOO_ATTENTION", "sdpa, auto")
    assert choose(with_grad).name == "chunked"


def test_an_unsupported_backend_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.randn(1, 1, 4, 8)
    mask = torch.zeros(4, 4, requires_grad=True)
    with (
        pytest.raises(
            VisionZooError, match=r"attention_backend\('sdpa'\).*has no gradient for the mask.*use backend='auto'"
        ),
        attention_backend("sdpa"),
    ):
        attention(q, q, q, mask=mask)
    monkeypatch.setenv("VISIONZOO_ATTENTION", "sdpaa")
    with pytest.raises(VisionZooError, match="sdpaa"):
        attention(q, q, q)
    with pytest.raises(VisionZooError, match="names no backend"), attention_backend():
        pass


def test_the_context_belongs_to_its_thread() -> None:
    seen = []
    with attention_backend("math"):
        thread = threading.Thread(target=lambda: seen.append(choose(call()).name))
        thread.start()
        thread.join()
    assert seen == ["sdpa"]


@pytest.mark.parametrize("backend", ["sdpa", "chunked"])
@pytest.mark.parametrize(
    ("kind", "value_width"),
    [("output", 48), ("lse", 16), ("gradient", 48), ("bfloat16", 16), ("float16", 16), ("keys", 16)],
)
def test_no_quadratic_memory(backend: str, value_width: int, kind: str) -> None:
    """All scores of 4096 x 4096 would be 64 MB in float32, 32 MB in half precision."""
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(kind, torch.float32)
    q, k, v = (torch.randn(1, 1, 4096, w, dtype=dtype) for w in (16, 16, value_width))
    mask = torch.rand(1, 1, 1, 4096) > 0.5 if kind == "keys" else None
    q.requires_grad_(kind == "gradient")

    def run() -> None:
        out, lse = attention_with_lse(q, k, v, mask=mask, backend=backend)
        if kind == "gradient":
            (out.sum() + lse.sum()).backward()

    assert peak_memory_mb(run) < 30
    if kind in ("output", "keys"):
        assert peak_memory_mb(lambda: attention(q, k, v, mask=mask, backend=backend)) < 30


def test_the_reference_shows_what_the_memory_test_would_find() -> None:
    q = torch.randn(1, 1, 4096, 16)
    assert peak_memory_mb(lambda: attention(q, q, q, backend="math")) > 64


@pytest.mark.parametrize("lse", [False, True])
@pytest.mark.parametrize(("key_width", "value_width"), [(64, 64), (16, 96), (512, 512), (40, 40)])
@pytest.mark.parametrize("mask", [None, (3, 1, 1, 100), (1, 4, 50, 100)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_cuda_kernels_are_called_as_they_are_declared(lse, key_width, value_width, mask, dtype) -> None:
    """Even without a GPU, torch can check the arguments of its kernels and infer their output shapes."""
    q = torch.empty(3, 4, 50, key_width, device="meta", dtype=dtype)
    k = torch.empty(3, 4, 100, key_width, device="meta", dtype=dtype)
    v = torch.empty(3, 4, 100, value_width, device="meta", dtype=dtype)
    m = None if mask is None else torch.empty(mask, device="meta", dtype=torch.bool)
    c = prepare(q, k, v, m, None, needs_lse=lse)
    backend = SdpaBackend()
    assert backend.supports(c) is None
    if not lse:
        return  # torch chooses the kernel at run time
    out, sums = backend.forward(c)
    assert out.shape == (3, 4, 50, value_width)
    assert out.dtype == dtype
    assert sums is not None
    assert sums.shape == (3, 4, 50)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["sdpa", "chunked"])
def test_cuda_against_the_reference(backend: str) -> None:
    dtypes = {torch.float32: 2e-3, torch.float16: 3e-3, torch.bfloat16: 2e-2}
    widths = [(64, 64), (16, 96), (512, 512), (40, 40)]
    for (dtype, bound), (key, value), mask in itertools.product(
        dtypes.items(), widths, ("none", "boolean", "additive", "keys")
    ):
        case = Case(2, 4, 1, 200, 333, key, value, mask, "plain", 0)
        q, k, v, m = (None if t is None else t.cuda() for t in case.tensors(dtype))
        assert q is not None and k is not None and v is not None  # noqa: PT018
        want, want_lse = reference(q, k, v, m)
        for out in (
            attention(q, k, v, mask=m, backend=backend),
            attention_with_lse(q, k, v, mask=m, backend=backend)[0],
        ):
            assert not out.isnan().any(), case
            assert error(out, want) < bound, case
        lse = attention_with_lse(q, k, v, mask=m, backend=backend)[1]
        assert (finite(lse) - finite(want_lse)).abs().max() < 0.05, case
        assert torch.equal(lse == -torch.inf, want_lse == -torch.inf), case
