"""flex_attention, compiled: outputs and gradients on CUDA, outputs only on the CPU."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from tests.attention.cases import error, finite, reference
from visionzoo.attention import attention, attention_with_lse
from visionzoo.attention.backends.flex import FlexBackend
from visionzoo.errors import InputError


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"grad": True}, "computes no gradients"),
        ({"lse": True}, "returns no log-sum-exp"),
        ({"dtype": torch.float64}, "not float64"),
    ],
)
def test_unsupported_calls_on_the_cpu_are_named(change: dict, reason: str) -> None:
    q = torch.zeros(1, 1, 4, 16, dtype=change.get("dtype", torch.float32), requires_grad=change.get("grad", False))
    compute = attention_with_lse if change.get("lse") else attention
    if (missing := FlexBackend().unavailable()) is not None:
        reason = missing.split(",")[0]
    with pytest.raises(InputError, match=reason):
        compute(q, q, q, backend="flex")


def test_a_missing_compiler_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visionzoo.attention.backends.flex._has_compiler", lambda: False)
    q = torch.zeros(1, 1, 4, 16)
    with pytest.raises(InputError, match=r"needs a C\+\+ compiler"):
        attention(q, q, q, backend="flex")


# In a separate process, because torch.compile changes global state and its compiler prints.
ON_CPU = """
import torch
from tests.attention.cases import error, reference
from visionzoo.attention import attention
from visionzoo.benchmark import peak_memory_mb

torch.manual_seed(0)
torch.set_num_threads(2)

def check(queries, keys, mask=None, dtype=torch.float32, bound=2e-6, value_width=24):
    q, k = (torch.randn(2, 3, n, 16).to(dtype) for n in (queries, keys))
    v = torch.randn(1, 3, keys, value_width).to(dtype)  # a batch of 1 serves both
    out = attention(q, k, v.expand(2, -1, -1, -1), mask=mask, backend="flex")
    want = reference(q, k, v.expand(2, -1, -1, -1), mask)[0]
    assert out.dtype == dtype and not out.isnan().any()
    assert error(out, want) < bound, (queries, keys, mask, error(out, want))

for queries, keys in ((33, 20), (41, 57), (70, 9)):  # the second length compiles once more, the third does not
    check(queries, keys)
    mask = torch.rand(2, 1, 1, keys) > 0.5
    mask[1] = False  # a batch that sees nothing
    check(queries, keys, mask)
    check(queries, keys, torch.randn(3, queries, keys))
check(33, 20, dtype=torch.bfloat16, bound=8e-3)
lowest = torch.zeros(3, 33, 20)
lowest[:, :9], lowest[:, 9:20, ::2] = torch.finfo(torch.float32).min, -1e9  # nine queries that see nothing
check(33, 20, lowest)

# heads and widths are those of the calls above, as each other combination would be compiled again
q, k, v = (torch.randn(2, 3, 41, width, requires_grad=True) for width in (16, 16, 24))  # weights of a network that only computes
with torch.no_grad():
    out = attention(q, k, v[:1].expand(2, -1, -1, -1), mask=torch.zeros(41, 41).double(), backend="flex")
assert error(out, reference(q, k, v[:1].expand(2, -1, -1, -1), None)[0]) < 2e-6

q, k, v = (torch.randn(2, 3, 1024, width) for width in (16, 16, 24))
v = v[:1].expand(2, -1, -1, -1)
mask = torch.rand(2, 1, 1, 1024) > 0.5
runs = [lambda: attention(q, k, v, mask=mask, backend="flex"), lambda: attention(q, k, v, backend="flex")]
for run in runs:
    run()
with_mask, without = map(peak_memory_mb, runs)
assert with_mask - without < 2, "6 MB is what a copy of the mask would take, expanded to all scores"
"""


@pytest.mark.slow
@pytest.mark.skipif(FlexBackend().unavailable() is not None, reason=str(FlexBackend().unavailable()))
def test_agrees_with_the_textbook_on_the_cpu() -> None:
    done = subprocess.run([sys.executable, "-c", ON_CPU], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["none", "boolean", "keys", "additive"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_agrees_with_the_textbook_on_cuda(kind: str, dtype: torch.dtype) -> None:
    """Output, log-sum-exp, and the gradients through both, in one kernel and its own backward."""
    torch.manual_seed(0)
    q, k = (torch.randn(2, 4, n, 64, device="cuda", dtype=dtype) for n in (300, 500))
    v = torch.randn(2, 4, 500, 32, device="cuda", dtype=dtype)
    mask = {
        "none": None,
        "boolean": torch.rand(2, 1, 300, 500, device="cuda") > 0.5,
        "keys": torch.rand(2, 1, 1, 500, device="cuda") > 0.5,
        "additive": torch.randn(1, 4, 300, 500, device="cuda", dtype=dtype),
    }[kind]
    if kind == "boolean" and mask is not None:
        mask[:, :, :3] = False

    def run(to: torch.dtype, backend: str) -> list[Tensor]:
        inputs = [tensor.to(to).detach().requires_grad_() for tensor in (q, k, v)]
        bias = mask if mask is None or mask.dtype == torch.bool else mask.to(to)
        out, lse = attention_with_lse(*inputs, mask=bias, backend=backend)
        loss = out.float().square().sum() + finite(lse).float().sin().sum()
        return [out, finite(lse), *torch.autograd.grad(loss, inputs)]

    bound = 2e-5 if dtype == torch.float32 else 2e-2
    for got, want in zip(run(dtype, "flex"), run(torch.float64, "math"), strict=True):
        assert error(got, want) < bound
    out, lse = attention_with_lse(q, k, v, mask=mask, backend="flex")
    want_lse = reference(q, k, v, mask)[1]
    assert not out.isnan().any()
    assert torch.equal(lse == -torch.inf, want_lse == -torch.inf)


@pytest.mark.gpu
def test_small_widths_are_refused_on_cuda() -> None:
    q = torch.zeros(1, 1, 4, 8, device="cuda")
    with pytest.raises(InputError, match="at least 16, not 8"):
        attention(q, q, q, backend="flex")
