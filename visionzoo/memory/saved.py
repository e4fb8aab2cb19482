"""How a tensor memory is saved: options and counters as a config, content as plain tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import torch
from torch import Tensor

from ..errors import InputError
from .buffers import Buffers, Layout, Tags
from .policies import policy_config
from .ring import Group, Ring, RingGroups

__all__ = ["SavedGroups"]

_OPTIONS = ("key_dim", "value_dim", "capacity", "permanent", "batch", "heads", "mode", "max_bytes", "placement")


class Content(NamedTuple):
    """The checked input of `RingGroups.take_over`: counters, tensors and tags of each group."""

    batch: int
    next_id: int
    groups: list[tuple[Mapping[str, Any], dict[str, Tensor], Tags]]


class SavedGroups(RingGroups):
    """Adds config and content to the groups of a `TensorBank`."""

    def config(self) -> dict[str, Any]:
        """`{"bank": constructor arguments, "state": counters}`, without the device and the folder."""
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
            InputError: missing, unknown or invalid options.
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
        """Continue from `config()` and `tensors()` of a bank of equal sizes; the batch size is taken from it.

        Raises:
            InputError: tensors are missing or do not fit; the bank is unchanged then.
        """
        self.adopt(self.check_content(config, tensors))

    def check_content(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Content:
        """The first half of `take_over`, with everything that can fail."""
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
        """The second half of `take_over`, which cannot fail."""
        self.batch = content.batch
        self._ids.next = content.next_id
        self._over_limit, self._rings = False, {}
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
            self._over_limit = slots * self._layout().element_bytes > self.max_bytes
        for saved, tensors, tags in content.groups:
            self._rings[saved["group"]] = _restored(self._layout(), self.capacity, saved, tensors, tags)


def _restored(
    layout: Layout, capacity: int | None, counters: Mapping[str, Any], tensors: Mapping[str, Tensor], tags: Tags
) -> Ring:
    """Rebuild a ring from `counters()` and `content()`, with each element in its old slot."""
    ring = Ring(layout, 0, capacity)
    ring.room, ring.size, ring.head = counters["room"], counters["size"], counters["head"]
    ring.pinned, ring.count, ring.writes = counters["pinned"], counters["count"], counters["writes"]
    ring.buffers = Buffers(layout, ring.room + ring.size)
    start = 0
    for run in ring.parts():
        stop = start + run.stop - run.start
        part = {name: tensor[:, :, start:stop] for name, tensor in tensors.items()}
        ring.buffers.put(run.start, part, tags[start:stop])
        start = stop
    return ring


def _content(saved: Mapping[str, Any], tensors: Mapping[str, Tensor], layout: Layout) -> tuple[dict[str, Tensor], Tags]:
    """The tensors and tags of one group.

    Raises:
        InputError: a tensor is missing or has another shape.
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
    """A group as part of a flat name: integers unchanged, strings marked and without dots."""
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
