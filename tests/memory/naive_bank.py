"""Reference memory: a list of elements, and one softmax over all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from visionzoo.memory import AnchorsAndRecent, EvenSample, Fifo, Never, TimeWindow, Usage
from visionzoo.memory.policies import Policy


@dataclass
class Element:
    id: int
    time: float
    group: int | str
    permanent: bool
    key: Tensor  # (B, H, Dk)
    value: Tensor  # (B, H, Dv)
    use: float = 0.0
    life: int = 0


def keep(policy: Policy, elements: list[Element]) -> list[Element]:
    """The elements, in the order of writing, that stay."""
    if isinstance(policy, Never):
        return list(elements)
    if isinstance(policy, Fifo):
        return elements if len(elements) <= policy.n else elements[len(elements) - policy.n + policy.hysteresis :]
    if isinstance(policy, Usage):
        if len(elements) <= policy.n:
            return list(elements)
        order = sorted(
            range(len(elements)),
            key=lambda i: (elements[i].use / elements[i].life if elements[i].life else math.inf, elements[i].time, i),
        )
        gone = set(order[: len(elements) - policy.n + policy.hysteresis])
        return [element for i, element in enumerate(elements) if i not in gone]
    if isinstance(policy, TimeWindow):
        low = -math.inf if policy.t0 is None else policy.t0
        high = math.inf if policy.t1 is None else policy.t1
        return [element for element in elements if low <= element.time <= high]
    times = sorted({element.time for element in elements})
    if isinstance(policy, AnchorsAndRecent):
        chosen = times[: policy.n_anchor]
        rest = times[policy.n_anchor :]
        if policy.stride > 1:
            begins = {min(t for t in times if t // policy.stride == u // policy.stride) for u in times}
            rest = [t for t in rest if t in begins or t == times[-1]]
        chosen += rest[len(rest) - min(policy.n_recent, len(rest)) :]
        return [element for element in elements if element.time in chosen]
    assert isinstance(policy, EvenSample)
    if len(times) > policy.n:
        assert len(times) <= 64
        step = (times[-1] - times[0]) / max(policy.n - 1, 1)
        places: list[int] = []
        for i in range(policy.n):
            point = times[0] + i * step
            nearest = min(range(len(times)), key=lambda j: (round(abs(times[j] - point), 9), j))
            places.append(max(nearest, places[-1] + 1 if places else 0))
        times = [times[min(place, len(times) - policy.n + i)] for i, place in enumerate(places)]
    return [element for element in elements if element.time in times]


class NaiveBank:
    def __init__(self, policy: Policy, batch: int, heads: int, key_dim: int, value_dim: int) -> None:
        self.policy, self.batch = policy, batch
        self.shape = (heads, key_dim, value_dim)
        self.elements: list[Element] = []
        self.groups: dict[int | str, int] = {}  # -> writes
        self.next = 0

    def write(self, key: Tensor, value: Tensor, group: int | str, time: float | None, permanent: bool) -> list[int]:
        when = self.groups.get(group, 0) if time is None else time
        self.groups[group] = self.groups.get(group, 0) + 1
        ids = []
        for n in range(key.shape[2]):
            k, v = (x[:, :, n].expand(self.batch, -1, -1) for x in (key, value))
            self.elements.append(Element(self.next, when, group, permanent, k, v))
            ids.append(self.next)
            self.next += 1
        if not permanent:
            self.evict(self.policy, group)
        return ids

    def evict(self, policy: Policy, group: int | str | None = None) -> list[int]:
        kept = set()
        for name in self.groups:
            loose = [e for e in self.elements if e.group == name and not e.permanent]
            kept |= {e.id for e in (keep(policy, loose) if group in (None, name) else loose)}
        gone = [e.id for e in self.elements if not e.permanent and e.id not in kept]
        self.elements = [e for e in self.elements if e.id not in gone]
        return gone

    def purge(self, groups: list[int | str], ids: list[int]) -> None:
        for group in groups:
            self.groups.pop(group, None)
        self.elements = [e for e in self.elements if e.group not in groups and e.id not in ids]

    def reset(self, group: int | str | None, keep_permanent: bool) -> None:
        for name in [name for name in self.groups if group in (None, name)]:
            self.elements = [e for e in self.elements if e.group != name or (keep_permanent and e.permanent)]
            if not any(e.group == name for e in self.elements):
                del self.groups[name]

    def select(self, group: int | str | None, where: Policy | None) -> list[Element]:
        """The elements in reading order."""
        found = []
        for name in self.groups:
            if group in (None, name):
                own = [e for e in self.elements if e.group == name]
                kept = own if where is None else keep(where, own)
                found += [e for e in kept if e.permanent] + [e for e in kept if not e.permanent]
        return found

    def read(
        self, query: Tensor, group: int | str | None, where: Policy | None, top_k: int | None, count: bool
    ) -> tuple[Tensor, Tensor, list[float]]:
        found = self.select(group, where)
        heads, _, value_dim = self.shape
        if not found:
            out = torch.zeros(*query.shape[:3], value_dim)
            return out, torch.full(query.shape[:3], -torch.inf), []
        keys = torch.stack([e.key for e in found], 2).double()
        values = torch.stack([e.value for e in found], 2).double()
        group_heads = query.shape[1] // heads
        keys, values = (x.repeat_interleave(group_heads, 1) for x in (keys, values))
        scores = query.double() @ keys.transpose(2, 3) * query.shape[3] ** -0.5
        if top_k is not None and top_k < len(found):
            lowest = scores.sort(-1, descending=True).values[..., top_k - 1 : top_k]
            scores = scores.masked_fill(scores < lowest, -torch.inf)
        weights = scores.softmax(-1)
        usage = (weights.sum((0, 1, 2)) / weights.shape[0]).tolist()
        if count:
            for element, use in zip(found, usage, strict=True):
                element.use += use
                element.life += 1
        return (weights @ values).float(), scores.logsumexp(-1).float(), usage

    def over_batch(self, indices: list[int]) -> None:
        self.batch = len(indices)
        for element in self.elements:
            element.key, element.value = element.key[indices], element.value[indices]
