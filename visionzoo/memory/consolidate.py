"""Consolidators: how elements evicted from one tier of a memory enter the next.

`Prototypes` works on elements. `SimilarityMerge` and `Pool` merge *frames* (the elements of one time) element by element,
so all frames that leave together must have the same number of elements: choose `n` and `hysteresis` of the tier's policy as
multiples of that number, or give each element its own time to merge tokens instead of frames.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..attention import attention
from ..errors import InputError
from . import named
from .buffers import Elements
from .named import check_count
from .policies import frames, most_used

__all__ = [
    "CONSOLIDATORS",
    "Consolidator",
    "Drop",
    "Pool",
    "Prototypes",
    "SimilarityMerge",
    "consolidator_config",
    "consolidator_from_config",
]


class Consolidator(ABC):
    """Turns elements evicted from one tier into those that enter the next.

    Attributes:
        name: name in a config.
        needs_usage: whether it needs use counts, so that reads must collect them.
    """

    name: ClassVar[str]
    needs_usage: ClassVar[bool] = False
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @abstractmethod
    def __call__(self, leaving: Elements) -> Elements | None:
        """The elements that enter the next tier (keys, values, times and weights are used), or None."""


@dataclass(frozen=True)
class Prototypes(Consolidator):
    """The `n` candidates with the most use per life, their values read by attention over all candidates.

    Each value is a convex combination of the candidates' values; "potentiation" in XMem (arXiv:2207.07115, Sec. 3.3). All
    candidates pass unchanged if there are `n` or fewer.

    Attributes:
        n: number of elements; XMem uses 128.
        scale: scale of the attention; default 1 / sqrt(Dk).
    """

    n: int
    scale: float | None = None
    name: ClassVar[str] = "prototypes"
    needs_usage: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count(self, "n", self.n, 1)

    def __call__(self, leaving: Elements) -> Elements:
        if len(leaving) <= self.n:
            return leaving
        chosen = torch.from_numpy(np.sort(most_used(leaving.tags(), self.n)))
        keys = leaving.keys.index_select(2, chosen.to(leaving.keys.device))
        values = {
            name: attention(keys, leaving.keys, value, scale=self.scale) for name, value in leaving.values.items()
        }
        weights = torch.full((self.n,), float(leaving.weights.sum()) / self.n, dtype=torch.float64)
        return _new_elements(leaving, keys, values, leaving.times[chosen], weights)


@dataclass(frozen=True)
class SimilarityMerge(Consolidator):
    """Repeatedly averages the two most similar neighbouring frames until `n` remain (MovieChat, arXiv:2307.16449).

    Similarity is the cosine between keys, averaged over elements, heads and batch; ties go to the earliest pair. Averages are
    weighted by the number of originals that each side represents.

    Attributes:
        n: number of frames that remain.
    """

    n: int
    name: ClassVar[str] = "similarity_merge"

    def __post_init__(self) -> None:
        check_count(self, "n", self.n, 1)

    def __call__(self, leaving: Elements) -> Elements:
        stack = _Frames(leaving)
        if stack.count <= self.n:
            return leaving
        members = [stack.take(slice(place, place + 1)) for place in range(stack.count)]
        alike = [_similarity(a, b) for a, b in itertools.pairwise(members)]
        while len(members) > self.n:
            place = int(np.argmax(alike))  # the first one if several are equal
            members[place : place + 2] = [_Frames.mean(members[place : place + 2])]
            del alike[place]
            for pair in (place - 1, place):
                if 0 <= pair < len(alike):
                    alike[pair] = _similarity(members[pair], members[pair + 1])
        return _Frames.elements(leaving, members)


@dataclass(frozen=True)
class Pool(Consolidator):
    """Replaces every `rate` neighbouring frames by their mean (Compressive Transformer, arXiv:1911.05507, Sec. 3.1).

    The last mean is over the remaining frames. Frames are weighted by the number of originals that they represent.

    Attributes:
        rate: number of frames that are merged into one.
    """

    rate: int
    name: ClassVar[str] = "pool"

    def __post_init__(self) -> None:
        check_count(self, "rate", self.rate, 1)

    def __call__(self, leaving: Elements) -> Elements:
        stack = _Frames(leaving)
        full = stack.count // self.rate * self.rate
        parts = []
        if full:
            parts.append(stack.take(slice(0, full)).pooled(self.rate))
        if full < stack.count:
            parts.append(stack.take(slice(full, stack.count)).pooled(stack.count - full))
        return _Frames.elements(leaving, parts)


@dataclass(frozen=True)
class Drop(Consolidator):
    """Nothing enters the next tier."""

    name: ClassVar[str] = "drop"

    def __call__(self, leaving: Elements) -> None:
        return None


CONSOLIDATORS: dict[str, type[Consolidator]] = {cls.name: cls for cls in (Prototypes, SimilarityMerge, Pool, Drop)}


def consolidator_config(consolidator: Consolidator) -> dict[str, Any]:
    """`{"consolidator": name, **fields}`, plain JSON values."""
    return named.to_config(consolidator, "consolidator", CONSOLIDATORS)


def consolidator_from_config(config: Consolidator | Mapping[str, Any]) -> Consolidator:
    """The consolidator that e.g. `{"consolidator": "prototypes", "n": 128}` describes; a `Consolidator` is returned unchanged.

    Raises:
        InputError: an unknown name or field, or a field that is missing or invalid.
    """
    found = named.from_config(config, "consolidator", CONSOLIDATORS)
    if not isinstance(found, Consolidator):
        raise InputError(f"expected a consolidator or its config, not {type(found).__name__}")
    return found


class _Frames:
    """Elements as frames of equal size, in order of time: tensors (B, H, frames, size, D), weights (frames, size)."""

    def __init__(self, leaving: Elements) -> None:
        order = np.lexsort((leaving.ids.numpy(), leaving.times.numpy()))
        times, place = frames(leaving.times.numpy()[order])
        sizes = np.bincount(place, minlength=len(times))
        if len(sizes) and sizes.min() != sizes.max():
            raise InputError(
                f"frames of {sizes.min()} to {sizes.max()} elements leave a tier together and cannot be joined one to one; "
                "let n and hysteresis of its policy be multiples of the frame's size, or give each element its own time"
            )
        index = torch.from_numpy(order)
        shape = (len(times), int(sizes[0]) if len(sizes) else 1)
        self.tensors = {
            name: tensor.index_select(2, index.to(tensor.device)).unflatten(2, shape)
            for name, tensor in ({"": leaving.keys} | leaving.values).items()  # no value is called ""
        }
        self.weights = leaving.weights[index].view(shape)
        self.times = torch.from_numpy(times)
        self.count = len(times)

    @classmethod
    def of(cls, tensors: dict[str, Tensor], weights: Tensor, times: Tensor) -> _Frames:
        made = cls.__new__(cls)
        made.tensors, made.weights, made.times, made.count = tensors, weights, times, len(times)
        return made

    def take(self, part: slice) -> _Frames:
        tensors = {name: tensor[:, :, part] for name, tensor in self.tensors.items()}
        return self.of(tensors, self.weights[part], self.times[part])

    @classmethod
    def mean(cls, members: list[_Frames]) -> _Frames:
        return cls.join(members).pooled(sum(member.count for member in members))

    @classmethod
    def join(cls, members: list[_Frames]) -> _Frames:
        return cls.of(
            {name: torch.cat([m.tensors[name] for m in members], 2) for name in members[0].tensors},
            torch.cat([m.weights for m in members]),
            torch.cat([m.times for m in members]),
        )

    def pooled(self, rate: int) -> _Frames:
        """Weighted means over every `rate` frames; the number of frames must be a multiple of `rate`."""
        weights = self.weights.unflatten(0, (-1, rate))
        total = weights.sum(1)
        share = weights / total.unsqueeze(1)
        tensors = {}
        for name, tensor in self.tensors.items():
            wide = tensor.unflatten(2, (-1, rate)).to(torch.promote_types(tensor.dtype, torch.float32))
            mean = (wide * share.to(wide.device, wide.dtype).unsqueeze(-1)).sum(3)
            tensors[name] = mean.to(tensor.dtype)
        frame = weights.sum(2)  # all elements of a merged frame get the same time, so that it stays one frame
        times = (self.times.unflatten(0, (-1, rate)) * frame).sum(1) / frame.sum(1)
        return self.of(tensors, total, times)

    @classmethod
    def elements(cls, leaving: Elements, members: list[_Frames]) -> Elements:
        if not members:
            return leaving
        stack = cls.join(members)
        tensors = {name: tensor.flatten(2, 3) for name, tensor in stack.tensors.items()}
        times = stack.times.unsqueeze(1).expand_as(stack.weights).flatten()
        return _new_elements(leaving, tensors.pop(""), tensors, times, stack.weights.flatten())


def _similarity(a: _Frames, b: _Frames) -> float:
    return float(cosine_similarity(a.tensors[""].detach().float(), b.tensors[""].detach().float(), dim=-1).mean())


def _new_elements(
    leaving: Elements, keys: Tensor, values: dict[str, Tensor], times: Tensor, weights: Tensor
) -> Elements:
    """New elements that have no ids yet and have not been used."""
    count = len(times)
    return replace(
        leaving,
        keys=keys,
        values=values,
        ids=torch.full((count,), -1),
        times=times,
        uses=torch.zeros(count, dtype=torch.float64),
        lives=torch.zeros(count, dtype=torch.int64),
        weights=weights,
    )
