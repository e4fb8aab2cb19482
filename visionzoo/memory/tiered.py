"""Working and long-term memory: elements evicted from one tier are condensed into the next; a read covers all tiers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..attention import Segment
from ..errors import InputError
from .bank import MemoryBank, ReadResult
from .buffers import Elements
from .consolidate import Consolidator, consolidator_config, consolidator_from_config
from .policies import Policy
from .reading import check_query, read
from .ring import Group
from .tensor_bank import TensorBank

__all__ = ["TieredBank"]


class TieredBank(MemoryBank):
    """A list of `TensorBank`s, from working to long-term memory.

    Elements that a tier's policy evicts go through that tier's consolidator into the next tier; those that the last tier
    evicts are lost. Use a policy that evicts many elements at a time (`Fifo(n, hysteresis)`), so that a consolidator has
    something to condense.

    >>> working = TensorBank(64, 512, policy=Fifo(10 * 480, hysteresis=5 * 480))
    >>> long = TensorBank(64, 512, policy=Usage(10_000, hysteresis=2_000))
    >>> memory = TieredBank([working, long], [Prototypes(128)])

    Args:
        tiers: new dynamic banks of equal sizes. This bank takes ownership of them: they count usage if their consolidator
            needs it, and share one counter of ids.
        consolidators: one consolidator, or its config, for each pair of neighbouring tiers.

    Raises:
        InputError: tiers that do not fit together, or that belong to another bank.
    """

    kind: ClassVar[str] = "tiered"

    def __init__(
        self, tiers: Sequence[TensorBank], consolidators: Sequence[Consolidator | Mapping[str, Any]] = ()
    ) -> None:
        self.tiers = list(tiers)
        self.consolidators = [consolidator_from_config(consolidator) for consolidator in consolidators]
        if not self.tiers or len(self.consolidators) != len(self.tiers) - 1:
            raise InputError(
                f"{len(self.tiers)} tiers and {len(self.consolidators)} consolidators; "
                "expected one consolidator between each two tiers"
            )
        first = self.tiers[0]
        for number, tier in enumerate(self.tiers):
            sizes = [(t.key_dim, t.value_dims, t.batch, t.heads, t.device) for t in (first, tier)]
            if sizes[0] != sizes[1]:
                raise InputError(
                    f"tier {number} has (key_dim, value_dim, batch, heads, device) {sizes[1]}, not {sizes[0]}"
                )
            if tier.mode != "dynamic" or len(tier) or tier.on_evict is not None or tier in self.tiers[:number]:
                raise InputError(f"tier {number} must be a dynamic bank, empty, and belong to no other bank")
        for number, consolidator in enumerate(self.consolidators):
            tier = self.tiers[number]
            tier.counts_usage = tier.counts_usage or consolidator.needs_usage
            tier.on_evict = lambda leaving, number=number: self._pass_on(number, leaving)
        for tier in self.tiers:
            tier.share_ids(first)

    def _pass_on(self, number: int, leaving: Elements) -> None:
        entering = self.consolidators[number](leaving)
        if entering is None or not len(entering):
            return
        tensors = (entering.keys, *entering.values.values())
        self.tiers[number + 1].write(
            entering.keys,
            entering.values,
            group=leaving.group,
            time=entering.times,
            weight=entering.weights,
            detach=not any(tensor.requires_grad for tensor in tensors),
        )

    def write(
        self,
        key: Tensor,
        value: Tensor | Mapping[str, Tensor],
        *,
        group: Group | None = None,
        time: float | Tensor | Sequence[float] | None = None,
        permanent: bool = False,
        detach: bool = True,
    ) -> Tensor:
        """Write into the first tier; see `TensorBank.write`."""
        return self.tiers[0].write(key, value, group=group, time=time, permanent=permanent, detach=detach)

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
        """Attend with one softmax over the elements of all tiers; see `TensorBank.read`.

        Reading order is the order of the tiers. `where` is applied to each tier and group. Usage is counted for the tiers
        whose policy or consolidator needs it.
        """
        first = self.tiers[0]
        check_query(query, first.batch, first.heads, first.key_dim)
        selections = []
        counts = [tier.counts_usage if count_usage is None else count_usage for tier in self.tiers]
        for tier, tier_counts in zip(self.tiers, counts, strict=True):
            for selection in tier.select(group, where):
                selection.counts = tier_counts
                selections.append(selection)
        return read(
            query,
            selections,
            first.nothing(value),
            first.value_name(value),
            top_k=top_k,
            mask=mask,
            scale=scale,
            backend=backend,
            usage_queries=usage_queries,
            counts=any(counts),
            block=min(tier.stream_block for tier in self.tiers),
        )

    def segments(
        self, group: Group | None = None, where: Policy | Mapping[str, Any] | None = None, value: str | None = None
    ) -> list[Segment]:
        """The pieces of all tiers; see `TensorBank.segments`."""
        return [segment for tier in self.tiers for segment in tier.segments(group, where, value)]

    def ids(self, group: Group | None = None, where: Policy | None = None) -> Tensor:
        """(N,) int64 ids in reading order."""
        return torch.cat([tier.ids(group, where) for tier in self.tiers])

    def evict(self, policy: Policy | Mapping[str, Any] | None = None) -> Tensor:
        """Evict from the first tier now, by its policy or another one. Returns the evicted ids."""
        return self.tiers[0].evict(policy)

    def purge(self, groups: Group | Iterable[Group] | None = None, *, ids: Tensor | Sequence[int] | None = None) -> int:
        """Drop groups or elements in all tiers without consolidating them. Returns the number of dropped elements."""
        named = groups if groups is None or isinstance(groups, int | str) else list(groups)
        return sum(tier.purge(named, ids=ids) for tier in self.tiers)

    def reset(self, group: Group | None = None, *, keep_permanent: bool = False) -> None:
        """Forget a group, or all groups; `keep_permanent` keeps permanent elements."""
        for tier in self.tiers:
            tier.reset(group, keep_permanent=keep_permanent)

    def __len__(self) -> int:
        return sum(len(tier) for tier in self.tiers)

    @property
    def nbytes(self) -> int:
        """Size in bytes of the keys and values of all elements."""
        return sum(tier.nbytes for tier in self.tiers)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move all tiers; see `TensorBank.to`."""
        for tier in self.tiers:
            tier.to(device, dtype)
        return self

    def offload(self) -> None:
        """See `TensorBank.offload`."""
        for tier in self.tiers:
            tier.offload()

    def prefetch(self) -> None:
        """See `TensorBank.prefetch`."""
        for tier in self.tiers:
            tier.prefetch()

    def detach(self) -> None:
        """See `TensorBank.detach`."""
        for tier in self.tiers:
            tier.detach()

    def batch_select(self, indices: Tensor | Sequence[int]) -> None:
        """See `TensorBank.batch_select`."""
        for tier in self.tiers:
            tier.batch_select(indices)

    def batch_repeat(self, count: int) -> None:
        """See `TensorBank.batch_repeat`."""
        for tier in self.tiers:
            tier.batch_repeat(count)

    # --- saving ---

    def config(self) -> dict[str, Any]:
        return {
            "tiers": [tier.config() for tier in self.tiers],
            "consolidators": [consolidator_config(consolidator) for consolidator in self.consolidators],
        }

    def tensors(self) -> dict[str, Tensor]:
        """Copies: "TIER.GROUP.key" and so on, see `TensorBank.tensors`."""
        return {
            f"{number}.{name}": tensor
            for number, tier in enumerate(self.tiers)
            for name, tensor in tier.tensors().items()
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """An empty bank on the CPU."""
        return cls([TensorBank.from_config(tier) for tier in config.get("tiers", [])], config.get("consolidators", []))

    def take_over(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Continue from `config()` and `tensors()` of a bank with equal tiers.

        Raises:
            InputError: tensors are missing or do not fit; the bank is unchanged then.
        """
        saved = config.get("tiers", [])
        if len(saved) != len(self.tiers):
            raise InputError(f"this is the content of {len(saved)} tiers; expected {len(self.tiers)}")
        contents = []
        for number, (tier, state) in enumerate(zip(self.tiers, saved, strict=True)):
            prefix = f"{number}."
            own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            contents.append(tier.check_content(state, own))
        for tier, content in zip(self.tiers, contents, strict=True):
            tier.adopt(content)
