"""Which frames lie between two others, and in which order a network that halves intervals makes them."""

from __future__ import annotations

from visionzoo.errors import InputError

MOST = 32
"""Largest factor."""

_STEPS = 32
"""If the factor is no power of 2, frames are made at the nearest multiple of 1 / 32 of the interval."""


def check_factor(factor: int) -> None:
    """Raise `InputError` unless `factor` is a whole number from 2 to `MOST`."""
    if isinstance(factor, bool) or not isinstance(factor, int) or not 2 <= factor <= MOST:
        raise InputError(f"factor must be a whole number from 2 to {MOST}, got {factor}")


def places(factor: int) -> tuple[int, tuple[int, ...]]:
    """The interval's number of steps, a power of 2, and the steps at which the `factor - 1` new frames lie.

    For a power of 2 they are exact: `places(4)` is (4, (1, 2, 3)). For other factors they are rounded: `places(3)` is
    (32, (11, 21)), where 1/3 and 2/3 of 32 would be 10.67 and 21.33.
    """
    check_factor(factor)
    steps = factor if factor & (factor - 1) == 0 else _STEPS
    return steps, tuple(round(number * steps / factor) for number in range(1, factor))


def halvings(steps: int, wanted: tuple[int, ...]) -> list[list[tuple[int, int, int]]]:
    """The middle frames to make so that all `wanted` ones are there: levels of (before, middle, after), in steps.

    Frames of one level depend on those of earlier levels only, so a level can be one batch.
    """
    levels: list[list[tuple[int, int, int]]] = []
    spans = [(0, steps)]
    while spans:
        # an interval is halved if a wanted frame is inside it
        level = [(a, (a + b) // 2, b) for a, b in spans if any(a < at < b for at in wanted)]
        if level:
            levels.append(level)
        spans = [span for a, middle, b in level for span in ((a, middle), (middle, b)) if span[1] - span[0] > 1]
    return levels


__all__ = ["MOST", "check_factor", "halvings", "places"]
