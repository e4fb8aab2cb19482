"""A group of a memory whose shapes never change and whose counters are tensors, for compiled code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..attention import Segment
from ..errors import InputError
from .buffers import Layout, Tags

__all__ = ["StaticRing"]


class StaticRing:
    """Slots [0, room) for permanent elements and [room, room + size) for a ring, all allocated at the start.

    `write` and `segments` do not branch on the content, so `torch.compile` traces them once. The tensors stay the
    same objects.

    Args:
        next_id: 0-d int64 tensor, shared by the groups of a bank.

    Attributes:
        written: 0-d int64 tensor, number of elements ever written to the ring.
        pinned: 0-d int64 tensor, number of permanent elements.
        writes: 0-d int64 tensor, number of calls of `write`, which is the default time of the next frame.
    """

    def __init__(self, layout: Layout, room: int, size: int, next_id: Tensor) -> None:
        self.layout, self.room, self.size, self.next_id = layout, room, size, next_id
        slots, device = room + size, layout.device
        # zeros, because 0 * NaN or 0 * inf of unused slots would not be 0
        self.tensors = {name: layout.allocate(width, slots, zeros=True)[0] for name, width in layout.widths.items()}
        with torch.inference_mode(False):
            self.ids = torch.zeros(slots, dtype=torch.int64, device=device)
            self.times = torch.zeros(slots, dtype=torch.float64, device=device)
            self.written, self.pinned, self.writes = (
                torch.zeros((), dtype=torch.int64, device=device) for _ in range(3)
            )

    def write(self, sources: Mapping[str, Tensor], time: Tensor | float | None, permanent: bool) -> Tensor:
        """Write elements and return their ids, on the device."""
        new = next(iter(sources.values())).shape[2]
        offset = torch.arange(new, device=self.layout.device)
        ids = self.next_id + offset
        if isinstance(time, Tensor):
            times = time.to(self.times.device, torch.float64).expand(new)
        else:
            times = (
                (self.writes if time is None else torch.full_like(self.times[0], time)).to(torch.float64).expand(new)
            )
        if permanent:
            if not torch.compiler.is_compiling() and int(self.pinned) + new > self.room:
                raise InputError(
                    f"{int(self.pinned)} + {new} permanent elements, but static mode has room for {self.room}; "
                    "make the bank with a larger permanent="
                )
            slots, skipped = self.pinned + offset, 0
        else:
            skipped = max(0, new - self.size)
            slots = self.room + (self.written + offset[skipped:]) % self.size
        for name, source in sources.items():
            tensor = self.tensors[name]
            source = source[:, :, skipped:].to(tensor.dtype).expand(tensor.shape[0], -1, -1, -1)
            tensor.index_copy_(2, slots, source)
        self.ids.index_copy_(0, slots, ids[skipped:])
        self.times.index_copy_(0, slots, times[skipped:])
        (self.pinned if permanent else self.written).add_(new)
        self.writes.add_(1)
        self.next_id.add_(new)
        return ids

    def segments(self, value: str) -> list[Segment]:
        """The whole permanent region and the whole ring, each with its number of valid elements as a tensor."""
        keys, values, room = self.tensors["key"], self.tensors[value], self.room
        ring = Segment(keys[:, :, room:], values[:, :, room:], self.written.clamp(max=self.size).reshape(1))
        if not room:
            return [ring]
        return [Segment(keys[:, :, :room], values[:, :, :room], self.pinned.reshape(1)), ring]

    def __len__(self) -> int:
        return int(self.pinned) + min(int(self.written), self.size)

    def slots(self) -> NDArray[np.int64]:
        """The slot of each element: permanent ones first, then those of the ring, oldest first."""
        written = int(self.written)
        ring = self.room + np.arange(max(0, written - self.size), written) % self.size
        return np.concatenate([np.arange(int(self.pinned)), ring])

    def read_tags(self) -> Tags:
        slots = self.slots()
        tags = Tags.empty(len(slots))
        tags.ids, tags.times = self.ids.cpu().numpy()[slots], self.times.cpu().numpy()[slots]
        tags.permanent[: int(self.pinned)] = True
        return tags

    def tags_of(self, chosen: NDArray[np.int64] | None) -> Tags:
        tags = self.read_tags()
        return tags if chosen is None else tags[chosen]

    def gather(self, chosen: NDArray[np.int64]) -> dict[str, Tensor]:
        slots = torch.from_numpy(self.slots()[chosen]).to(self.layout.device)
        return {name: tensor.index_select(2, slots) for name, tensor in self.tensors.items()}

    def clear(self, keep_permanent: bool) -> None:
        self.written.zero_()
        if not keep_permanent:
            self.pinned.zero_()
            self.writes.zero_()

    def detach(self) -> None:
        """Nothing to do: a static ring never holds a graph."""

    # --- these create new tensors, so compiled code is traced again ---

    def select(self, indices: Tensor) -> None:
        self._over_batch({name: t.index_select(0, indices.to(t.device)) for name, t in self.tensors.items()})

    def repeat(self, count: int) -> None:
        self._over_batch({name: tensor.repeat(count, 1, 1, 1) for name, tensor in self.tensors.items()})

    def _over_batch(self, tensors: dict[str, Tensor]) -> None:
        with torch.inference_mode(False):
            self.tensors = {name: tensor.clone() for name, tensor in tensors.items()}

    def move(self, layout: Layout, next_id: Tensor) -> None:
        self.layout, self.next_id = layout, next_id
        with torch.inference_mode(False):
            self.tensors = {n: t.to(layout.device, layout.dtype) for n, t in self.tensors.items()}
            self.ids, self.times = self.ids.to(layout.device), self.times.to(layout.device)
            self.written, self.pinned, self.writes = (
                t.to(layout.device) for t in (self.written, self.pinned, self.writes)
            )

    # --- saving ---

    def counters(self) -> dict[str, Any]:
        return {"written": int(self.written), "pinned": int(self.pinned), "writes": int(self.writes)}

    def content(self) -> tuple[dict[str, Tensor], Tags]:
        return self.gather(np.arange(len(self))), self.read_tags()

    def restore(self, counters: Mapping[str, Any], tensors: Mapping[str, Tensor], tags: Tags) -> None:
        """Restore each element into its old slot."""
        self.written.fill_(counters["written"])
        self.pinned.fill_(counters["pinned"])
        self.writes.fill_(counters["writes"])
        slots = torch.from_numpy(self.slots()).to(self.layout.device)
        for name, tensor in tensors.items():
            self.tensors[name].zero_().index_copy_(2, slots, tensor.to(self.layout.device, self.layout.dtype))
        self.ids.index_copy_(0, slots, torch.from_numpy(tags.ids).to(slots.device))
        self.times.index_copy_(0, slots, torch.from_numpy(tags.times).to(slots.device))
