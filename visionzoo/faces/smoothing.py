"""The one-euro filter: removes jitter from slow movement and keeps up with fast movement (Casiez, Roussel, Vogel, CHI 2012).

Written here because the packages of that name filter one number at a time.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import InputError

__all__ = ["OneEuroFilter"]


class OneEuroFilter:
    """A low-pass filter whose cutoff rises with speed, on every element of an array by itself.

        smooth = OneEuroFilter(min_cutoff=1.0, beta=0.3)
        for frame, keypoints in enumerate(stream):
            keypoints = smooth.filter(keypoints, frame / fps)

    To tune: hold still and lower `min_cutoff` until the jitter is gone, then move fast and raise `beta` until the lag is.

    Args:
        min_cutoff: cutoff in Hz at rest; lower is smoother.
        beta: Hz of cutoff per unit of speed (unit of x a second); 0 makes it a plain low-pass filter.
        derivative_cutoff: cutoff in Hz for the speed.

    Raises:
        InputError: a cutoff that is not above 0, or a negative beta.
    """

    def __init__(self, min_cutoff: float = 1.0, beta: float = 0.0, derivative_cutoff: float = 1.0) -> None:
        if not (0 < min_cutoff < math.inf and 0 < derivative_cutoff < math.inf and 0 <= beta < math.inf):
            raise InputError(
                f"cutoffs are above 0 Hz and beta at least 0, got {min_cutoff}, {derivative_cutoff} and {beta}"
            )
        self.min_cutoff, self.beta, self.derivative_cutoff = min_cutoff, beta, derivative_cutoff
        self.reset()

    def reset(self) -> None:
        """Forget what was seen; the next value passes unchanged."""
        self._time: float | None = None
        self._value: Any = None
        self._speed: Any = None

    def filter(self, x: Any, t: float) -> Any:
        """The next value, smoothed.

        Args:
            x: an array or tensor of any shape, or a number; of one shape until `reset`.
            t: its time in seconds, later than that of the one before.

        Returns:
            float array, or a tensor where `x` is one, of the shape of `x`. The first value passes unchanged.

        Raises:
            InputError: a time that is not later, another shape, or values that are NaN or infinite. The filter stays
                as it was, so the value can be left out.
        """
        if not hasattr(x, "detach"):  # not a tensor
            x = np.asarray(x)
            x = x if x.dtype.kind == "f" else x.astype(np.float64)
        if not bool((x - x == 0).all()):
            raise InputError(f"the value at {t} s has elements that are NaN or infinite; leave it out")
        if self._time is None:
            if not math.isfinite(t):
                raise InputError(f"a time in seconds is finite, got {t}")
            self._time, self._value, self._speed = t, x + 0, x * 0
            return self._value + 0
        if x.shape != self._value.shape:
            raise InputError(
                f"expected the shape {tuple(self._value.shape)} of the values before, got {tuple(x.shape)}"
            )
        step = t - self._time
        if not 0 < step < math.inf:
            raise InputError(f"times rise: got {t} s after {self._time} s; call reset() to start again")
        weight = _weight(self.derivative_cutoff, step)
        self._speed = weight * (x - self._value) / step + (1 - weight) * self._speed
        weight = _weight(self.min_cutoff + self.beta * abs(self._speed), step)
        self._value = weight * x + (1 - weight) * self._value
        self._time = t
        return self._value + 0


def _weight(cutoff: Any, step_s: float) -> Any:
    """Weight of the new value in an exponential filter of that cutoff in Hz: 1 / (1 + tau / step), tau = 1 / (2 pi cutoff)."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff * step_s))
