"""Which backend takes which call."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import InputError
from ..lazy import resolve
from .backends.base import Backend
from .call import AttentionCall

if TYPE_CHECKING:
    from .segments import Segment

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
    """On `device`, calls that are `like` this go to the first of `order` that takes them."""

    device: str
    like: str
    order: tuple[str, ...]

    def fits(self, call: AttentionCall) -> bool:
        if self.device not in (call.q.device.type, "any"):
            return False
        return self.like != "key and value widths differ" or call.k.shape[3] != call.v.shape[3]


# The times behind this table: docs/benchmarks.md, "Attention".
RULES = (
    Rule("cpu", "key and value widths differ", ("chunked",)),
    Rule("any", "all else", ("sdpa", "chunked")),
)

_override: ContextVar[tuple[str, ...]] = ContextVar("visionzoo_attention", default=())


@contextlib.contextmanager
def attention_backend(*names: str) -> Iterator[None]:
    """Inside the block, attention goes to the first of `names` that takes the call: "sdpa", "flex", "auto", ….

    A `backend=` argument goes before this, this before the environment variable VISIONZOO_ATTENTION, which is read the
    same way ("triton,auto"). The choice holds for the current thread or task.

    Raises:
        InputError: an unknown name; and, from the attention itself, a call that none of the names takes.

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
    from ..registry import unknown

    if not names:
        raise InputError(f"{origin} names no backend; choose from {', '.join((*BACKENDS, 'auto'))}")
    for name in names:
        if name not in BACKENDS and name != "auto":
            raise unknown("attention backend", name, [*BACKENDS, "auto"])


def asked_for(backend: str) -> tuple[tuple[str, ...], str]:
    """The names to try, and who said so."""
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


@functools.cache
def backend_named(name: str) -> Backend:
    return resolve(BACKENDS[name])()


def choose(call: AttentionCall, backend: str = "auto") -> Backend:
    """The backend that computes `call`.

    Raises:
        InputError: none of the backends asked for takes it; with each one's reason.
    """
    names, origin = asked_for(backend)
    reasons = []
    for name in names:
        for candidate in order_for(call) if name == "auto" else (name,):
            chosen = backend_named(candidate)
            reason = chosen.unavailable() or chosen.supports(call)
            if reason is None:
                return chosen
            reasons.append(f"{candidate}: {reason}")
    raise InputError(
        f"{origin or 'auto'}: no backend takes q {tuple(call.q.shape)}, k {tuple(call.k.shape)}, v {tuple(call.v.shape)} "
        f"in {call.q.dtype} on {call.q.device} ({'; '.join(reasons)}); use backend='auto' or 'chunked'"
    )


def segmented_backend(
    backend: str, q: Tensor, pieces: Sequence[Segment], mask: Tensor | None
) -> Backend | None:
    """The backend that goes over all pieces at once, where the first one asked for does."""
    name = asked_for(backend)[0][0]
    if name == "auto":
        return None
    chosen = backend_named(name)
    return chosen if chosen.unavailable() is None and chosen.supports_segments(q, pieces, mask) else None


def order_for(call: AttentionCall) -> tuple[str, ...]:
    return next(rule.order for rule in RULES if rule.fits(call))
