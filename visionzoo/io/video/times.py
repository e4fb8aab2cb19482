"""Display times of frames: increasing times, their rate, and resampling to a constant rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

USUAL_RATE = Fraction(25)
"""Frames per second to assume if neither the file nor its frames tell."""
FASTEST = 240
"""Maximum frames per second; a header that states more means its clock, as browser recordings do (1000)."""
STANDARD_RATES = (
    *(Fraction(rate) for rate in (5, 10, 12, 15)),
    *(Fraction(rate * 1000, 1001) for rate in (24, 30, 48, 60, 120)),
    *(Fraction(rate) for rate in (24, 25, 30, 48, 50, 60, 90, 100, 120, 240)),
)


class Clock:
    """Turns time stamps of frames, in display order, into increasing times from the start of the video.

    A missing stamp is extrapolated from the previous frame by the rate. A stamp that does not increase becomes one tick after the
    previous frame; one that jumps back by more than a second, as in joined recordings, starts a section that continues from there.

    Args:
        tick: time base of the stamps, in seconds.
        start: stamp of the start; None if the file does not state it.
        fps: the rate for missing stamps.
    """

    def __init__(self, tick: Fraction, start: int | None, fps: Fraction) -> None:
        self._tick, self._step = tick, 1 / fps
        self._offset = Fraction(0) if start is None else -start * tick
        self._last: Fraction | None = None

    def time(self, stamp: int | None) -> Fraction:
        """Display time in seconds of the next frame."""
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
    """Whether a frame rate is plausible."""
    return 0 < rate <= FASTEST


def standard_rate(rate: Fraction) -> Fraction:
    """The nearest standard rate, or else the rate itself: headers state 29.97 or 2997/125 for 30000/1001."""
    nearest = min(STANDARD_RATES, key=lambda standard: abs(standard - rate))
    return nearest if abs(nearest - rate) < rate / 10_000 else rate


def measure_rate(times: NDArray[np.float64], tick_s: float, headers: Sequence[Fraction] = ()) -> tuple[Fraction, bool]:
    """The frame rate of frames shown at these times, and whether it varies.

    Args:
        times: (N,) seconds, increasing.
        tick_s: resolution of the times in seconds.
        headers: rates that the file states, the most reliable first. One that fits the times is used exactly.

    Returns:
        Frames per second (the mean if it varies), and True if it varies.
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
    """A constant rate that loses few frames of a variable rate: that of closely spaced frames, at least the mean."""
    if len(times) < 2:
        return mean
    rate = 1 / max(float(np.quantile(np.diff(times), 0.25)), 1e-6)
    nearest = min(STANDARD_RATES, key=lambda standard: abs(float(standard) - rate))
    if abs(float(nearest) - rate) < 0.08 * rate:
        return max(nearest, mean)
    return max(Fraction(rate).limit_denominator(100), mean) if rate <= FASTEST else mean


def ticks(time: Fraction | float, duration: Fraction | float, fps: Fraction) -> range:
    """Numbers of the frames, at the constant rate `fps`, that show a frame which lasts from `time` for `duration` seconds.

    Consecutive frames get consecutive ranges: a long frame several numbers, a short one possibly none.
    """
    begin, end = (
        math.floor(moment * fps + Fraction(1, 2)) for moment in (Fraction(time), Fraction(time) + Fraction(duration))
    )
    return range(begin, end)


def at_even_times(times: Iterable[float], last_s: float, fps: Fraction) -> NDArray[np.int64]:
    """Which frame each frame of a video with the constant rate `fps` shows, as indices into `times`.

    Args:
        times: (N,) display times in seconds, increasing.
        last_s: how long the last one is shown.
    """
    begins = [Fraction(float(time)) for time in times]
    ends = [*begins[1:], begins[-1] + Fraction(last_s)]
    shown = [[n] * len(ticks(a - begins[0], b - a, fps)) for n, (a, b) in enumerate(zip(begins, ends, strict=True))]
    return np.array([n for part in shown for n in part] or [0], np.int64)
