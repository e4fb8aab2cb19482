"""Random choices that are the same on every machine and with every version of Python and NumPy.

Only `random.Random(int).random()` has that guarantee; `choice`, `randrange` and NumPy's generators may change between versions.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

SPLITS = ("train", "validation", "test")


class Chance:
    """A stream of random choices that depends on nothing but its key."""

    def __init__(self, *key: object):
        self._uniform = random.Random(_number(*key)).random

    def between(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self._uniform()

    def whole(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return low + int((high - low + 1) * self._uniform())

    def pick(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[int(len(items) * self._uniform())]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in random order."""
        rest = list(items)
        return [rest.pop(int(len(rest) * self._uniform())) for _ in items]

    def happens(self, probability: float) -> bool:
        """True with the given probability."""
        return self._uniform() < probability


def split_of(*key: object) -> str:
    """The split that the thing with this key belongs to: 80 % train, 10 % validation, 10 % test.

    Characters and palettes are assigned by it, so that those of the test split never occur in training.
    """
    bucket = _number("split", *key) % 10
    return SPLITS[0] if bucket < 8 else SPLITS[bucket - 7]


def _number(*key: object) -> int:
    return int.from_bytes(hashlib.sha256("\n".join(map(str, key)).encode()).digest()[:8], "big")


__all__ = ["SPLITS", "Chance", "split_of"]
