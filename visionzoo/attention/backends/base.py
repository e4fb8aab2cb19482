"""The base class of attention backends."""

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
        name: its name in `backend=` and `attention_backend`.
        autograd: what torch can differentiate by itself: "none", only the "output", or "both" output and log-sum-exp.
            The rest uses the blocked backward pass of `gradient.py`.
    """

    name: ClassVar[str]
    autograd: ClassVar[Literal["none", "output", "both"]] = "none"

    def unavailable(self) -> str | None:
        """Why this backend cannot run here at all, or None."""
        return None

    @abstractmethod
    def supports(self, call: AttentionCall) -> str | None:
        """Why this backend does not support this call, or None. Called only for available backends."""

    @abstractmethod
    def forward(self, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        """Output (B, H, L, Dv) in the dtype of q, and the log-sum-exp (B, H, L) if `call.needs_lse`.

        There is at least one query and one key. A row whose keys are all excluded gives zeros and -inf.
        """

    def supports_segments(self, q: Tensor, pieces: Sequence[Segment], mask: Tensor | None) -> bool:
        """Whether `forward_segments` can process these segments in one call."""
        return False

    def forward_segments(self, q: Tensor, pieces: Sequence[Segment], scale: float) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp over all segments, which need not be concatenated."""
        raise NotImplementedError(f"{self.name} processes one segment at a time")
