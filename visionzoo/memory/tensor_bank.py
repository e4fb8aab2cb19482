"""Keys and values in time: a ring buffer per group that is written in place and read by attention."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..attention import Segment, segment_attention
from ..errors import InputError
from .bank import ReadResult
from .buffers import Elements, Tags
from .policies import Fifo, Policy, policy_from_config
from .reading import Selection, check_query, read
from .ring import DEFAULT_GROUP, Group, Ring
from .saved import SavedGroups

__all__ = ["Elements", "TensorBank"]


class TensorBank(SavedGroups):
    """Keys and named values, written in place into a ring buffer per group, read by attention without joining them.

    Layout (batch, heads, elements, width). Bookkeeping is per element and shared by batch and heads: an id (rising in the
    order of writing), a time, a group, whether it is permanent, its use count and life. What one `write` puts in is a
    *frame*: it shares a time unless times are given per element. Groups are separate: each has its own ring, capacity
    and policy decision; permanent elements never leave by a policy and do not count.

    *Reading order* is that of groups as first written, in each the permanent elements, then the others, oldest first.
    Masks, `ReadResult.ids` and `ids()` follow it.

    Scores are dot products. A distance fits by wider keys and queries: XMem's -s sum_c e_c (k_c - q_c)^2 (shrinkage s of
    the key, selection e of the query; arXiv:2207.07115, Eq. 2) is k' . q' with k' = [2 s k, -s k^2, -s] and
    q' = [e q, e, sum_c e_c q_c^2].

    Writing under autograd: written values are detached, unless `detach=False`; then gradients flow through the memory and
    every write copies the buffers, as the graph needs the old ones. A read that autograd goes back through makes the next
    write copy them once.

    Static mode (experimental: no system uses it yet) is for `torch.compile`: shapes never change, counters are tensors, and
    `write`, `segments` and `read` do not branch on the content. It supports first-in-first-out only, takes times as tensors
    (a Python number is a constant of the traced code), and is for inference. Write each group once before compiling.

    Args:
        key_dim: Dk.
        value_dim: Dv, or name -> Dv for several values per key.
        capacity: most elements of a group, without the permanent ones. None: as many as the policy leaves.
        permanent: slots for permanent elements of a group made in advance; more are made in dynamic mode. If it is
            just what is used, `view` of permanent and other elements together needs no copy.
        batch, heads: B and H. A query may have more heads, a multiple, and, if B is 1, any batch.
        device: where reads compute.
        dtype: of what `view` gives.
        storage_dtype: of what is stored, e.g. bfloat16; default `dtype`. Reads widen it piece by piece.
        policy: what leaves when a group is full; or its config. Default Fifo(capacity), or Never() without a capacity.
        mode: "dynamic" or "static".
        max_bytes: above so many bytes of buffers, all of them live in main memory and reads stream them.
        placement: "device"; "host" (main memory); "disk" (mapped from files, which go with the bank).
        folder: where "disk" makes its temporary folder.
        stream_block: keys per piece that streams to the device or is converted.
        count_usage: reads count usage. Default: if the policy needs it.

    Attributes:
        on_evict: called with the victims of a policy (`Elements`) before they are dropped. If it raises, nothing has
            changed. Not called by `purge` and `reset`.

    Raises:
        InputError: sizes, names or options that do not fit together.
    """

    kind: ClassVar[str] = "tensor"

    def ids(self, group: Group | None = None, where: Policy | None = None) -> Tensor:
        """(N,) int64 ids in reading order."""
        if self.mode == "static":
            self._dynamic_only("where", where is None)
            found = [ring.read_tags().ids for name, ring in self._static.items() if group in (None, name)]
        else:
            found = [selection.ids() for selection in self.select(group, where)]
        return torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *found]))

    # --- writing ---

    def write(
        self,
        key: Tensor,
        value: Tensor | Mapping[str, Tensor],
        *,
        group: Group | None = None,
        time: float | Tensor | Sequence[float] | None = None,
        permanent: bool = False,
        detach: bool = True,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Write N elements. The work is O(N), but for the rare times that a ring grows or a policy other than Fifo evicts.

        If the group becomes too full, the policy chooses among the old *and* the new elements: of a write that exceeds the
        capacity, Fifo keeps the newest elements.

        Args:
            key: (B or 1, H, N, Dk); for one head the head axis may be left out.
            value: (B or 1, H, N, Dv), or name -> values.
            group: default 0.
            time: of the frame, or (N,) one per element. Default: the number of writes to the group before.
            permanent: never evicted by a policy.
            detach: False lets gradients flow through the memory.
            weight: (N,) how many originals each element stands for; default 1.

        Returns:
            (N,) int64 ids of all that was written, kept or not; on the CPU, in static mode on the device.

        Raises:
            InputError: shapes that do not fit, or a policy that leaves more than the capacity. Nothing has changed then.
        """
        sources = self._sources(key, value, detach)
        name = DEFAULT_GROUP if group is None else group
        if self.mode == "static":
            self._dynamic_only("detach=False and weight", detach and weight is None)
            if isinstance(time, Sequence):
                time = torch.tensor(time, dtype=torch.float64)
            return self._static_ring(name).write(sources, time, permanent)
        if not detach and self.placement == "disk":
            raise InputError(
                "a bank on disk cannot keep the autograd graph; write with detach=True, or use another placement"
            )
        new = key.shape[-2]
        ring = self._rings.get(name)
        ring = Ring(self._layout(), self.permanent, self.capacity) if ring is None else ring
        tags = Tags.empty(new)
        tags.times[:] = ring.writes if time is None else _per_element("time", time, new)
        if weight is not None:
            tags.weights[:] = _per_element("weight", weight, new)
        tags.permanent[:] = permanent
        tags.ids[:] = self._ids.take(new)
        ids = torch.from_numpy(tags.ids.copy())
        if not permanent:
            sources, tags = self._make_room(name, ring, sources, tags)
        self._rings[name] = ring
        self._stay_within_bytes(ring, len(tags), permanent)
        ring.append(sources, tags, permanent)
        ring.writes += 1
        return ids

    def _sources(self, key: Tensor, value: Tensor | Mapping[str, Tensor], detach: bool) -> dict[str, Tensor]:
        values = value if isinstance(value, Mapping) else {next(iter(self.value_dims)): value}
        if values.keys() != self.value_dims.keys() or (isinstance(value, Tensor) and len(self.value_dims) > 1):
            raise InputError(
                f"got {'values ' + ', '.join(values) if isinstance(value, Mapping) else 'one value without a name'}; "
                f"this bank keeps {', '.join(self.value_dims)}"
            )
        found = {}
        for name, tensor, width in [("key", key, self.key_dim)] + [
            (f"value.{name}", values[name], width) for name, width in self.value_dims.items()
        ]:
            if tensor.ndim == 3 and self.heads == 1:
                tensor = tensor.unsqueeze(1)
            fits = tensor.ndim == 4 and tensor.shape[0] in (1, self.batch) and tensor.shape[1] == self.heads
            if not fits or tensor.shape[3] != width or tensor.shape[2] != key.shape[-2]:
                raise InputError(
                    f"{name} is {tuple(tensor.shape)}; expected (batch {self.batch}{'' if self.batch == 1 else ' or 1'}, "
                    f"heads {self.heads}, elements {key.shape[-2]}, width {width})"
                )
            found[name] = tensor.detach() if detach else tensor
        return found

    def _make_room(
        self, group: Group, ring: Ring, sources: dict[str, Tensor], tags: Tags
    ) -> tuple[dict[str, Tensor], Tags]:
        """Drop what the policy does not keep of old and new elements; returns the new ones that stay."""
        old, new, policy = ring.count, len(tags), self.policy
        if policy.surely_keeps(old + new):
            self._check_capacity(group, old + new)
            return sources, tags
        if isinstance(policy, Fifo):  # the oldest go, whatever the tags of a million elements say
            drop = old + new - policy.low
            if self.on_evict is not None:
                self.on_evict(self._victims(group, ring, np.arange(drop), sources, tags))
            ring.advance(min(drop, old))
            return _picked(sources, tags, slice(max(0, drop - old), new))
        kept = policy.keep(Tags.join([ring.read_tags()[ring.pinned :], tags]))
        self._check_capacity(group, len(kept))
        if len(kept) == old + new:
            return sources, tags
        if self.on_evict is not None:
            victims = np.setdiff1d(np.arange(old + new), kept, assume_unique=True)
            self.on_evict(self._victims(group, ring, victims, sources, tags))
        border = int(np.searchsorted(kept, old))
        if border < old:
            ring.keep(np.concatenate([np.arange(ring.pinned), kept[:border] + ring.pinned]))
        return _picked(sources, tags, kept[border:] - old)

    def _check_capacity(self, group: Group, count: int) -> None:
        if self.capacity is not None and count > self.capacity:
            raise InputError(
                f"group {group!r} is full: {count} elements to keep by {self.policy}, but the capacity is "
                f"{self.capacity}; raise it, choose a policy that evicts, or purge"
            )

    def _victims(
        self, group: Group, ring: Ring, victims: NDArray[np.int64], sources: dict[str, Tensor], tags: Tags
    ) -> Elements:
        border = int(np.searchsorted(victims, ring.count))
        old, new = victims[:border] + ring.pinned, victims[border:] - ring.count
        held = ring.gather(old)
        if len(new):
            for name, fresh in _picked(sources, tags, new)[0].items():
                fresh = fresh.to(held[name].device, held[name].dtype).expand(self.batch, -1, -1, -1)
                held[name] = torch.cat([held[name], fresh], 2)
        return self._elements(held, Tags.join([ring.read_tags()[old], tags[new]]), group)

    def _stay_within_bytes(self, ring: Ring, new: int, permanent: bool) -> None:
        if self.max_bytes is None or self.placement != "device" or self._crowded:
            return
        slots = sum(other.room + other.size for other in self._rings.values()) + ring.missing(new, permanent)
        if slots * self._layout().element_bytes > self.max_bytes:
            self._crowded = True
            self._relocate()

    # --- reading ---

    def select(self, group: Group | None = None, where: Policy | Mapping[str, Any] | None = None) -> list[Selection]:
        """The elements that a read would look at. `where` is asked within each group, about all of its elements."""
        self._dynamic_only("select")
        rule = None if where is None else policy_from_config(where)
        found = []
        for name, ring in self._rings.items():
            if group in (None, name) and len(ring):
                chosen = None if rule is None or rule.surely_keeps(len(ring)) else rule.keep(ring.read_tags())
                found.append(Selection(ring, chosen))
        return found

    def segments(
        self, group: Group | None = None, where: Policy | Mapping[str, Any] | None = None, value: str | None = None
    ) -> list[Segment]:
        """Keys and values as pieces, for `segment_attention` together with others. Not copied unless scattered.

        They show later writes. In static mode: whole buffers, with the number of valid elements as a tensor.
        """
        name = self.value_name(value)
        if self.mode == "static":
            self._dynamic_only("where", where is None)
            pieces = [p for key, ring in self._static.items() if group in (None, key) for p in ring.segments(name)]
        else:
            pieces = [piece for selection in self.select(group, where) for piece in selection.segments(name)]
        return pieces or [self.nothing(value)]

    def read(
        self,
        query: Tensor,
        *,
        group: Group | None = None,
        where: Policy | Mapping[str, Any] | None = None,
        top_k: int | None = None,
        mask: Tensor | None = None,
        scale: float | None = None,
        value: str | None = None,
        backend: str = "auto",
        count_usage: bool | None = None,
        usage_queries: int | None = None,
    ) -> ReadResult:
        """Attention of `query` over the elements: one softmax over all of them, wherever they lie.

        Args:
            query: (B, H, L, Dk) on the bank's device, in any floating dtype. Grouped heads and broadcast batches as in
                `attention`.
            group: None reads all groups together.
            where: a policy that selects which elements take part, within each group.
            top_k: only the k best keys of each query and head take part. Exact; of equal scores any may be taken.
            mask: as for `attention`; broadcasts to (B, H, L, N), in reading order.
            scale: default 1 / sqrt(Dk).
            value: which of several values.
            backend: of the attention (not for `top_k`).
            count_usage: add to use counts and lives. Default: as the bank was made. Without `top_k` it takes a second
                pass over the keys.
            usage_queries: count over at most so many queries, evenly spaced, scaled up (not for `top_k`).

        Returns:
            `ReadResult`; zeros and -inf where there is no element. Gradients reach the query, the mask, and what was
            written with `detach=False`.

        Raises:
            InputError: shapes or names that do not fit.
        """
        check_query(query, self.batch, self.heads, self.key_dim)
        name = self.value_name(value)
        if self.mode == "static":
            options = {"where": where, "top_k": top_k, "mask": mask, "count_usage": count_usage or None}
            return self._read_static(query, group, name, backend, scale, **options)
        counts = self.counts_usage if count_usage is None else count_usage
        selections = self.select(group, where)
        for selection in selections:
            selection.counts = counts
        return read(
            query,
            selections,
            self.nothing(value),
            name,
            top_k=top_k,
            mask=mask,
            scale=scale,
            backend=backend,
            usage_queries=usage_queries,
            counts=counts,
            block=self.stream_block,
        )

    def _read_static(
        self, query: Tensor, group: Group | None, name: str, backend: str, scale: float | None, **others: Any
    ) -> ReadResult:
        if wrong := [option for option, given in others.items() if given is not None]:
            self._dynamic_only(", ".join(wrong))
        pieces = [p for key, ring in self._static.items() if group in (None, key) for p in ring.segments(name)]
        out, lse = segment_attention(
            query, pieces or [self.nothing(name.removeprefix("value."))], scale=scale, backend=backend, return_lse=True
        )
        return ReadResult(out, lse)

    def view(
        self, where: Policy | Mapping[str, Any] | None = None, group: Group | None = None, *, copy: bool = False
    ) -> Elements:
        """Keys and values as tensors, in the order of writing (permanent elements at the time they were written too).

        On the bank's device, in its `dtype`. Without a copy where the elements lie side by side in that order: then
        later writes show in it, and a graph through it cannot be gone back through after one; `copy=True` avoids both.
        """
        if self.mode == "static":
            self._dynamic_only("where", where is None)
            parts = [(ring, np.arange(len(ring))) for name, ring in self._static.items() if group in (None, name)]
        else:
            parts = [
                (s.ring, np.arange(len(s.ring)) if s.chosen is None else s.chosen) for s in self.select(group, where)
            ]
        tags = Tags.join([ring.tags_of(chosen) for ring, chosen in parts]) if parts else Tags.empty()
        order = np.argsort(tags.ids, kind="stable")
        tags = tags[order]
        if len(parts) == 1:
            ring, chosen = parts[0][0], parts[0][1][order]
            slots = ring.slots(chosen) if isinstance(ring, Ring) and not copy else np.zeros(0, np.int64)
            if len(slots) and (np.diff(slots) == 1).all():
                run = slice(int(slots[0]), int(slots[-1]) + 1)
                tensors = {name: tensor[:, :, run] for name, tensor in ring.tensors.items()}
                return self._elements(tensors, tags, group)
            return self._elements(ring.gather(chosen), tags, group)
        gathered = [ring.gather(chosen) for ring, chosen in parts]
        index = torch.from_numpy(order)
        joined = {}
        for field in self._layout().widths:
            tensor = torch.cat([part[field] for part in gathered], 2) if gathered else self._no_rows(field)
            joined[field] = tensor.index_select(2, index.to(tensor.device))
        return self._elements(joined, tags, group)

    def _no_rows(self, field: str) -> Tensor:
        layout = self._layout()
        return torch.zeros(layout.batch, layout.heads, 0, layout.widths[field], dtype=layout.dtype, device=layout.home)

    def _elements(self, tensors: Mapping[str, Tensor], tags: Tags, group: Group | None) -> Elements:
        """The stored tensors ("key", "value.NAME") and copies of tags."""
        moved = {name: tensor.to(self.device, self.dtype) for name, tensor in tensors.items()}
        keys, values = moved.pop("key"), {name.removeprefix("value."): tensor for name, tensor in moved.items()}
        ids, times, uses, lives, weights, _ = (torch.from_numpy(array.copy()) for array in tags.arrays())
        return Elements(keys, values, ids, times, uses, lives, weights, group)

    def nothing(self, value: str | None = None) -> Segment:
        """A segment without keys, of the bank's widths."""
        return Segment(self._no_rows("key").to(self.device), self._no_rows(self.value_name(value)).to(self.device))

    def value_name(self, name: str | None) -> str:
        """What the buffer of a value is called.

        Raises:
            InputError: an unknown name, or None where there are several.
        """
        if name is None and len(self.value_dims) == 1:
            name = next(iter(self.value_dims))
        if name not in self.value_dims:
            raise InputError(f"value={name!r}; choose the value to read: {', '.join(self.value_dims)}")
        return f"value.{name}"

    # --- dropping ---

    def evict(self, policy: Policy | Mapping[str, Any] | None = None) -> Tensor:
        """Drop what the policy (default: the bank's own) does not keep, in each group. Returns the ids, rising."""
        self._dynamic_only("evict")
        rule = self.policy if policy is None else policy_from_config(policy)
        evicted = [np.zeros(0, np.int64)]
        for name, ring in self._rings.items():
            tags = ring.read_tags()[ring.pinned :]
            kept = rule.keep(tags)
            if len(kept) == len(tags):
                continue
            victims = np.setdiff1d(np.arange(len(tags)), kept, assume_unique=True)
            evicted.append(tags.ids[victims])
            if self.on_evict is not None:
                self.on_evict(self._elements(ring.gather(victims + ring.pinned), tags[victims], name))
            ring.keep(np.concatenate([np.arange(ring.pinned), kept + ring.pinned]))
        return torch.from_numpy(np.sort(np.concatenate(evicted)))

    def purge(self, groups: Group | Iterable[Group] | None = None, *, ids: Tensor | Sequence[int] | None = None) -> int:
        """Drop whole groups, or elements by id; permanent ones too. Returns how many were dropped.

        Unknown groups and ids are ignored.
        """
        self._dynamic_only("purge")
        before = len(self)
        named = [groups] if isinstance(groups, int | str) else list(groups or ())
        for group in named:
            self._rings.pop(group, None)
        if ids is not None:
            gone = torch.as_tensor(ids, dtype=torch.int64).cpu().numpy()
            for ring in self._rings.values():
                kept = np.flatnonzero(~np.isin(ring.read_tags().ids, gone))
                if len(kept) < len(ring):
                    ring.keep(kept)
        return before - len(self)


def _picked(
    sources: dict[str, Tensor], tags: Tags, chosen: slice | NDArray[np.int64]
) -> tuple[dict[str, Tensor], Tags]:
    if isinstance(chosen, np.ndarray) and len(chosen) == len(tags):
        return sources, tags
    if isinstance(chosen, slice):
        return {name: source[:, :, chosen] for name, source in sources.items()}, tags[chosen]
    index = torch.from_numpy(chosen)
    return {n: source.index_select(2, index.to(source.device)) for n, source in sources.items()}, tags[chosen]


def _per_element(name: str, given: float | Tensor | Sequence[float], count: int) -> NDArray[np.float64]:
    array = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given, np.float64)
    if array.shape not in ((), (count,)) or not np.isfinite(array).all():
        raise InputError(f"{name} has shape {array.shape}; expected one finite number, or {count} of them")
    return array
