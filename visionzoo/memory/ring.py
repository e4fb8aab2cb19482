"""The slots of one group (a permanent region, then a ring), and the groups that make up a tensor memory."""

from __future__ import annotations

import os
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from .bank import MemoryBank
from .buffers import Buffers, Elements, Folder, Layout, Place, Tags
from .policies import Fifo, Never, Policy, Usage, policy_from_config
from .static_ring import StaticRing

__all__ = ["DEFAULT_GROUP", "Group", "Ring", "RingGroups"]

Group = int | str
DEFAULT_GROUP = 0
MODES, PLACEMENTS = ("dynamic", "static"), ("device", "host", "disk")

_FIRST = 64  # initial slots of a growing ring


class Ring:
    """Slots of one group: [0, room) for permanent elements, [room, room + size) for the ring.

    Elements are numbered in *reading order*: the permanent ones in the order of writing, then those of the ring, oldest
    first. `tags` are stored per slot.

    Attributes:
        pinned: number of permanent elements; they are in slots [0, pinned).
        head: the oldest element of the ring is in slot room + head.
        count: number of elements in the ring; the n-th is in slot room + (head + n) % size.
        capacity: maximum number of slots of the ring; None: no limit.
        writes: number of calls of `write` so far, which is the default time of the next frame.
    """

    def __init__(self, layout: Layout, room: int, capacity: int | None) -> None:
        self.room, self.size, self.capacity = room, 0, capacity
        self.pinned = self.head = self.count = self.writes = 0
        self.buffers = Buffers(layout, room)

    def __len__(self) -> int:
        return self.pinned + self.count

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The stored tensors, (B, H, slots, D) each."""
        return self.buffers.tensors

    @property
    def tags(self) -> Tags:
        """The tags of all slots."""
        return self.buffers.tags

    # --- slots of elements ---

    def parts(self) -> list[slice]:
        """Runs of slots in reading order: the permanent ones, the ring from its head to its end, the ring from its start."""
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
        """The tags in reading order: a view if the slots are one run, else a copy."""
        parts = self.parts()
        return Tags.join([self.tags[run] for run in parts]) if parts else Tags.empty()

    def tags_of(self, chosen: NDArray[np.int64] | None) -> Tags:
        """The tags of the chosen elements (None: all)."""
        return self.read_tags() if chosen is None else self.tags[self.slots(chosen)]

    def runs(self, chosen: NDArray[np.int64] | None) -> list[slice | NDArray[np.int64]]:
        """The slots of the chosen elements (ascending; None: all), as slices, or as one array if they are scattered."""
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
        """Number of slots that a write of `new` elements would add."""
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
        moves, start = [], 0
        for run in self.parts():
            if run.start >= self.room:
                start = max(start, room)
            moves.append((run, start))
            start += run.stop - run.start
        self.buffers.resize(room + size, moves)
        self.room, self.size, self.head = room, size, 0

    def append(self, sources: Mapping[str, Tensor], tags: Tags, permanent: bool = False) -> None:
        """Write new elements after the last ones. The caller makes sure that they fit into the capacity."""
        new = len(tags)
        if not new:
            return
        self._make_slots(new, permanent)
        if permanent:
            self.buffers.put(self.pinned, sources, tags)
            self.pinned += new
            return
        tail = (self.head + self.count) % self.size
        first = min(new, self.size - tail)
        for place, part in ((self.room + tail, slice(0, first)), (self.room, slice(first, new))):
            if part.stop > part.start:
                self.buffers.put(place, {name: source[:, :, part] for name, source in sources.items()}, tags[part])
        self.count += new

    # --- dropping ---

    def advance(self, count: int) -> None:
        """Drop the `count` oldest elements of the ring; nothing moves."""
        self.head = (self.head + count) % self.size if count < self.count else 0
        self.count -= count

    def keep(self, kept: NDArray[np.int64]) -> None:
        """Drop all other elements (`kept` is ascending, in reading order). Elements after the first gap move."""
        border = int(np.searchsorted(kept, self.pinned))
        pinned, ring = kept[:border], kept[border:] - self.pinned
        if len(pinned) < self.pinned:
            self.buffers.compact(pinned, np.arange(self.pinned))
            self.pinned = len(pinned)
        if len(ring) and ring[-1] - ring[0] == len(ring) - 1:  # one run
            self.advance(int(ring[0]))
        elif len(ring) < self.count:
            self.buffers.compact(ring, self.room + (self.head + np.arange(self.count)) % max(self.size, 1))
        self.count = len(ring)
        self.head = self.head if self.count else 0

    # --- use ---

    def add_usage(self, chosen: NDArray[np.int64] | None, usage: NDArray[np.float64]) -> None:
        """Record a read in which the chosen elements (None: all) took part."""
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


class Ids:
    """Counter that assigns ids; several banks may share it."""

    def __init__(self) -> None:
        self.next = 0

    def take(self, count: int) -> NDArray[np.int64]:
        self.next += count
        return np.arange(self.next - count, self.next)


class RingGroups(MemoryBank, ABC):
    """Base class of `TensorBank`, which documents the arguments: its groups and where they are stored."""

    def __init__(
        self,
        key_dim: int,
        value_dim: int | Mapping[str, int],
        capacity: int | None = None,
        *,
        permanent: int = 0,
        batch: int = 1,
        heads: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        storage_dtype: torch.dtype | None = None,
        policy: Policy | Mapping[str, Any] | None = None,
        mode: str = "dynamic",
        max_bytes: int | None = None,
        placement: Place = "device",
        folder: str | os.PathLike[str] | None = None,
        stream_block: int = 16384,
        count_usage: bool | None = None,
    ) -> None:
        self.value_dims = {"value": value_dim} if isinstance(value_dim, int) else dict(value_dim)
        self.key_dim, self.batch, self.heads = key_dim, batch, heads
        sizes = {"key_dim": key_dim, "batch": batch, "heads": heads, "stream_block": stream_block}
        sizes |= {f"value_dim {name!r}": width for name, width in self.value_dims.items()}
        for name, size in (sizes | ({} if capacity is None else {"capacity": capacity})).items():
            if not isinstance(size, int) or size < 1:
                raise InputError(f"{name} must be an integer of at least 1, got {size!r}")
        if not self.value_dims or permanent < 0 or mode not in MODES or placement not in PLACEMENTS:
            raise InputError(
                f"value_dim {value_dim}, permanent {permanent}, mode {mode!r}, placement {placement!r}: expected at least "
                f"one value, 0 or more, one of {', '.join(MODES)}, one of {', '.join(PLACEMENTS)}"
            )
        if policy is None:
            policy = Never() if capacity is None else Fifo(capacity)
        self.policy = policy_from_config(policy)
        if isinstance(self.policy, Fifo | Usage):
            if capacity is not None and self.policy.n > capacity:
                raise InputError(f"{self.policy} keeps more than the capacity of {capacity}")
            capacity = self.policy.n if capacity is None else capacity
        self.capacity, self.permanent, self.mode, self.max_bytes = capacity, permanent, mode, max_bytes
        self.stream_block = stream_block
        self.placement: Place = placement
        self.device, self.dtype, self._storage_dtype = _device(device), dtype, storage_dtype
        self._count_usage = count_usage
        self.counts_usage = self.policy.needs_usage if count_usage is None else count_usage
        self.on_evict: Callable[[Elements], None] | None = None
        self._folder = Folder(folder) if placement == "disk" else None
        self._over_limit = self._offloaded = False  # above max_bytes; moved by `offload`
        self._stream: torch.cuda.Stream | None = None
        self._ids = Ids()
        self._rings: dict[Group, Ring] = {}
        self._static: dict[Group, StaticRing] = {}
        if mode == "static":
            if self.policy != Fifo(capacity or 0) or placement != "device" or max_bytes is not None or count_usage:
                raise InputError(
                    "static mode needs a capacity and supports Fifo(capacity) only, on the device, without max_bytes and use counts"
                )
            self._next_id = torch.zeros((), dtype=torch.int64, device=self.device)
            self._static_ring(DEFAULT_GROUP)

    # --- properties ---

    @property
    def storage_dtype(self) -> torch.dtype:
        """The dtype of the stored tensors."""
        return self._storage_dtype or self.dtype

    @property
    def location(self) -> Place:
        """Where the buffers are now: "device", "host" or "disk"."""
        return "host" if self.placement == "device" and (self._over_limit or self._offloaded) else self.placement

    @property
    def groups(self) -> list[Group]:
        """The groups that have been written, in the order of their first write."""
        return [*self._rings, *self._static]

    def _layout(self) -> Layout:
        widths = {"key": self.key_dim} | {f"value.{name}": width for name, width in self.value_dims.items()}
        return Layout(widths, self.batch, self.heads, self.storage_dtype, self.device, self.location, self._folder)

    def __len__(self) -> int:
        return sum(len(ring) for ring in self._all())

    def count(self, group: Group | None = None, *, permanent: bool | None = None) -> int:
        """Number of elements of a group (None: of all); `permanent` counts only permanent (True) or only other ones (False)."""
        rings = self._all() if group is None else [ring for name, ring in self._named() if name == group]
        total, pinned = sum(len(ring) for ring in rings), sum(int(ring.pinned) for ring in rings)
        return total if permanent is None else pinned if permanent else total - pinned

    @property
    def nbytes(self) -> int:
        """Size in bytes of the keys and values of all elements."""
        return len(self) * self._layout().element_bytes

    # --- groups ---

    def _named(self) -> list[tuple[Group, Ring | StaticRing]]:
        return [*self._rings.items(), *self._static.items()]

    def _all(self) -> list[Ring | StaticRing]:
        return [ring for _, ring in self._named()]

    def _static_ring(self, group: Group) -> StaticRing:
        ring = self._static.get(group)
        if ring is None:
            assert self.capacity is not None
            ring = self._static[group] = StaticRing(self._layout(), self.permanent, self.capacity, self._next_id)
        return ring

    def share_ids(self, other: RingGroups) -> None:
        """Take ids from the counter of `other`, so that no id is assigned twice."""
        self._ids = other._ids

    def _dynamic_only(self, what: str, fine: bool = False) -> None:
        if self.mode == "static" and not fine:
            raise InputError(f"static mode takes no {what}: make the bank with mode='dynamic'")

    def reset(self, group: Group | None = None, *, keep_permanent: bool = False) -> None:
        """Forget a group, or all groups; `keep_permanent` keeps permanent elements. Ids are not reused."""
        for static in [ring for name, ring in self._static.items() if group in (None, name)]:
            static.clear(keep_permanent)
        for name in [name for name in self._rings if group in (None, name)]:
            ring = self._rings[name]
            if keep_permanent and ring.pinned:
                ring.keep(np.arange(ring.pinned))
            else:
                del self._rings[name]
        if not self._rings and self._over_limit:
            self._over_limit = False

    # --- where it is stored ---

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move to a device, or change the dtype of results (and, without a `storage_dtype`, of the storage), in place."""
        self.device = self.device if device is None else _device(device)
        self.dtype = self.dtype if dtype is None else dtype
        self._stream = None
        if self.mode == "static":
            self._next_id = self._next_id.to(self.device)
            for ring in self._static.values():
                ring.move(self._layout(), self._next_id)
        self._relocate()
        return self

    def _relocate(self) -> None:
        for ring in self._rings.values():
            ring.buffers.move(self._layout())

    def offload(self) -> None:
        """Start to move the buffers to pinned main memory, from where reads stream them. Does nothing without CUDA."""
        self._dynamic_only("offload")
        self._start_move(offload=True)

    def prefetch(self) -> None:
        """Start to move the buffers back after `offload`; the next use waits for it. Does nothing without CUDA."""
        self._dynamic_only("prefetch")
        self._start_move(offload=False)

    def _start_move(self, offload: bool) -> None:
        if self.device.type != "cuda" or self.placement != "device" or self._offloaded == offload:
            return
        self._offloaded = offload
        self._stream = self._stream or torch.cuda.Stream(self.device)
        for ring in self._rings.values():
            ring.buffers.start_move(self._layout(), self._stream)

    def detach(self) -> None:
        """Cut the autograd graph of tensors written with `detach=False`: gradients stop at the current content."""
        for ring in self._rings.values():
            ring.buffers.detach()

    # --- the batch ---

    def batch_select(self, indices: Tensor | Sequence[int]) -> None:
        """Keep these members of the batch, in this order. Ids, times and use counts stay. Experimental."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        if (
            chosen.ndim != 1
            or not len(chosen)
            or not (-self.batch <= int(chosen.min()) <= int(chosen.max()) < self.batch)
        ):
            raise InputError(f"cannot select {chosen.tolist()} from a batch of {self.batch}")
        chosen = chosen % self.batch
        self.batch = len(chosen)
        for ring in self._rings.values():
            ring.buffers.select(chosen)
        self._static_batch(lambda ring: ring.select(chosen))

    def batch_repeat(self, count: int) -> None:
        """Repeat the batch `count` times, like `Tensor.repeat`; a batch of 1 is not copied before the next write. Experimental."""
        if not isinstance(count, int) or count < 1:
            raise InputError(f"cannot repeat a batch {count!r} times; expected 1 or more")
        if count == 1:
            return
        self.batch *= count
        for ring in self._rings.values():
            ring.buffers.repeat(count)
        self._static_batch(lambda ring: ring.repeat(count))

    def _static_batch(self, change: Callable[[StaticRing], None]) -> None:
        for ring in self._static.values():
            change(ring)
            ring.layout = self._layout()


def _device(device: torch.device | str) -> torch.device:
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:  # equal to the device of its tensors
        device = torch.device("cuda", torch.cuda.current_device())
    return device
