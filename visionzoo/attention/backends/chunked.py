"""Pure torch on any device: online softmax over blocks of keys."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from .. import blocks
from ..call import AttentionCall
from .base import Backend

__all__ = ["ChunkedBackend"]


class ChunkedBackend(Backend):
    """Supports every shape, mask and dtype; besides the result, only a few blocks of scores are in memory."""

    name: ClassVar[str] = "chunked"

    def supports(self, call: AttentionCall) -> str | None:
        return None

    def forward(self, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        return blocks.forward(call)
