"""Keys and values over time: a ring buffer per group that is written in place and read by attention."""

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
    """Keys and named values, written in place into a ring buffer per group and read by attention without concatenation.

    The layout is (batch, heads, elements, width). Batch and heads share the bookkeeping, which is per element: an id
    (ascending in the order of writing), a time, a group, whether it is permanent, its use count and its life. The elements
    of one `write` form a *frame*: they share a time unless times are given per element. Groups are independent: each has
    its own ring and capacity, and the policy applies to each separately. Permanent elements are never evicted by a policy
    and do not count towards the capacity.

    *Reading order* is the order in which the groups were first written; within a group, permanent elements come first, then
    the others, oldest first. Masks, `ReadResult.ids` and `ids()` follow it.

    Scores are dot products. A distance can be expressed with wider keys and queries: XMem's -s sum_c e_c (k_c - q_c)^2
    (shrinkage s of the key, selection e of the query; arXiv:2207.07115, Eq. 2) is k' . q' with k' = [2 s k, -s k^2, -s]
    and q' = [e q, e, sum_c e_c q_c^2].

    Autograd: written values are detached unless `detach=False`. With it, gradients flow through the memory, and every write
    copies the buffers, as the graph needs the old ones. After a read that is part of an autograd graph, the next write
    copies them once.

    Static mode (experimental: no system uses it yet) is for `torch.compile`: shapes never change, counters are tensors, and
    `write`, `segments` and `read` do not branch on the content. It supports first-in-first-out only, takes times as tensors
    (a Python number would be a constant in the traced code), and is for inference. Write each group once before compiling.

    Args:
        key_dim: Dk.
        value_dim: Dv, or name -> Dv for several values per key.
        capacity: maximum number of elements in a group, without permanent ones. None: only the policy limits it.
        permanent: number of slots to allocate per group for permanent elements; dynamic mode allocates more if needed. If
            all of them are used, a `view` of permanent and other elements together needs no copy.
        batch, heads: B and H. A query may have a multiple of H heads and, if B is 1, any batch.
        device: device on which reads compute.
        dtype: dtype of the tensors that `view` returns.
        storage_dtype: dtype of the stored tensors, e.g. bfloat16; default `dtype`. Reads convert them piece by piece.
        policy: policy for evictions when a group is full, or its config. Default Fifo(capacity), or Never() without a
            capacity.
        mode: "dynamic" or "static".
        max_bytes: if the buffers need more bytes than this, all of them move to main memory and reads stream them.
        placement: "device"; "host" (main memory); "disk" (memory-mapped files, which are deleted with the bank).
        folder: parent of the temporary folder for "disk".
        stream_block: number of keys per piece that is streamed to the device or converted.
        count_usage: whether reads count usage. Default: if the policy needs it.

    Attributes:
        on_evict: called with the elements that a policy evicts (`Elements`) before they are dropped. If it raises, the bank
            is unchanged. It is not called by `purge` and `reset`.

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
        """Write N elements in O(N), except in the rare case that a ring grows or a policy other than Fifo evicts.

        If the group becomes too full, the policy selects from the old *and* the new elements: if one write exceeds the
        capacity, Fifo keeps its newest elements.

        Args:
            key: (B or 1, H, N, Dk); with one head, the head axis may be omitted.
            value: (B or 1, H, N, Dv), or name -> values.
            group: group to write to; default 0.
            time: time of the frame, or (N,) times of the elements. Default: the number of earlier writes to the group.
            permanent: whether the elements are exempt from eviction by a policy.
            detach: False lets gradients flow through the memory.
            weight: (N,) number of originals that each element represents; default 1.

        Returns:
            (N,) int64 ids of all written elements, kept or not, on the CPU (in static mode on the device).

        Raises:
            InputError: shapes do not fit, or the policy leaves more than the capacity; the bank is unchanged then.
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
        """Drop old and new elements that the policy does not keep, and return the new ones that stay."""
        old, new, policy = ring.count, len(tags), self.policy
        if policy.keeps_all(old + new):
            self._check_capacity(group, old + new)
            return sources, tags
        if isinstance(policy, Fifo):  # drops the oldest without looking at the tags of a million elements
            drop = old + new - policy.low
            if self.on_evict is not None:
                self.on_evict(self._victims(group, ring, np.arange(drop), sources, tags))
            ring.advance(min(drop, old))
            return _pick(sources, tags, slice(max(0, drop - old), new))
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
        return _pick(sources, tags, kept[border:] - old)

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
            for name, fresh in _pick(sources, tags, new)[0].items():
                fresh = fresh.to(held[name].device, held[name].dtype).expand(self.batch, -1, -1, -1)
                held[name] = torch.cat([held[name], fresh], 2)
        return self._elements(held, Tags.join([ring.read_tags()[old], tags[new]]), group)

    def _stay_within_bytes(self, ring: Ring, new: int, permanent: bool) -> None:
        if self.max_bytes is None or self.placement != "device" or self._over_limit:
            return
        slots = sum(other.room + other.size for other in self._rings.values()) + ring.missing(new, permanent)
        if slots * self._layout().element_bytes > self.max_bytes:
            self._over_limit = True
            self._relocate()

    # --- reading ---

    def select(self, group: Group | None = None, where: Policy | Mapping[str, Any] | None = None) -> list[Selection]:
        """The elements that a read would consider. `where` is applied to all elements of each group separately."""
        self._dynamic_only("select")
        rule = None if where is None else policy_from_config(where)
        found = []
        for name, ring in self._rings.items():
            if group in (None, name) and len(ring):
                chosen = None if rule is None or rule.keeps_all(len(ring)) else rule.keep(ring.read_tags())
                found.append(Selection(ring, chosen))
        return found

    def segments(
        self, group: Group | None = None, where: Policy | Mapping[str, Any] | None = None, value: str | None = None
    ) -> list[Segment]:
        """Keys and values as pieces, for `segment_attention` together with others. They are copied only if scattered.

        Later writes show in them. Static mode returns whole buffers, with the number of valid elements as a tensor.
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
        """Attention of `query` over the elements, with one softmax over all of them, wherever they are stored.

        Args:
            query: (B, H, L, Dk) on the bank's device, in any floating dtype. Grouped heads and broadcast batches as in
                `attention`.
            group: None reads all groups together.
            where: a policy that selects which elements take part, within each group.
            top_k: only the k best keys of each query and head take part. Exact; ties are broken arbitrarily.
            mask: as for `attention`; broadcasts to (B, H, L, N), in reading order.
            scale: default 1 / sqrt(Dk).
            value: name of the value to read, if there are several.
            backend: backend of the attention (not used with `top_k`).
            count_usage: add to use counts and lives. Default: the bank's setting. Without `top_k`, counting takes a second
                pass over the keys.
            usage_queries: count with at most this many evenly spaced queries and scale up (not used with `top_k`).

        Returns:
            A `ReadResult`; output 0 and lse -inf where there is no element. Gradients reach the query, the mask, and tensors
            that were written with `detach=False`.

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
        """Keys and values as tensors in the order of writing (including permanent elements).

        They are on the bank's device, in its `dtype`. If the elements are contiguous in that order, nothing is copied: later
        writes then show in the result, and backward passes through it fail after one; `copy=True` avoids both.
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
        """A segment without keys, with the bank's widths."""
        return Segment(self._no_rows("key").to(self.device), self._no_rows(self.value_name(value)).to(self.device))

    def value_name(self, name: str | None) -> str:
        """The name of a value's buffer.

        Raises:
            InputError: the name is unknown, or None although there are several values.
        """
        if name is None and len(self.value_dims) == 1:
            name = next(iter(self.value_dims))
        if name not in self.value_dims:
            raise InputError(f"value={name!r}; choose the value to read: {', '.join(self.value_dims)}")
        return f"value.{name}"

    # --- dropping ---

    def evict(self, policy: Policy | Mapping[str, Any] | None = None, group: Group | None = None) -> Tensor:
        """Drop elements that the policy (default: the bank's own) does not keep, in one group or in each.

        Returns:
            Their ids, ascending.
        """
        self._dynamic_only("evict")
        rule = self.policy if policy is None else policy_from_config(policy)
        evicted = [np.zeros(0, np.int64)]
        for name, ring in self._rings.items():
            if group not in (None, name):
                continue
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
        """Drop whole groups, or elements by id, including permanent ones. Returns the number of dropped elements.

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


def _pick(sources: dict[str, Tensor], tags: Tags, chosen: slice | NDArray[np.int64]) -> tuple[dict[str, Tensor], Tags]:
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
