"""What a backend is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor

from ..call import AttentionCall, Segment

__all__ = ["Backend"]


class Backend(ABC):
    """One way to compute attention.

    Attributes:
        name: how it is asked for.
        autograd: what torch can differentiate by itself: "none", the "output" only, or "both" output and log-sum-exp.
            The rest goes through the blocked backward of `gradient.py`.
    """

    name: ClassVar[str]
    autograd: ClassVar[Literal["none", "output", "both"]] = "none"

    def unavailable(self) -> str | None:
        """Why this backend cannot run here at all, or None."""
        return None

    @abstractmethod
    def supports(self, call: AttentionCall) -> str | None:
        """Why this backend cannot take this call, or None. Asked only of backends that are available."""

    @abstractmethod
    def forward(self, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        """Output (B, H, L, Dv) in the dtype of q, and the log-sum-exp (B, H, L) where `call.needs_lse`.

        There is at least one query and one key. A row without any key that counts gives zeros and -inf.
        """

    def supports_segments(self, q: Tensor, pieces: Sequence[Segment], mask: Tensor | None) -> bool:
        """Whether `forward_segments` goes over these pieces at once, rather than piece by piece."""
        return False

    def forward_segments(self, q: Tensor, pieces: Sequence[Segment], scale: float) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp over all pieces. No piece is asked to be joined with another."""
        raise NotImplementedError(f"{self.name} takes one piece at a time")
