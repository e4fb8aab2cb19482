"""Choice of the backend for a call."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError, unknown
from ..lazy import resolve
from .backends.base import Backend
from .backends.chunked import ChunkedBackend
from .backends.reference import MathBackend
from .backends.sdpa import SdpaBackend
from .blocks import MULTIPLIES_BFLOAT16
from .call import AttentionCall, Segment

__all__ = ["BACKENDS", "RULES", "VARIABLE", "attention_backend", "backend_named", "choose", "segmented_backend"]

VARIABLE = "VISIONZOO_ATTENTION"

BACKENDS = {
    "sdpa": "visionzoo.attention.backends.sdpa:SdpaBackend",
    "flex": "visionzoo.attention.backends.flex:FlexBackend",
    "xformers": "visionzoo.attention.backends.xformers:XformersBackend",
    "triton": "visionzoo.attention.backends.triton:TritonBackend",
    "chunked": "visionzoo.attention.backends.chunked:ChunkedBackend",
    "math": "visionzoo.attention.backends.reference:MathBackend",
}


@dataclass(frozen=True)
class Rule:
    """On `device` ("any": all others), calls described by `like` go to the first backend of `order` that supports them."""

    device: str
    like: str
    fits: Callable[[AttentionCall], bool]
    order: tuple[str, ...]
    why: str


def _scores(call: AttentionCall) -> int:
    return call.q.shape[0] * call.q.shape[1] * call.q.shape[2] * call.k.shape[2]


def _plain(call: AttentionCall) -> bool:
    return not call.needs_grad and (call.mask is None or call.mask.dtype == torch.bool)


_HAS_AMX: bool = getattr(torch.cpu, "_is_amx_tile_supported", bool)()

# Measurements behind this table: docs/benchmarks.md, "Attention".
RULES = (
    Rule(
        "cpu",
        "with gradients",
        lambda call: call.needs_grad,
        ("sdpa", "chunked"),
        "torch's own backward is the fastest; chunked gives a mask its gradient",
    ),
    Rule(
        "cpu",
        "k and v of different width",
        lambda call: call.k.shape[3] != call.v.shape[3],
        ("chunked",),
        "sdpa would compute with the wider of the two",
    ),
    Rule(
        "cpu",
        "bfloat16, a CPU that multiplies it but has no AMX, 64 keys and 2^18 scores or more, no additive mask",
        lambda call: (
            call.q.dtype == torch.bfloat16
            and MULTIPLIES_BFLOAT16
            and not _HAS_AMX
            and call.k.shape[2] >= 64
            and _scores(call) >= 1 << 18
            and _plain(call)
        ),
        ("chunked",),
        "both products run in bfloat16; in sdpa they do only with AMX",
    ),
    Rule(
        "cpu",
        "float16, 2^14 scores or more",
        lambda call: call.q.dtype == torch.float16 and _scores(call) >= 1 << 14,
        ("chunked",),
        "sdpa converts to and from float16 more often",
    ),
    Rule("cpu", "all else", lambda call: True, ("sdpa", "chunked"), "torch's fused kernel"),
    Rule("cuda", "all", lambda call: True, ("sdpa", "chunked"), "torch's fused kernels; not measured"),
    Rule("any", "all", lambda call: True, ("sdpa", "chunked"), "no kernel of torch's that keeps memory small"),
)

_override: ContextVar[tuple[str, ...]] = ContextVar("visionzoo_attention", default=())


@contextlib.contextmanager
def attention_backend(*names: str) -> Iterator[None]:
    """Inside the block, attention uses the first of `names` that supports the call: "sdpa", "flex", "auto", ….

    An argument `backend=` takes precedence over this, and this over the environment variable VISIONZOO_ATTENTION, which is
    read the same way ("triton,auto"). The choice holds for the current thread or task.

    Raises:
        InputError: an unknown name; and, from the attention itself, a call that none of the named backends supports.

    >>> with attention_backend("chunked"):
    ...     out = attention(q, k, v)
    """
    check_names(names, "attention_backend")
    token = _override.set(names)
    try:
        yield
    finally:
        _override.reset(token)


def check_names(names: tuple[str, ...], origin: str) -> None:
    if not names:
        raise InputError(f"{origin} names no backend; choose from {', '.join((*BACKENDS, 'auto'))}")
    for name in names:
        if name not in BACKENDS and name != "auto":
            raise unknown("attention backend", name, [*BACKENDS, "auto"])


def requested_backends(backend: str) -> tuple[tuple[str, ...], str]:
    """The names to try, and where they were set."""
    if backend != "auto":
        check_names((backend,), "backend=")
        return (backend,), f"backend={backend!r}"
    if names := _override.get():
        return names, f"attention_backend({', '.join(map(repr, names))})"
    if text := os.environ.get(VARIABLE):
        names = tuple(name.strip() for name in text.split(",") if name.strip())
        check_names(names, VARIABLE)
        return names, f"{VARIABLE}={text}"
    return ("auto",), ""


# The backends that `auto` chooses from are imported at once, as code traced by torch.compile must not import.
_instances: dict[str, Backend] = {backend.name: backend for backend in (SdpaBackend(), ChunkedBackend(), MathBackend())}


def backend_named(name: str) -> Backend:
    if name not in _instances:
        _instances[name] = resolve(BACKENDS[name])()
    return _instances[name]


def choose(call: AttentionCall, backend: str = "auto") -> Backend:
    """The backend that computes `call`.

    Raises:
        InputError: none of the requested backends supports it; the message gives each one's reason.
    """
    names, origin = requested_backends(backend)
    reasons = []
    for name in names:
        for candidate in order_for(call) if name == "auto" else (name,):
            chosen = backend_named(candidate)
            reason = chosen.unavailable() or chosen.supports(call)
            if reason is None:
                return chosen
            reasons.append(f"{candidate}: {reason}")
    raise InputError(
        f"{origin or 'auto'}: no backend supports q {tuple(call.q.shape)}, k {tuple(call.k.shape)}, v {tuple(call.v.shape)} "
        f"in {call.q.dtype} on {call.q.device} ({'; '.join(reasons)}); use backend='auto' or 'chunked'"
    )


def segmented_backend(backend: str, q: Tensor, pieces: Sequence[Segment], mask: Tensor | None) -> Backend | None:
    """The first requested backend that is available, if it can process all segments at once; else None."""
    for name in requested_backends(backend)[0]:
        if name == "auto":
            return None
        chosen = backend_named(name)
        if chosen.unavailable() is None:
            return chosen if chosen.supports_segments(q, pieces, mask) else None
    return None


def order_for(call: AttentionCall) -> tuple[str, ...]:
    device = call.q.device.type
    return next(rule.order for rule in RULES if rule.device in (device, "any") and rule.fits(call))
