"""Temporal segments, and Temporal Interval Adjustment (TIA), which moves their borders where Gaussians have large gradients.

Two forms. "released" is the published code, needed to render and to repeat its trainings:

* A time belongs to the nearest border, or, if that one is later, to that border minus 1 / K, which need not be a border.
* The statistic of border i + 1 moves the borders next to i; frames whose canonical time is not a border are not counted, nor is
  segment 0; the first border can leave 0.

"paper" is what the paper describes: a time belongs to the last border before it, each segment has its own statistic, and borders
stay sorted, with the first at 0.

With the published threshold of 1.5 standard deviations nothing moves for K <= 5 (released) or K <= 4 (paper), since one of n
numbers deviates from their mean by at most (n - 1) / sqrt(n).

Lookups read a list on the host: the published code compares K numbers on the device for every frame, twice, and waits for each; here
the host waits for the device once, after the borders have changed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from visionzoo.errors import InputError

from .versions import Versions, versions


class Intervals(nn.Module):
    """The borders of K segments of time in [0, 1].

    Args:
        kind: "released" or "paper".
    """

    borders: Tensor

    def __init__(self, num_segments: int, kind: str = "released"):
        super().__init__()
        self.kind = kind
        self.register_buffer("borders", torch.arange(num_segments, dtype=torch.float32) / num_segments)
        self._host: tuple[Versions | None, np.ndarray] | None = None

    @property
    def num_segments(self) -> int:
        return len(self.borders)

    def host(self) -> np.ndarray:
        """The borders (K,) float32 on the host."""
        version = versions([self.borders])
        if self._host is None or version is None or not version.equals(self._host[0]):
            self._host = (version, self.borders.float().cpu().numpy().copy())
        return self._host[1]

    def canonical_time(self, time: float) -> float:
        """The canonical time of the segment that `time` belongs to.

        Raises:
            InputError: a time that is not finite.
        """
        if not np.isfinite(time):
            raise InputError(f"time must be a finite number, usually in [0, 1], got {time}")
        borders, time32 = self.host(), np.float32(time)
        if self.kind == "paper":
            return float(borders[max(int(np.searchsorted(borders, time32, side="right")) - 1, 0)])
        nearest = borders[np.abs(borders - time32).argmin()]
        return float(nearest if nearest <= time32 else nearest - np.float32(1 / len(borders)))

    def set_borders(self, borders: np.ndarray) -> None:
        """Replace the borders (K,)."""
        self.borders.copy_(torch.from_numpy(np.asarray(borders, dtype=np.float32)))


class IntervalStatistics(nn.Module):
    """Statistics for TIA: the sum of gradients on screen per segment, and the number of frames in it.

    Its buffers are saved with a training, so that it resumes between two adjustments.

    Args:
        threshold: segments whose mean gradient is this many standard deviations above the mean of all are adjusted.
        step: how far borders move, in units of 1 / K.
    """

    gradients: Tensor
    frames: Tensor

    def __init__(self, intervals: Intervals, threshold: float = 1.5, step: float = 0.01):
        super().__init__()
        self.threshold, self.step = threshold, step
        self.kind = intervals.kind
        count = intervals.num_segments - (1 if self.kind == "released" else 0)
        self.register_buffer("gradients", torch.zeros(count))
        self.register_buffer("frames", torch.zeros(count))

    def add(self, intervals: Intervals, time: float, gradient: Tensor | float) -> None:
        """Count one frame.

        Args:
            time: time of the frame.
            gradient: sum over its visible Gaussians of |dL / d mean2d|, in NDC.
        """
        canonical = intervals.canonical_time(time)
        borders = intervals.host()
        if self.kind == "released":
            borders = borders[1:]
        for place in np.flatnonzero(borders == np.float32(canonical)):
            self.gradients[place] += gradient
            self.frames[place] += 1

    def adjust(self, intervals: Intervals) -> bool:
        """Move borders towards segments with large gradients, reset the statistics, and return whether any border has moved."""
        sums, frames = self.gradients.cpu(), self.frames.cpu()
        means = torch.nan_to_num(sums / frames, nan=0.0)
        counted = means if self.kind == "released" else means[frames > 0]
        flagged: list[int] = []
        if len(counted) > 1:  # a single number has no deviation
            flagged = (means > counted.mean() + self.threshold * counted.std()).nonzero()[:, 0].tolist()
        move = _released if self.kind == "released" else _paper
        borders = move(intervals.host().copy(), flagged, self.step / intervals.num_segments)
        moved = bool((borders != intervals.host()).any())
        if moved:
            intervals.set_borders(borders)
        self.gradients.zero_()
        self.frames.zero_()
        return moved


def _released(borders: np.ndarray, flagged: list[int], delta: float) -> np.ndarray:
    step = np.float32(delta)
    for i in flagged:
        if i > 0 and borders[i - 1] + step < borders[i]:
            borders[i - 1] += step
        if i < len(borders) - 2 and borders[i + 1] - step > borders[i]:
            borders[i + 1] -= step
    return borders


def _paper(borders: np.ndarray, flagged: list[int], delta: float) -> np.ndarray:
    """A flagged segment shrinks from both sides, to no less than one step."""
    step = np.float32(delta)
    for i in flagged:
        end = borders[i + 1] if i + 1 < len(borders) else np.float32(1.0)
        if i > 0 and end - borders[i] >= 2 * step:
            borders[i] += step
        if i + 1 < len(borders) and end - borders[i] >= 2 * step:
            borders[i + 1] -= step
    return borders


__all__ = ["IntervalStatistics", "Intervals"]
