"""When frames are shown: times that rise, the rate that they have, and a constant rate made of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

USUAL_RATE = Fraction(25)
"""Taken where neither the file nor its frames say a rate."""
FASTEST = 240
"""Frames a second; a header that says more means its clock, as browsers' recordings do (1000)."""
STANDARD_RATES = (
    *(Fraction(rate) for rate in (5, 10, 12, 15)),
    *(Fraction(rate * 1000, 1001) for rate in (24, 30, 48, 60, 120)),
    *(Fraction(rate) for rate in (24, 25, 30, 48, 50, 60, 90, 100, 120, 240)),
)


class Clock:
    """Turns the time stamps of frames, in the order of display, into rising times since the start of the video.

    A missing stamp counts on from the last frame by the rate. A stamp that does not rise comes one tick after the last
    frame; one that falls back by more than a second, as where recordings were joined, begins a part that follows on.

    Args:
        tick: seconds in a unit of the stamps.
        start: stamp of the start; None where the file does not say.
        fps: the rate for missing stamps.
    """

    def __init__(self, tick: Fraction, start: int | None, fps: Fraction) -> None:
        self._tick, self._step = tick, 1 / fps
        self._offset = Fraction(0) if start is None else -start * tick
        self._last: Fraction | None = None

    def time(self, stamp: int | None) -> Fraction:
        """Time in seconds of the next frame."""
        last = self._last
        if stamp is None:
            time = Fraction(0) if last is None else last + self._step
        else:
            time = stamp * self._tick + self._offset
            if last is None:
                time = max(time, Fraction(0))
            elif time < last - 1:
                self._offset += last + self._step - time
                time = last + self._step
            elif time <= last:
                time = last + self._tick
        self._last = time
        return time


def is_sane(rate: Fraction) -> bool:
    """Whether a rate can be that of a video."""
    return 0 < rate <= FASTEST


def standard_rate(rate: Fraction) -> Fraction:
    """The rate itself, or the standard one that it stands for: headers say 29.97, or 2997/125, for 30000/1001."""
    nearest = min(STANDARD_RATES, key=lambda standard: abs(standard - rate))
    return nearest if abs(nearest - rate) < rate / 10_000 else rate


def measure_rate(times: NDArray[np.float64], tick_s: float, headers: Sequence[Fraction] = ()) -> tuple[Fraction, bool]:
    """The rate of frames shown at these times, and whether it varies.

    Args:
        times: (N,) seconds, rising.
        tick_s: to what the times are rounded, in seconds.
        headers: rates that the file names, the most trusted first. One that fits the times is taken exactly.

    Returns:
        Frames a second, the mean if it varies; True if it varies.
    """
    if len(times) < 2 or not times[-1] > times[0]:
        return (headers[0] if headers else USUAL_RATE), False
    passed = times - times[0]
    mean = (len(times) - 1) / float(passed[-1])
    measured = Fraction(mean).limit_denominator(1001)
    near = sorted(STANDARD_RATES, key=lambda rate: abs(float(rate) - mean))[:2]
    numbers = np.arange(len(times))
    for rate in (*headers, *near, measured):
        if rate > 0 and np.abs(passed - numbers / float(rate)).max() <= 1.01 * tick_s + 1e-6:
            return rate, False
    whole = float(passed[-1] + (passed[-1] - passed[-2]))
    return max(Fraction(len(times) / whole).limit_denominator(100), Fraction(1, 100)), True


def even_rate(times: NDArray[np.float64], mean: Fraction) -> Fraction:
    """A constant rate at which frames with varying times lose little: that of the closer ones, at least their mean rate."""
    if len(times) < 2:
        return mean
    rate = 1 / max(float(np.quantile(np.diff(times), 0.25)), 1e-6)
    nearest = min(STANDARD_RATES, key=lambda standard: abs(float(standard) - rate))
    if abs(float(nearest) - rate) < 0.08 * rate:
        return max(nearest, mean)
    return max(Fraction(rate).limit_denominator(100), mean) if rate <= FASTEST else mean


def ticks(time: Fraction | float, duration: Fraction | float, fps: Fraction) -> range:
    """Which frames of a video with the constant rate `fps` show a frame that lasts from `time` for `duration` seconds.

    Frames that follow one another get numbers that follow one another: a long one several, a short one perhaps none.
    """
    begin, end = (
        math.floor(moment * fps + Fraction(1, 2)) for moment in (Fraction(time), Fraction(time) + Fraction(duration))
    )
    return range(begin, end)


def at_even_times(times: Iterable[float], last_s: float, fps: Fraction) -> NDArray[np.int64]:
    """Numbers of the frames that a video with the constant rate `fps` shows one after the other.

    Args:
        times: (N,) seconds at which frames are shown, rising.
        last_s: how long the last one is shown.
    """
    begins = [Fraction(float(time)) for time in times]
    ends = [*begins[1:], begins[-1] + Fraction(last_s)]
    shown = [[n] * len(ticks(a - begins[0], b - a, fps)) for n, (a, b) in enumerate(zip(begins, ends, strict=True))]
    return np.array([n for part in shown for n in part] or [0], np.int64)
