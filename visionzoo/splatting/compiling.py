"""numba with a cache on disk, if there is a writable folder for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` with a cache next to the source or in the user's cache folder; without one if neither is writable."""

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # numba found no writable folder
            return njit(**options)(function)

    return decorate
