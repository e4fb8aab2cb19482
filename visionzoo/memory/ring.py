"""The slots of one group: a permanent region in front, a ring behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .buffers import Buffers, Layout
from .tags import Elements, Tags

__all__ = ["Ring", "elements"]

_FIRST = 64  # slots of a ring that starts to grow


class Ring:
    """Slots [0, room) are for permanent elements, [room, room + size) for the ring.

    Elements are numbered in *reading order*: the permanent ones as they were written, then the ring's from the oldest
    on. `tags` are held per slot.

    Attributes:
        pinned: how many permanent elements there are, in slots [0, pinned).
        head: the oldest element of the ring is in slot room + head.
        count: elements in the ring; the n-th is in slot room + (head + n) % size.
        capacity: the ring never has more slots than this; None: no limit.
        writes: calls of `write` so far: the next frame's time unless given.
    """

    def __init__(self, layout: Layout, room: int, capacity: int | None) -> None:
        self.room, self.size, self.capacity = room, 0, capacity
        self.pinned = self.head = self.count = self.writes = 0
        self.buffers = Buffers(layout, room)
        self.tags = Tags.empty(room)

    def __len__(self) -> int:
        return self.pinned + self.count

    @property
    def tensors(self) -> dict[str, Tensor]:
        """(B, H, slots, D) each."""
        return self.buffers.tensors

    # --- where things are ---

    def parts(self) -> list[slice]:
        """Runs of slots in reading order: the permanent ones, the ring up to its end, the ring from its beginning."""
        first = min(self.count, self.size - self.head)
        start = self.room + self.head
        runs = [slice(0, self.pinned), slice(start, start + first), slice(self.room, self.room + self.count - first)]
        return [run for run in runs if run.stop > run.start]

    def slots(self, chosen: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """The slots of the chosen elements (None: all)."""
        if chosen is None:
            chosen = np.arange(len(self))
        return np.where(
            chosen < self.pinned, chosen, self.room + (self.head + chosen - self.pinned) % max(self.size, 1)
        )

    def read_tags(self) -> Tags:
        """The tags in reading order: a view where the slots are one run, else a copy."""
        parts = self.parts()
        return Tags.join([self.tags[run] for run in parts]) if parts else Tags.empty()

    def tags_of(self, chosen: NDArray[np.int64] | None) -> Tags:
        """The tags of the chosen elements (None: all)."""
        return self.read_tags() if chosen is None else self.tags[self.slots(chosen)]

    def runs(self, chosen: NDArray[np.int64] | None) -> list[slice | NDArray[np.int64]]:
        """The slots of the chosen elements (rising numbers; None: all): slices, or an array where they are scattered."""
        if chosen is None:
            return [*self.parts()]
        if not len(chosen):
            return []
        slots = self.slots(chosen)
        borders = np.flatnonzero(np.diff(slots) != 1) + 1
        if len(borders) >= 8 and len(slots) < 64 * (len(borders) + 1):
            return [slots]
        starts = np.concatenate([[0], borders])
        stops = np.concatenate([borders, [len(slots)]]) - 1
        return [slice(int(slots[a]), int(slots[b]) + 1) for a, b in zip(starts, stops, strict=True)]

    def gather(self, chosen: NDArray[np.int64]) -> dict[str, Tensor]:
        """Copies of the chosen elements, in the order given."""
        slots = torch.from_numpy(self.slots(chosen))
        return {name: tensor.index_select(2, slots.to(tensor.device)) for name, tensor in self.tensors.items()}

    # --- writing ---

    def missing(self, new: int, permanent: bool) -> int:
        """How many slots a write of `new` elements would add."""
        room, size = self._sizes(new, permanent)
        return room + size - self.room - self.size

    def _sizes(self, new: int, permanent: bool) -> tuple[int, int]:
        room, size = self.room, self.size
        if permanent and self.pinned + new > room:
            room = self.pinned + new if room == 0 else max(self.pinned + new, 2 * room)
        if not permanent and self.count + new > size:
            size = max(self.count + new, 2 * size, _FIRST)
            size = size if self.capacity is None else min(size, self.capacity)
        return room, size

    def _make_slots(self, new: int, permanent: bool) -> None:
        room, size = self._sizes(new, permanent)
        if (room, size) == (self.room, self.size):
            return
        moves, places = [], []
        start = 0
        for run in self.parts():
            if run.start >= self.room:
                start = max(start, room)
            moves.append((run, start))
            places.append((self.tags[run], start))
            start += run.stop - run.start
        self.buffers.resize(room + size, moves)
        tags = Tags.empty(room + size)
        for part, place in places:
            tags.put(slice(place, place + len(part)), part)
        self.tags, self.room, self.size, self.head = tags, room, size, 0

    def append(self, sources: Mapping[str, Tensor], tags: Tags, permanent: bool = False) -> None:
        """Write new elements behind the last ones; there is room for them under the capacity."""
        new = len(tags)
        if not new:
            return
        self._make_slots(new, permanent)
        if permanent:
            self._put(self.pinned, sources, tags)
            self.pinned += new
            return
        tail = (self.head + self.count) % self.size
        first = min(new, self.size - tail)
        if first == new:
            self._put(self.room + tail, sources, tags)
        else:
            self._put(self.room + tail, {name: source[:, :, :first] for name, source in sources.items()}, tags[:first])
            self._put(self.room, {name: source[:, :, first:] for name, source in sources.items()}, tags[first:])
        self.count += new

    def _put(self, start: int, sources: Mapping[str, Tensor], tags: Tags) -> None:
        self.buffers.put(start, sources)
        self.tags.put(slice(start, start + len(tags)), tags)

    # --- dropping ---

    def advance(self, count: int) -> None:
        """Drop the `count` oldest of the ring: nothing moves."""
        self.head = (self.head + count) % self.size if count < self.count else 0
        self.count -= count

    def keep(self, kept: NDArray[np.int64]) -> None:
        """Drop all elements but these (rising numbers in reading order). Moves those behind the first gap."""
        border = int(np.searchsorted(kept, self.pinned))
        pinned, ring = kept[:border], kept[border:] - self.pinned
        if len(pinned) < self.pinned:
            self._close(pinned, np.arange(self.pinned))
            self.pinned = len(pinned)
        if len(ring) and ring[-1] - ring[0] == len(ring) - 1:  # one run
            self.advance(int(ring[0]))
        elif len(ring) < self.count:
            self._close(ring, self.room + (self.head + np.arange(self.count)) % max(self.size, 1))
        self.count = len(ring)
        self.head = self.head if self.count else 0

    def _close(self, kept: NDArray[np.int64], slot_of: NDArray[np.int64]) -> None:
        if len(kept):
            self.buffers.compact(kept, slot_of)
            self.tags.put(slot_of[: len(kept)], self.tags[slot_of[kept]])

    # --- use ---

    def add_usage(self, chosen: NDArray[np.int64] | None, usage: NDArray[np.float64]) -> None:
        """Count one read in which the chosen elements (None: all) took part."""
        if chosen is None:
            start = 0
            for run in self.parts():
                stop = start + run.stop - run.start
                self.tags.uses[run] += usage[start:stop]
                self.tags.lives[run] += 1
                start = stop
            return
        slots = self.slots(chosen)
        self.tags.uses[slots] += usage
        self.tags.lives[slots] += 1

    # --- saving ---

    def counters(self) -> dict[str, Any]:
        return {
            "room": self.room,
            "size": self.size,
            "head": self.head,
            "pinned": self.pinned,
            "count": self.count,
            "writes": self.writes,
        }

    def content(self) -> tuple[dict[str, Tensor], Tags]:
        """Copies in reading order."""
        tensors = {
            name: torch.cat([tensor.detach()[:, :, run] for run in self.parts()] or [tensor.detach()[:, :, :0]], 2)
            for name, tensor in self.tensors.items()
        }
        return tensors, self.read_tags()

    @classmethod
    def restored(
        cls,
        layout: Layout,
        capacity: int | None,
        counters: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        tags: Tags,
    ) -> Ring:
        """The ring that gave `counters()` and `content()`, each element in the slot where it was."""
        ring = cls(layout, 0, capacity)
        ring.room, ring.size, ring.head = counters["room"], counters["size"], counters["head"]
        ring.pinned, ring.count, ring.writes = counters["pinned"], counters["count"], counters["writes"]
        ring.buffers = Buffers(layout, ring.room + ring.size)
        ring.tags = Tags.empty(ring.room + ring.size)
        start = 0
        for run in ring.parts():
            stop = start + run.stop - run.start
            part = {name: tensor[:, :, start:stop] for name, tensor in tensors.items()}
            ring._put(run.start, part, tags[start:stop])
            start = stop
        return ring


def elements(
    tensors: Mapping[str, Tensor], tags: Tags, device: torch.device, dtype: torch.dtype, group: int | str | None
) -> Elements:
    """The stored tensors (the keys under "key", values under "value.NAME") and copies of tags, as `Elements`."""
    named = {name.removeprefix("value."): tensor.to(device, dtype) for name, tensor in tensors.items() if name != "key"}
    ids, times, uses, lives, weights, _ = (torch.from_numpy(array.copy()) for array in tags.arrays())
    return Elements(tensors["key"].to(device, dtype), named, ids, times, uses, lives, weights, group)
