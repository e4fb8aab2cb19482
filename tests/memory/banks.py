"""Small tensor banks with known content, and the equality of two reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visionzoo.memory import ReadResult, TensorBank


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def bank_of(count: int, width: int = 8, **options: Any) -> TensorBank:
    bank = TensorBank(width, width, **options)
    bank.write(drawn(1, 1, bank.heads, count, width), drawn(2, 1, bank.heads, count, width))
    return bank


def same(a: ReadResult, b: ReadResult) -> None:
    assert torch.equal(a.output, b.output)
    assert torch.equal(a.lse, b.lse)
    assert a.ids is not None
    assert b.ids is not None
    assert torch.equal(a.ids, b.ids)
    if a.usage is not None:
        assert b.usage is not None
        assert torch.equal(a.usage, b.usage)
