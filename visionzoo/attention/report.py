"""Report which backend supports which calls on this machine, and why others are refused, for `visionzoo doctor`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .call import AttentionCall, prepare
from .select import BACKENDS, RULES, backend_named

__all__ = ["backends", "rules", "trials"]


def backends(device: torch.device) -> dict[str, str]:
    """Name -> "takes all", why it cannot be used here, or which calls it refuses and why."""
    return {name: _describe(name, device) for name in BACKENDS}


def trials(device: torch.device) -> dict[str, str]:
    """Name of each usable backend -> "works", or why a small call fails. Some compile first, which takes seconds."""
    found: dict[str, str] = {}
    for name in BACKENDS:
        backend = backend_named(name)
        if backend.unavailable() is not None:
            continue
        call = next((call for _, call in _probes(device) if backend.supports(call) is None), None)
        if call is None:
            continue
        try:
            backend.forward(call)
            found[name] = "works"
        except Exception as error:  # compilers fail in many ways; all of them are reported
            found[name] = f"fails: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return found


def rules(device: torch.device) -> dict[str, str]:
    """Which backends `auto` tries for which calls on `device`, in the order of the rules."""
    found: dict[str, str] = {}
    for rule in RULES:
        if rule.device == device.type or (rule.device == "any" and not found):
            found[rule.like] = f"{', else '.join(rule.order)} ({rule.why})"
    return found


def _describe(name: str, device: torch.device) -> str:
    backend = backend_named(name)
    if (reason := backend.unavailable()) is not None:
        return f"cannot be used: {reason}"
    refused: dict[str, list[str]] = {}
    probes = dict(_probes(device))
    for what, call in probes.items():
        if (reason := backend.supports(call)) is not None:
            refused.setdefault(reason, []).append(what)
    if not refused:
        return "takes all"
    if len(refused) == 1 and sum(map(len, refused.values())) == len(probes):
        return f"cannot be used: {next(iter(refused))}"
    return "refuses " + "; ".join(f"{', '.join(whats)} ({reason})" for reason, whats in refused.items())


def _probes(device: torch.device) -> Iterator[tuple[str, AttentionCall]]:
    """Small calls, each with one feature that some kernels lack."""

    def call(
        width: int = 64,
        value_width: int | None = None,
        dtype: torch.dtype = torch.float32,
        mask: Tensor | None = None,
        lse: bool = False,
        grad: bool = False,
    ) -> AttentionCall:
        q, k = (torch.zeros(1, 1, 16, width, dtype=dtype, device=device) for _ in range(2))
        v = torch.zeros(1, 1, 16, value_width or width, dtype=dtype, device=device)
        with torch.enable_grad():
            return prepare(q.requires_grad_(grad), k, v, mask, None, needs_lse=lse)

    some = torch.ones(16, 16, dtype=torch.bool, device=device)
    some[:, 8:] = False
    half = torch.bfloat16 if device.type == "cuda" else torch.float32
    yield "plain calls", call(dtype=half)
    yield "log-sum-exp", call(dtype=half, lse=True)
    yield "gradients", call(dtype=half, grad=True)
    yield "k and v of different width", call(16, 48, dtype=half)
    yield "a width of 512", call(512, dtype=half)
    yield "a mask of keys", call(dtype=half, mask=some[:1])
    yield "a full boolean mask", call(dtype=half, mask=some)
    yield "an additive mask", call(dtype=half, mask=torch.zeros(16, 16, dtype=half, device=device))
    yield "gradients to a mask", call(mask=torch.zeros(16, 16, device=device, requires_grad=True), lse=True)
    yield "float64", call(dtype=torch.float64) if device.type != "mps" else call()
