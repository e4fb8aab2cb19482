"""The one-euro filter: removes jitter from slow motion and follows fast motion with little lag (Casiez, Roussel, Vogel, CHI 2012).

Implemented here because existing packages filter one number at a time.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import InputError

__all__ = ["OneEuroFilter"]


class OneEuroFilter:
    """A low-pass filter whose cutoff rises with speed, applied elementwise to arrays.

        smooth = OneEuroFilter(min_cutoff=1.0, beta=0.3)
        for frame, keypoints in enumerate(stream):
            keypoints = smooth.filter(keypoints, frame / fps)

    To tune it, hold still and lower `min_cutoff` until the jitter is gone, then move fast and raise `beta` until the lag is gone.

    Args:
        min_cutoff: cutoff in Hz at rest; lower is smoother.
        beta: Hz of cutoff per unit of speed (units of x per second); 0 makes it a plain low-pass filter.
        derivative_cutoff: cutoff in Hz for the speed.

    Raises:
        InputError: a cutoff that is not above 0, or a negative beta.
    """

    def __init__(self, min_cutoff: float = 1.0, beta: float = 0.0, derivative_cutoff: float = 1.0) -> None:
        if not (0 < min_cutoff < math.inf and 0 < derivative_cutoff < math.inf and 0 <= beta < math.inf):
            raise InputError(
                f"cutoffs must be above 0 Hz and beta at least 0, got {min_cutoff}, {derivative_cutoff} and {beta}"
            )
        self.min_cutoff, self.beta, self.derivative_cutoff = min_cutoff, beta, derivative_cutoff
        self.reset()

    def reset(self) -> None:
        """Clear the state; the next value passes unchanged."""
        self._time: float | None = None
        self._value: Any = None
        self._speed: Any = None

    def filter(self, x: Any, t: float) -> Any:
        """Smooth the next value.

        Args:
            x: an array or tensor of any shape, or a number; the shape must not change until `reset`.
            t: time in seconds, later than that of the previous value.

        Returns:
            A float array, or a tensor if `x` is one, with the shape of `x`. The first value passes unchanged.

        Raises:
            InputError: a time that is not later, a different shape, or values that are NaN or infinite. The state stays
                unchanged, so the value can be skipped.
        """
        if not hasattr(x, "detach"):  # not a tensor
            x = np.asarray(x)
            x = x if x.dtype.kind == "f" else x.astype(np.float64)
        if not bool((x - x == 0).all()):
            raise InputError(f"the value at {t} s has elements that are NaN or infinite; skip it")
        if self._time is None:
            if not math.isfinite(t):
                raise InputError(f"the time in seconds must be finite, got {t}")
            self._time, self._value, self._speed = t, x + 0, x * 0
            return self._value + 0
        if x.shape != self._value.shape:
            raise InputError(f"expected the shape {tuple(self._value.shape)} of earlier values, got {tuple(x.shape)}")
        step = t - self._time
        if not 0 < step < math.inf:
            raise InputError(f"times must increase, got {t} s after {self._time} s; call reset() to start again")
        weight = _weight(self.derivative_cutoff, step)
        self._speed = weight * (x - self._value) / step + (1 - weight) * self._speed
        weight = _weight(self.min_cutoff + self.beta * abs(self._speed), step)
        self._value = weight * x + (1 - weight) * self._value
        self._time = t
        return self._value + 0


def _weight(cutoff: Any, step_s: float) -> Any:
    """Weight of a new value in an exponential filter with a cutoff in Hz: 1 / (1 + tau / step), tau = 1 / (2 pi cutoff)."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff * step_s))
