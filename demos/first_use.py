"""What a page needs only when it is used: pipelines are created at the first visitor's request, and shared."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

P = TypeVar("P")


class FirstUse(Generic[P]):
    """A pipeline that is created on first use.

    Args:
        create: makes it; raises `VisionZooError` if that is not possible.
        pipe: a pipeline to use instead.
    """

    def __init__(self, create: Callable[[], P], pipe: P | None = None):
        self._create, self._pipe = create, pipe
        self._lock = threading.Lock()

    def __call__(self) -> P:
        """The pipeline; raises what `create` raises."""
        with self._lock:
            if self._pipe is None:
                self._pipe = self._create()
            return self._pipe


__all__ = ["FirstUse"]
