"""Whether tensors have changed since something was computed from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Versions:
    """Tensors, and how often each had been written to."""

    tensors: tuple[Tensor, ...]
    counts: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]

    def equals(self, other: Versions | None) -> bool:
        """The same tensors, unchanged in between. Writes through `.data` are not seen."""
        return (
            other is not None
            and self.counts == other.counts
            and self.shapes == other.shapes
            and all(one is another for one, another in zip(self.tensors, other.tensors, strict=True))
        )


def versions(tensors: Iterable[Tensor]) -> Versions | None:
    """The present versions; None if one was made in inference mode, where writes are not counted."""
    kept = tuple(tensors)
    if any(tensor.is_inference() for tensor in kept):
        return None
    return Versions(kept, tuple(t._version for t in kept), tuple(tuple(t.shape) for t in kept))


__all__ = ["Versions", "versions"]
