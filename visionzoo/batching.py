"""Batches for a network: items are prepared in threads while it runs, and a device that runs out of memory gets smaller batches."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

from .errors import InputError

T = TypeVar("T")
R = TypeVar("R")


def ahead(work: Callable[[T], R], items: Iterable[T], workers: int, depth: int) -> Iterator[tuple[T, R | InputError]]:
    """`work` over `items` in threads, at most `depth` ahead of the consumer, with the results in order.

    An `InputError` takes the place of the item's result; any other error is raised.
    """
    source = iter(items)
    with ThreadPoolExecutor(max_workers=workers) as pool:
        pending: deque[tuple[T, Future[R]]] = deque((item, pool.submit(work, item)) for item in islice(source, depth))
        try:
            while pending:
                item, future = pending.popleft()
                try:
                    yield item, future.result()
                except InputError as error:
                    yield item, error
                pending.extend((following, pool.submit(work, following)) for following in islice(source, 1))
        finally:
            for _, future in pending:
                future.cancel()


class Batches:
    """How many items go through a network at once: half as many whenever the device runs out of memory, with one warning.

    Args:
        device: where the network runs.
        size: most items in a batch.
        budget: most that the items of a batch may cost together, e.g. their pixels; None for no such limit.
    """

    def __init__(self, device: torch.device, size: int, budget: int | None = None):
        self.device, self.size, self.budget = device, size, budget
        self._warned = False

    def at_once(self, cost: int = 1) -> int:
        """Items in a batch whose items cost `cost` each; at least 1."""
        return max(1, self.size if self.budget is None else min(self.size, self.budget // cost))

    def run(self, compute: Callable[[list[T]], R], items: Sequence[T], cost: int = 1) -> list[R]:
        """`compute` over `items`, batch by batch; returns the results of the batches in order.

        Raises:
            torch.OutOfMemoryError: a single item does not fit in memory.
        """
        results: list[R] = []
        done = 0
        while done < len(items):
            part = list(items[done : done + self.at_once(cost)])
            try:
                results.append(compute(part))
                done += len(part)
                continue
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
            # out here the error is gone, and with it the tensors that its traceback kept alive
            self._halve(len(part), cost)
        return results

    def _halve(self, tried: int, cost: int) -> None:
        self.size = tried // 2
        if self.budget is not None:
            self.budget = self.size * cost
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if not self._warned:
            self._warned = True
            warnings.warn(f"{self.device} is out of memory; continuing with batches of {self.size}", stacklevel=4)


__all__ = ["Batches", "ahead"]
