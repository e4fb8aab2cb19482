"""The slots of one group of a memory: tensors and tags, their storage, and writing in place.

Tensors are written in place unless the old content is still needed: by an autograd graph, or by other tensors that share the
memory. Such tensors are replaced.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Buffers", "Elements", "Folder", "Layout", "Place", "Tags"]

Place = Literal["device", "host", "disk"]
_BLOCK = 1 << 16  # elements that move at a time when a bank closes its gaps


class Folder:
    """A temporary folder for memory-mapped files; it is deleted with the last reference."""

    def __init__(self, parent: str | os.PathLike[str] | None) -> None:
        if parent is not None:
            Path(parent).mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix="memory-", dir=parent, ignore_cleanup_errors=True)
        self._count = 0

    def next_file(self) -> Path:
        self._count += 1
        return Path(self._folder.name) / f"{self._count}.bin"


@dataclass(frozen=True)
class Layout:
    """Shapes and placement of the tensors.

    Attributes:
        widths: tensor name -> D, of tensors (batch, heads, slots, D).
        batch, heads: sizes.
        dtype: the stored dtype.
        device: where computation runs.
        place: "device"; "host": in main memory, pinned if the device is CUDA; "disk": memory-mapped files.
        folder: folder of the files.
    """

    widths: Mapping[str, int]
    batch: int
    heads: int
    dtype: torch.dtype
    device: torch.device
    place: Place = "device"
    folder: Folder | None = None

    @property
    def element_bytes(self) -> int:
        """Size of one element in bytes, over the whole batch."""
        return sum(self.widths.values()) * self.batch * self.heads * self.dtype.itemsize

    @property
    def home(self) -> torch.device:
        """The device that the tensors are on."""
        return self.device if self.place == "device" else torch.device("cpu")

    def allocate(self, width: int, slots: int, zeros: bool = False) -> tuple[Tensor, Path | None]:
        """A tensor (batch, heads, slots, width) and the file that it is mapped from."""
        shape = (self.batch, self.heads, slots, width)
        # a tensor made in inference mode could not be written to outside of it
        with torch.inference_mode(False):
            size = self.batch * self.heads * slots * width
            if self.place == "disk" and size:
                assert self.folder is not None
                path = self.folder.next_file()
                flat = torch.from_file(str(path), shared=True, size=size, dtype=self.dtype)  # a new file: zeros
                return flat.view(shape), path
            make = torch.zeros if zeros else torch.empty
            pinned = self.place == "host" and self.device.type == "cuda"
            return make(shape, dtype=self.dtype, device=self.home, pin_memory=pinned), None


@dataclass
class Tags:
    """Metadata of N elements, as arrays of shape (N,) on the host.

    Attributes:
        ids: int64, assigned in the order of writing, unique in a bank.
        times: float64, in the caller's unit.
        uses: float64, attention that each element received in counted reads (mean over the batch).
        lives: int64, number of counted reads that it took part in.
        weights: float64, number of originals that it represents after merging.
        permanent: bool.
    """

    ids: NDArray[np.int64]
    times: NDArray[np.float64]
    uses: NDArray[np.float64]
    lives: NDArray[np.int64]
    weights: NDArray[np.float64]
    permanent: NDArray[np.bool_]

    @classmethod
    def empty(cls, count: int = 0) -> Self:
        """Tags of `count` unused elements: use 0, life 0, weight 1."""
        return cls(
            np.zeros(count, np.int64),
            np.zeros(count),
            np.zeros(count),
            np.zeros(count, np.int64),
            np.ones(count),
            np.zeros(count, bool),
        )

    @classmethod
    def join(cls, parts: Sequence[Tags]) -> Self:
        if len(parts) == 1:
            return cls(*parts[0].arrays())
        columns = zip(*(part.arrays() for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: slice | NDArray[Any]) -> Tags:
        """A view for a slice, a copy for an array of indices or booleans."""
        return Tags(*(array[index] for array in self.arrays()))

    def put(self, places: slice | NDArray[np.int64], other: Tags) -> None:
        """Copy `other` into these places."""
        self.ids[places] = other.ids
        self.times[places] = other.times
        self.uses[places] = other.uses
        self.lives[places] = other.lives
        self.weights[places] = other.weights
        self.permanent[places] = other.permanent

    def arrays(self) -> tuple[NDArray[Any], ...]:
        return self.ids, self.times, self.uses, self.lives, self.weights, self.permanent

    def tensors(self) -> dict[str, Tensor]:
        """Copies, under the names that a saved bank uses."""
        return {name: torch.from_numpy(getattr(self, field).copy()) for field, name in _SAVED.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        return cls(*(tensors[_SAVED[field.name]].cpu().numpy().copy() for field in fields(cls)))


_SAVED = {
    "ids": "id",
    "times": "time",
    "uses": "use",
    "lives": "life",
    "weights": "weight",
    "permanent": "permanent",
}


@dataclass(frozen=True)
class Elements:
    """Elements of a memory with their metadata.

    Attributes:
        keys: (B, H, N, Dk).
        values: name -> (B, H, N, Dv).
        ids, times, uses, lives, weights: (N,) on the CPU, see `Tags`.
        group: the common group of all elements, or None.
    """

    keys: Tensor
    values: dict[str, Tensor]
    ids: Tensor
    times: Tensor
    uses: Tensor
    lives: Tensor
    weights: Tensor
    group: int | str | None = None

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def value(self) -> Tensor:
        """The values, if there is only one kind."""
        (value,) = self.values.values()
        return value

    def tags(self) -> Tags:
        """The tags as arrays; none is permanent."""
        return Tags(
            self.ids.numpy(),
            self.times.numpy(),
            self.uses.numpy(),
            self.lives.numpy(),
            self.weights.numpy(),
            np.zeros(len(self), bool),
        )


@dataclass
class Buffers:
    """Named tensors (B, H, S, D) and the tags of a common number of slots S."""

    layout: Layout
    slots: int = 0
    tags: Tags = field(default_factory=Tags.empty)
    shared: bool = False  # an autograd graph or other batch members use the same memory: replace before writing
    _tensors: dict[str, Tensor] = field(default_factory=dict)
    _files: dict[str, Path | None] = field(default_factory=dict)
    _copied: torch.cuda.Event | None = None  # recorded after copies of all tensors on a side stream
    _sources: list[Tensor] = field(default_factory=list)  # the tensors that those copies read

    def __post_init__(self) -> None:
        self._allocate(self.slots)
        self.tags = Tags.empty(self.slots)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors, after waiting for copies that are still running."""
        self._wait_for_copies()
        return self._tensors

    @property
    def attached(self) -> bool:
        """Whether a gradient would flow into what was written."""
        return any(tensor.requires_grad for tensor in self._tensors.values())

    def _allocate(self, slots: int) -> None:
        made = {name: self.layout.allocate(width, slots) for name, width in self.layout.widths.items()}
        self._replace({name: tensor for name, (tensor, _) in made.items()}, {n: file for n, (_, file) in made.items()})
        self.slots, self.shared = slots, False

    def _replace(self, tensors: dict[str, Tensor], files: Mapping[str, Path | None] | None = None) -> None:
        for file in self._files.values():
            if file is not None:
                with contextlib.suppress(OSError):  # some systems keep mapped files until the folder is deleted
                    file.unlink()
        self._tensors, self._files = tensors, dict(files or {})

    def resize(self, slots: int, moves: Sequence[tuple[slice, int]]) -> None:
        """Replace the slots by `slots` new ones; each (slice, start) in `moves` copies old slots to the new ones from `start` on."""
        self._resize_tensors(slots, moves)
        old, self.tags = self.tags, Tags.empty(slots)
        for source, start in moves:
            self.tags.put(slice(start, start + _len(source)), old[source])

    def _resize_tensors(self, slots: int, moves: Sequence[tuple[slice, int]]) -> None:
        old = self.tensors
        if not self.attached:
            self._allocate(slots)
            for name, tensor in self._tensors.items():
                for source, start in moves:
                    tensor[:, :, start : start + _len(source)].copy_(old[name][:, :, source])
            return
        with _recording():
            new = {}
            for name, tensor in old.items():
                new[name] = self.layout.allocate(tensor.shape[3], slots, zeros=True)[0]
                for source, start in moves:
                    stop = start + _len(source)
                    new[name] = torch.slice_scatter(new[name], tensor[:, :, source], 2, start, stop)
            self._replace(new)
        self.slots, self.shared = slots, False

    def put(self, start: int, sources: Mapping[str, Tensor], tags: Tags) -> None:
        """Write (B or 1, H, n, D) and n tags into the slots from `start` on."""
        self.own()
        for name, source in sources.items():
            tensor = self.tensors[name]
            stop = start + source.shape[2]
            if tensor.requires_grad or source.requires_grad:
                with _recording():
                    source = source.to(tensor.device, tensor.dtype).expand(tensor.shape[0], -1, -1, -1)
                    self._tensors[name] = torch.slice_scatter(tensor, source, 2, start, stop)
            else:
                tensor[:, :, start:stop].copy_(source)
        self.tags.put(slice(start, start + len(tags)), tags)

    def compact(self, kept: NDArray[np.int64], slot_of: NDArray[np.int64]) -> None:
        """Move slot `slot_of[kept[j]]` to slot `slot_of[j]` for all j. `kept` is ascending."""
        moved = np.flatnonzero(kept != np.arange(len(kept)))
        if len(moved):
            self._compact_tensors(kept, slot_of, int(moved[0]))
            self.tags.put(slot_of[: len(kept)], self.tags[slot_of[kept]])

    def _compact_tensors(self, kept: NDArray[np.int64], slot_of: NDArray[np.int64], first: int) -> None:
        if self.attached:
            order = np.arange(self.slots)
            order[slot_of[: len(kept)]] = slot_of[kept]
            with _recording():
                self._tensors = {
                    n: t.index_select(2, torch.from_numpy(order).to(t.device)) for n, t in self.tensors.items()
                }
            self.shared = False
            return
        self.own()
        # kept[j] >= j: in ascending order, no block overwrites what a later one reads
        for begin in range(first, len(kept), _BLOCK):
            end = min(begin + _BLOCK, len(kept))
            sources = torch.from_numpy(slot_of[kept[begin:end]])
            targets = torch.from_numpy(slot_of[begin:end])
            for tensor in self.tensors.values():
                block = tensor.index_select(2, sources.to(tensor.device))
                tensor.index_copy_(2, targets.to(tensor.device), block)

    def own(self) -> None:
        """Make sure that writing in place changes nothing that others hold."""
        if self.shared:
            old = self.tensors
            kept = {name: tensor for name, tensor in old.items() if tensor.requires_grad}  # replaced by writing
            self._allocate(self.slots)
            for name, tensor in self._tensors.items():
                if name not in kept:
                    tensor.copy_(old[name])
            self._tensors |= kept
        self.shared = False

    def detach(self) -> None:
        self._tensors = {name: tensor.detach() for name, tensor in self.tensors.items()}
        self.shared = True  # the graph may still hold them

    def select(self, indices: Tensor) -> None:
        """Keep these members of the batch, in this order."""
        self._over_batch(len(indices), {n: t.index_select(0, indices.to(t.device)) for n, t in self.tensors.items()})

    def repeat(self, count: int) -> None:
        """Repeat the batch `count` times; a batch of 1 is not copied before the next write."""
        if self.layout.batch == 1:
            self.layout = replace(self.layout, batch=count)
            self._tensors = {name: tensor.expand(count, -1, -1, -1) for name, tensor in self.tensors.items()}
            self.shared = True
            return
        self._over_batch(
            count * self.layout.batch, {name: tensor.repeat(count, 1, 1, 1) for name, tensor in self.tensors.items()}
        )

    def _over_batch(self, batch: int, tensors: dict[str, Tensor]) -> None:
        self.layout = replace(self.layout, batch=batch)
        if self.layout.place == "disk" or any(tensor.is_inference() for tensor in tensors.values()):
            self._copy_from(tensors)
        else:
            self._replace(tensors)
        self.shared = False

    def move(self, layout: Layout) -> None:
        """Move to another place, or to another stored dtype."""
        if layout == self.layout:
            return
        before, self.layout = self.layout, layout
        if self.attached and layout.place != "disk":
            with _recording():
                self._replace({name: tensor.to(layout.home, layout.dtype) for name, tensor in self.tensors.items()})
            return
        if (before.home, before.dtype, before.place) != (layout.home, layout.dtype, layout.place):
            self._copy_from(self.tensors)
            self.shared = False

    def _copy_from(self, tensors: Mapping[str, Tensor]) -> None:
        self._allocate(self.slots)
        for name, tensor in self._tensors.items():
            tensor.copy_(tensors[name].detach())

    # --- CUDA: to pinned memory and back while something else is computed ---

    def start_move(self, layout: Layout, stream: torch.cuda.Stream) -> None:
        """Like `move`, between the device and pinned memory, on `stream`. The next use waits for it."""
        if layout == self.layout:
            return
        if self.attached or not {self.layout.place, layout.place} <= {"device", "host"}:
            self.move(layout)
            return
        sources = self.tensors
        self.layout = layout
        self._allocate(self.slots)
        stream.wait_stream(torch.cuda.current_stream(layout.device))
        with torch.cuda.stream(stream):
            for name, tensor in self._tensors.items():
                tensor.copy_(sources[name], non_blocking=True)
                for used in (tensor, sources[name]):
                    if used.is_cuda:
                        used.record_stream(stream)  # its memory is not reused while the copy runs
            self._copied = torch.cuda.Event()
            self._copied.record(stream)
        self._sources = [tensor for tensor in sources.values() if not tensor.is_cuda]

    def _wait_for_copies(self) -> None:
        if self._copied is None:
            return
        if self.layout.place == "device":
            torch.cuda.current_stream(self.layout.device).wait_event(self._copied)
            if not self._copied.query():
                return  # pinned sources must outlive the copy, and other streams must wait as well
        else:
            self._copied.synchronize()  # the host reads it
        self._copied, self._sources = None, []


@contextlib.contextmanager
def _recording() -> Iterator[None]:
    """Enable autograd, so that tensors written with their graph keep it in any mode of the caller."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _len(part: slice) -> int:
    return part.stop - part.start
