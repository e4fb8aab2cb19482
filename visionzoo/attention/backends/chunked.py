"""Pure torch on any device: online softmax over blocks of keys."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from .. import blocks
from ..call import AttentionCall
from .base import Backend

__all__ = ["ChunkedBackend"]


class ChunkedBackend(Backend):
    """Takes every shape, mask and dtype; memory beyond the result is a few blocks of scores."""

    name: ClassVar[str] = "chunked"

    def supports(self, call: AttentionCall) -> str | None:
        return None

    def forward(self, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        return blocks.forward(call)
