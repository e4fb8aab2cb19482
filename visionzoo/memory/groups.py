"""The groups of a tensor memory: sizes and options, where the rings lie, the batch, saving."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from .bank import MemoryBank
from .buffers import Folder, Layout, Place
from .policies import Fifo, Never, Policy, Usage, policy_config, policy_from_config
from .ring import Ring
from .static_ring import StaticRing
from .tags import Elements, Tags

__all__ = ["DEFAULT_GROUP", "Group", "Ids", "RingGroups"]

Group = int | str
MODES, PLACEMENTS = ("dynamic", "static"), ("device", "host", "disk")
DEFAULT_GROUP = 0
_OPTIONS = ("key_dim", "value_dim", "capacity", "permanent", "batch", "heads", "mode", "max_bytes", "placement")


class Ids:
    """Gives ids; several banks may share it."""

    def __init__(self) -> None:
        self.next = 0

    def take(self, count: int) -> NDArray[np.int64]:
        self.next += count
        return np.arange(self.next - count, self.next)


class Content(NamedTuple):
    """What `RingGroups.take_over` takes, checked: of each group its counters, tensors and tags."""

    batch: int
    next_id: int
    groups: list[tuple[Mapping[str, Any], dict[str, Tensor], Tags]]


class RingGroups(MemoryBank):
    """What a `TensorBank` is made of: see there for the arguments."""

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
                raise InputError(f"{name} is {size!r}; expected a whole number, 1 or more")
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
        self._crowded = self._away = False  # above max_bytes; offloaded
        self._stream: torch.cuda.Stream | None = None
        self._ids = Ids()
        self._rings: dict[Group, Ring] = {}
        self._static: dict[Group, StaticRing] = {}
        if mode == "static":
            if self.policy != Fifo(capacity or 0) or placement != "device" or max_bytes is not None or count_usage:
                raise InputError(
                    "static mode needs a capacity and knows Fifo(capacity), on the device, without max_bytes and use counts"
                )
            self._next_id = torch.zeros((), dtype=torch.int64, device=self.device)
            self._static_ring(DEFAULT_GROUP)

    # --- what it is ---

    @property
    def storage_dtype(self) -> torch.dtype:
        """The dtype of what is stored."""
        return self._storage_dtype or self.dtype

    @property
    def location(self) -> Place:
        """Where the buffers are now: "device", "host" or "disk"."""
        return "host" if self.placement == "device" and (self._crowded or self._away) else self.placement

    @property
    def groups(self) -> list[Group]:
        """The groups that were written, in the order of their first write."""
        return [*self._rings, *self._static]

    def _layout(self) -> Layout:
        widths = {"key": self.key_dim} | {f"value.{name}": width for name, width in self.value_dims.items()}
        return Layout(widths, self.batch, self.heads, self.storage_dtype, self.device, self.location, self._folder)

    def __len__(self) -> int:
        return sum(len(ring) for ring in self._all())

    def count(self, group: Group | None = None, *, permanent: bool | None = None) -> int:
        """Elements of a group (None: of all); only the permanent or only the other ones, if asked."""
        rings = self._all() if group is None else [ring for name, ring in self._named() if name == group]
        total, pinned = sum(len(ring) for ring in rings), sum(int(ring.pinned) for ring in rings)
        return total if permanent is None else pinned if permanent else total - pinned

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values of the elements held."""
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
        """Draw ids from the counter of `other`, so that none is given twice."""
        self._ids = other._ids

    def _dynamic_only(self, what: str, fine: bool = False) -> None:
        if self.mode == "static" and not fine:
            raise InputError(f"static mode takes no {what}: make the bank with mode='dynamic'")

    def reset(self, group: Group | None = None, *, keep_permanent: bool = False) -> None:
        """Forget a group, or all; with `keep_permanent` all but the permanent elements. Ids go on rising."""
        for static in [ring for name, ring in self._static.items() if group in (None, name)]:
            static.clear(keep_permanent)
        for name in [name for name in self._rings if group in (None, name)]:
            ring = self._rings[name]
            if keep_permanent and ring.pinned:
                ring.keep(np.arange(ring.pinned))
            else:
                del self._rings[name]
        if not self._rings and self._crowded:
            self._crowded = False

    # --- where it lies ---

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move to a device, or change the dtype of what is given (and, without a `storage_dtype`, stored). In place."""
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
        """Begin to move the buffers to main memory (pinned, on a side stream). Reads stream them. Without CUDA: nothing."""
        self._dynamic_only("offload")
        self._travel(away=True)

    def prefetch(self) -> None:
        """Begin to bring back what `offload` moved; the next use waits for it. Without CUDA: nothing."""
        self._dynamic_only("prefetch")
        self._travel(away=False)

    def _travel(self, away: bool) -> None:
        if self.device.type != "cuda" or self.placement != "device" or self._away == away:
            return
        self._away = away
        self._stream = self._stream or torch.cuda.Stream(self.device)
        for ring in self._rings.values():
            ring.buffers.start_move(self._layout(), self._stream)

    def detach(self) -> None:
        """Cut the graph of what was written with `detach=False`: gradients stop at what is held now."""
        for ring in self._rings.values():
            ring.buffers.detach()

    # --- the batch ---

    def batch_select(self, indices: Tensor | Sequence[int]) -> None:
        """Keep these members of the batch, in this order. Ids, times and use counts stay."""
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
        """The whole batch `count` times over, as `Tensor.repeat`. A batch of 1 is not copied before the next write."""
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

    # --- saving ---

    def config(self) -> dict[str, Any]:
        """`{"bank": what the constructor takes, "state": counters}`. The device and the folder are not kept."""
        options = {name: getattr(self, name) for name in _OPTIONS if name != "value_dim"}
        options |= {
            "value_dim": self.value_dims,
            "dtype": _dtype_name(self.dtype),
            "storage_dtype": None if self._storage_dtype is None else _dtype_name(self._storage_dtype),
            "policy": policy_config(self.policy),
            "stream_block": self.stream_block,
            "count_usage": self._count_usage,
        }
        groups = [{"group": name, **ring.counters()} for name, ring in self._named()]
        next_id = int(self._next_id) if self.mode == "static" else self._ids.next
        return {"bank": options, "state": {"next_id": next_id, "groups": groups}}

    def tensors(self) -> dict[str, Tensor]:
        """Copies: "GROUP.key", "GROUP.value.NAME", "GROUP.id", ".time", ".use", ".life", ".weight", ".permanent"."""
        found: dict[str, Tensor] = {}
        for name, ring in self._named():
            tensors, tags = ring.content()
            prefix = _escaped(name)
            found |= {f"{prefix}.{_field(field)}": tensor for field, tensor in (tensors | tags.tensors()).items()}
        return found

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """An empty bank on the CPU.

        Raises:
            InputError: options that are missing, unknown or unfit.
        """
        options = dict(config.get("bank", {}))
        known = {*_OPTIONS, "dtype", "storage_dtype", "policy", "stream_block", "count_usage"}
        if wrong := sorted(set(options) - known):
            raise InputError(f"a memory bank has no option {', '.join(wrong)}; known: {', '.join(sorted(known))}")
        if missing := [name for name in ("key_dim", "value_dim") if name not in options]:
            raise InputError(f"the config of a memory bank lacks {', '.join(missing)}")
        for name in ("dtype", "storage_dtype"):
            if options.get(name) is not None:
                options[name] = _dtype_of(options[name])
        return cls(**options)

    def take_over(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from `config()` and `tensors()` of a bank of equal sizes; the batch becomes the saved one's.

        Raises:
            InputError: tensors that are missing or do not fit. Nothing has changed then.
        """
        self.adopt(self.check_content(config, tensors))

    def check_content(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Content:
        """The first half of `restore`: all that can fail."""
        options, state = config.get("bank", {}), config.get("state", {})
        mine = self.config()["bank"]
        sizes = ("key_dim", "value_dim", "heads", "mode", "capacity")
        if differ := [name for name in sizes if options.get(name) != mine[name]]:
            raise InputError(
                "this is the content of another bank: "
                + "; ".join(f"{name} is {options.get(name)}, expected {mine[name]}" for name in differ)
            )
        layout = replace(self._layout(), batch=options.get("batch", self.batch))
        groups = [(saved, *_content(saved, tensors, layout)) for saved in state.get("groups", [])]
        return Content(layout.batch, state.get("next_id", 0), groups)

    def adopt(self, content: Content) -> None:
        """The second half of `restore`."""
        self.batch = content.batch
        self._ids.next = content.next_id
        self._crowded, self._rings = False, {}
        if self.mode == "static":
            self.reset()
            for saved, tensors, tags in content.groups:
                if (ring := self._static_ring(saved["group"])).layout.batch != self.batch:
                    del self._static[saved["group"]]
                    ring = self._static_ring(saved["group"])
                ring.restore(saved, tensors, tags)
            self._next_id.fill_(content.next_id)
            return
        if self.max_bytes is not None and self.placement == "device":
            slots = sum(saved["room"] + saved["size"] for saved, _, _ in content.groups)
            self._crowded = slots * self._layout().element_bytes > self.max_bytes
        for saved, tensors, tags in content.groups:
            self._rings[saved["group"]] = Ring.restored(self._layout(), self.capacity, saved, tensors, tags)


def _content(saved: Mapping[str, Any], tensors: Mapping[str, Tensor], layout: Layout) -> tuple[dict[str, Tensor], Tags]:
    """The tensors and tags of one group.

    Raises:
        InputError: some are missing or have another shape.
    """
    prefix = _escaped(saved["group"])
    static = "written" in saved
    count = None if static else saved["pinned"] + saved["count"]
    names = {name: f"{prefix}.{_field(name)}" for name in (*layout.widths, *Tags.empty().tensors())}
    if not static and not (
        0 <= saved["pinned"] <= saved["room"]
        and 0 <= saved["count"] <= saved["size"]
        and 0 <= saved["head"] <= max(0, saved["size"] - 1)
    ):
        raise InputError(f"the counters of group {saved['group']!r} contradict each other; save the memory again")
    if missing := [name for name in names.values() if name not in tensors]:
        raise InputError(f"the content of the memory lacks {', '.join(missing)}; save it again")
    found = {name: tensors[place] for name, place in names.items()}
    count = len(found["id"]) if count is None else count
    for name, tensor in found.items():
        shape = (layout.batch, layout.heads, count, layout.widths[name]) if name in layout.widths else (count,)
        if tensor.shape != shape:
            raise InputError(f"{names[name]} is {tuple(tensor.shape)}; expected {shape}; save the memory again")
    return {name: found.pop(name) for name in layout.widths}, Tags.from_tensors(found)


def _escaped(name: Group) -> str:
    """A group in a flat name: numbers as they are, texts marked, and without dots."""
    return str(name) if isinstance(name, int) else "~" + _quoted(name)


def _field(name: str) -> str:
    head, dot, rest = name.partition(".")
    return head + dot + _quoted(rest)


def _quoted(text: str) -> str:
    return quote(text, safe="").replace(".", "%2E")


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype_of(name: str) -> torch.dtype:
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype):
        raise InputError(f"there is no dtype {name!r}; known: float32, bfloat16, float16, float64")
    return dtype


def _device(device: torch.device | str) -> torch.device:
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:  # equal to the device of its tensors
        device = torch.device("cuda", torch.cuda.current_device())
    return device
