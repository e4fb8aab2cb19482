"""xformers, with a fake of its interface: the package's own kernels load with only one version of torch."""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

from tests.attention.cases import error, reference
from visionzoo import doctor
from visionzoo.attention import attention
from visionzoo.attention.backends import xformers as module
from visionzoo.attention.backends.xformers import XformersBackend
from visionzoo.attention.call import AttentionCall, prepare
from visionzoo.errors import InputError
from visionzoo.registry import Need

Install = Callable[..., list[str]]


def published(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The documented interface: (B, M, H, K) in and out, lse (B, H, M) padded to a multiple of 32."""
    assert q.shape[2] == k.shape[2] == v.shape[2]
    for tensor in (q, k, v):
        assert tensor.stride(3) == 1
        assert all(stride % (16 // tensor.element_size()) == 0 for stride in tensor.stride()[:3])
    scores = torch.einsum("bmhk,bnhk->bhmn", q, k) * scale
    out = torch.einsum("bhmn,bnhk->bmhk", scores.softmax(-1), v)
    rows = q.shape[1]
    return out, torch.nn.functional.pad(scores.logsumexp(-1), (0, -rows % 32), value=torch.nan)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a fake of the package; returns a list of the functions that are called."""

    def install(failure: Exception | None = None) -> list[str]:
        calls: list[str] = []

        def with_lse(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
            calls.append("with lse")
            return published(q, k, v, scale)

        def without(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
            calls.append("without")
            return published(q, k, v, scale)[0]

        package = ModuleType("xformers")
        package.__spec__ = importlib.machinery.ModuleSpec("xformers", None)
        package.__path__ = []
        library, ops = ModuleType("xformers._cpp_lib"), ModuleType("xformers.ops")
        vars(library)["_cpp_library_load_exception"] = failure
        vars(ops)["memory_efficient_attention_forward_requires_grad"] = with_lse
        vars(ops)["memory_efficient_attention_forward"] = without
        for name, found in {"xformers": package, "xformers._cpp_lib": library, "xformers.ops": ops}.items():
            monkeypatch.setitem(sys.modules, name, found)
        monkeypatch.setattr(module, "_version", lambda package: "0.0.35")
        return calls

    module._problem.cache_clear()
    module._ops.cache_clear()
    yield install
    module._problem.cache_clear()
    module._ops.cache_clear()


def call(layout: str = "plain", dtype: torch.dtype = torch.float32, needs_lse: bool = True) -> AttentionCall:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, length, width) for length, width in ((37, 16), (20, 16), (20, 24)))
    if layout == "fused":  # rows that start anywhere
        q, k, v = (torch.cat([tensor, tensor[..., :3]], -1)[..., 3:] for tensor in (q, k, v))
    if layout == "transposed":
        q, k, v = (tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in (q, k, v))
    if layout == "shared":
        k, v = k[:1], v[:1]
    return prepare(q.to(dtype), k.to(dtype), v.to(dtype), None, 0.3, needs_lse=needs_lse)


@pytest.mark.parametrize("layout", ["plain", "fused", "transposed", "shared"])
def test_layout_and_padding_of_the_package(install: Install, layout: str) -> None:
    calls = install()
    backend, given = XformersBackend(), call(layout)
    assert backend.unavailable() is None
    out, lse = backend.forward(given)
    want_out, want_lse = reference(given.q, given.k, given.v, None, 0.3)
    assert lse is not None
    assert error(out, want_out) < 1e-6
    assert error(lse, want_lse) < 1e-6
    again, nothing = backend.forward(replace(given, needs_lse=False))
    assert torch.equal(again, out)
    assert nothing is None
    assert calls == ["with lse", "without"]


def on_cuda(call: AttentionCall) -> AttentionCall:
    """The call as if on CUDA, for `supports`, which reads only shapes and dtypes."""

    def like(tensor: Tensor) -> Tensor:
        device = SimpleNamespace(type="cuda")
        return cast(
            Tensor,
            SimpleNamespace(device=device, dtype=tensor.dtype, shape=tensor.shape, element_size=tensor.element_size),
        )

    return replace(call, q=like(call.q), k=like(call.k), v=like(call.v))


def test_unsupported_calls_are_named(install: Install) -> None:
    install()
    supports = XformersBackend().supports
    assert supports(on_cuda(call())) is None
    assert supports(on_cuda(call(dtype=torch.bfloat16))) is None
    assert "not float64" in (supports(on_cuda(call(dtype=torch.float64))) or "")
    narrow = call()
    narrow = replace(narrow, v=narrow.v[..., :6])
    assert "multiples of 4 in this dtype, got 16 and 6" in (supports(on_cuda(narrow)) or "")
    masked = replace(call(), mask=torch.ones(1, 1, 1, 20, dtype=torch.bool))
    assert "for masks, sdpa and flex" in (supports(on_cuda(masked)) or "")
    with pytest.raises(InputError, match="run on CUDA, not on cpu"):
        attention(*(torch.zeros(1, 1, 4, 8),) * 3, backend="xformers")


def test_the_reason_for_being_unavailable_is_given(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        RuntimeError("xFormers can't load C++/CUDA extensions. xFormers was built for:\n    PyTorch 2.10.0+cu128 with")
    )
    monkeypatch.setattr(torch, "__version__", "2.15.0")
    assert XformersBackend().unavailable() == (
        "the extension of xformers 0.0.35 does not load with torch 2.15.0: it was built for torch 2.10.0+cu128; "
        "install that torch, or the release of xformers for yours"
    )
    line = doctor._optional(Need("xformers", "xformers", "a backend"))
    assert line.startswith("does not work: the extension of xformers 0.0.35")
    module._problem.cache_clear()
    monkeypatch.setitem(sys.modules, "xformers._cpp_lib", None)
    assert (XformersBackend().unavailable() or "").startswith("xformers 0.0.35 does not import (ModuleNotFoundError")
    module._problem.cache_clear()
    monkeypatch.setattr(module.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="the package xformers is not installed"):
        attention(*(torch.zeros(1, 1, 4, 8),) * 3, backend="xformers")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_package_itself(dtype: torch.dtype) -> None:
    if (reason := XformersBackend().unavailable()) is not None:
        pytest.skip(reason)
    q, k = (torch.randn(2, 4, length, 64, device="cuda", dtype=dtype) for length in (301, 500))
    v = torch.randn(2, 4, 500, 32, device="cuda", dtype=dtype)
    given = prepare(q, k, v, None, None, needs_lse=True)
    out, lse = XformersBackend().forward(given)
    assert lse is not None
    want_out, want_lse = reference(q, k, v, None)
    bound = 2e-3 if dtype == torch.float32 else 8e-3  # its kernels for float32 use the TF32 mode
    assert error(out, want_out) < bound
    assert error(lse, want_lse) < bound
