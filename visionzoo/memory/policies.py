"""Policies: which elements stay when a memory is full, and which ones a read considers.

A policy serves both purposes: as a bank's `policy` it selects the elements that stay, as `where=` those that take part in
a read. `Fifo` and `Usage` count *elements*. `AnchorsAndRecent` and `EvenSample` count *frames*: a frame is all elements of
one time, usually those of one call of `write`. `TimeWindow` uses the time itself.

A bank applies a policy to each group separately, and to permanent elements only in reads, as they are never evicted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from . import named
from .buffers import Tags
from .named import check_count

__all__ = [
    "POLICIES",
    "AnchorsAndRecent",
    "EvenSample",
    "Fifo",
    "Never",
    "Policy",
    "TimeWindow",
    "Usage",
    "policy_config",
    "policy_from_config",
]

Indices = NDArray[np.int64]


class Policy(ABC):
    """A rule over the tags of elements. It is frozen, deterministic and stateless.

    Attributes:
        name: name in a config.
        needs_usage: whether the rule needs use counts, so that reads must collect them.
    """

    name: ClassVar[str]
    needs_usage: ClassVar[bool] = False
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @abstractmethod
    def keep(self, tags: Tags) -> Indices:
        """Ascending indices into `tags` of the elements that stay or take part."""

    def keeps_all(self, count: int) -> bool:
        """Whether `keep` returns all elements for any `count` elements, so that it need not be called."""
        return False


@dataclass(frozen=True)
class Fifo(Policy):
    """The `n` elements written last.

    Attributes:
        n: maximum number of elements.
        hysteresis: an eviction leaves `n - hysteresis` elements, so that a consolidator gets many elements at a time.
    """

    n: int
    hysteresis: int = 0
    name: ClassVar[str] = "fifo"

    def __post_init__(self) -> None:
        _bounds(self, self.n, self.hysteresis)

    @property
    def low(self) -> int:
        """Number of elements that are left after an eviction."""
        return self.n - self.hysteresis

    def keep(self, tags: Tags) -> Indices:
        if len(tags) <= self.n:
            return np.arange(len(tags))
        return np.sort(np.argsort(tags.ids, kind="stable")[len(tags) - self.low :])

    def keeps_all(self, count: int) -> bool:
        return count <= self.n


@dataclass(frozen=True)
class Usage(Policy):
    """The `n` elements with the most use per life; when there are more, only `n - hysteresis` are left.

    Use is the attention that an element received; life is the number of counted reads that it took part in (XMem,
    arXiv:2207.07115, Sec. 3.3). An element that no counted read has seen is new and is evicted last. Among equal elements,
    the older one is evicted first, then the one with the lower index.

    Attributes:
        n: maximum number of elements.
        hysteresis: an eviction leaves `n - hysteresis` elements, so that not every write has to sort and move.
    """

    n: int
    hysteresis: int = 0
    name: ClassVar[str] = "usage"
    needs_usage: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _bounds(self, self.n, self.hysteresis)

    def keep(self, tags: Tags) -> Indices:
        if len(tags) <= self.n:
            return np.arange(len(tags))
        return np.sort(most_used(tags, self.n - self.hysteresis))

    def keeps_all(self, count: int) -> bool:
        return count <= self.n


def most_used(tags: Tags, n: int) -> Indices:
    """The `n` elements with the most use per life, the least used first."""
    lives = np.maximum(tags.lives, 1)
    score = np.where(tags.lives > 0, tags.uses / lives, np.inf)
    order = np.lexsort((np.arange(len(tags)), tags.times, score))
    return order[len(tags) - min(n, len(tags)) :]


@dataclass(frozen=True)
class AnchorsAndRecent(Policy):
    """The first frames and the most recent ones with a stride (as SAM 2 reads its memory, arXiv:2408.00714).

    The recent frames are the newest one and, from the frames before it, the first frame of each time interval
    [0, stride), [stride, 2 stride), …, limited to the latest `n_recent - 1` of them. A frame that was once left out is
    therefore never needed later, and evicting by this rule gives the same result as selecting from all frames.

    Attributes:
        n_anchor: number of first frames.
        n_recent: number of recent frames, in addition to the anchors.
        stride: length of an interval, in the units of the times given to `write`. 1 selects every frame, whatever its time.
    """

    n_anchor: int
    n_recent: int
    stride: int = 1
    name: ClassVar[str] = "anchors_and_recent"

    def __post_init__(self) -> None:
        check_count(self, "n_anchor", self.n_anchor, 0)
        check_count(self, "n_recent", self.n_recent, 0)
        check_count(self, "stride", self.stride, 1)

    def keep(self, tags: Tags) -> Indices:
        times, frame = frames(tags.times)
        chosen = np.zeros(len(times), bool)
        chosen[: self.n_anchor] = True
        rest = np.arange(min(self.n_anchor, len(times)), len(times))
        if self.stride > 1 and len(times):
            interval = np.floor_divide(times, self.stride)
            begins = np.concatenate([[True], interval[1:] != interval[:-1]])
            begins[-1] = True  # the newest
            rest = rest[begins[rest]]
        chosen[rest[max(0, len(rest) - self.n_recent) :]] = True
        return np.flatnonzero(chosen[frame])

    def keeps_all(self, count: int) -> bool:
        return self.stride == 1 and count <= self.n_anchor + self.n_recent


@dataclass(frozen=True)
class EvenSample(Policy):
    """`n` frames spread evenly over time: those nearest to n evenly spaced points from the first time to the last.

    The first and the last frame stay. Of two equally near frames, the earlier one is used.

    Attributes:
        n: number of frames.
    """

    n: int
    name: ClassVar[str] = "even_sample"

    def __post_init__(self) -> None:
        check_count(self, "n", self.n, 1)

    def keep(self, tags: Tags) -> Indices:
        times, frame = frames(tags.times)
        if len(times) <= self.n:
            return np.arange(len(tags))
        chosen = np.zeros(len(times), bool)
        chosen[_evenly(times, self.n)] = True
        return np.flatnonzero(chosen[frame])

    def keeps_all(self, count: int) -> bool:
        return count <= self.n


@dataclass(frozen=True)
class TimeWindow(Policy):
    """The elements with times from `t0` to `t1`, both included; None leaves that side open."""

    t0: float | None = None
    t1: float | None = None
    name: ClassVar[str] = "time_window"

    def __post_init__(self) -> None:
        if self.t0 is not None and self.t1 is not None and not self.t0 <= self.t1:
            raise InputError(f"TimeWindow: t0 is {self.t0} and t1 {self.t1}; t0 must not be later")

    def keep(self, tags: Tags) -> Indices:
        inside = np.ones(len(tags), bool)
        if self.t0 is not None:
            inside &= tags.times >= self.t0
        if self.t1 is not None:
            inside &= tags.times <= self.t1
        return np.flatnonzero(inside)


@dataclass(frozen=True)
class Never(Policy):
    """All elements: nothing is evicted automatically."""

    name: ClassVar[str] = "never"

    def keep(self, tags: Tags) -> Indices:
        return np.arange(len(tags))

    def keeps_all(self, count: int) -> bool:
        return True


POLICIES: dict[str, type[Policy]] = {
    cls.name: cls for cls in (Fifo, Usage, AnchorsAndRecent, EvenSample, TimeWindow, Never)
}


def policy_config(policy: Policy) -> dict[str, Any]:
    """`{"policy": name, **fields}`, plain JSON values."""
    return named.to_config(policy, "policy", POLICIES)


def policy_from_config(config: Policy | Mapping[str, Any]) -> Policy:
    """The policy that e.g. `{"policy": "fifo", "n": 5}` describes; a `Policy` is returned unchanged.

    Raises:
        InputError: an unknown name, or an unknown, missing or invalid field.
    """
    policy = named.from_config(config, "policy", POLICIES)
    if not isinstance(policy, Policy):
        raise InputError(f"expected a policy or its config, not {type(policy).__name__}; known: {', '.join(POLICIES)}")
    return policy


def frames(times: NDArray[np.float64]) -> tuple[NDArray[np.float64], Indices]:
    """The distinct times in ascending order, and the index of each element's time among them."""
    steps = np.diff(times)
    if not (steps >= 0).all():
        distinct, place = np.unique(times, return_inverse=True)
        return distinct, place.reshape(-1)
    begins = np.concatenate([[True], steps > 0])[: len(times)]  # times are usually in order, so that no sort is needed
    return times[begins], np.cumsum(begins) - 1


def _evenly(times: NDArray[np.float64], n: int) -> Indices:
    """n indices into `times` (ascending, more than n), nearest to evenly spaced points, without repetition."""
    points = np.linspace(times[0], times[-1], n)
    after = np.clip(np.searchsorted(times, points), 1, len(times) - 1)
    nearest = np.where(points - times[after - 1] <= times[after] - points, after - 1, after)
    order = np.arange(n)
    nearest = np.maximum.accumulate(nearest - order) + order  # no index is repeated …
    return np.minimum(nearest, len(times) - n + order)  # … and none is beyond the end


def _bounds(policy: Policy, n: int, hysteresis: int) -> None:
    check_count(policy, "n", n, 0)
    check_count(policy, "hysteresis", hysteresis, 0)
    if hysteresis > n:
        raise InputError(f"{type(policy).__name__}: hysteresis {hysteresis} is more than n, {n}")
