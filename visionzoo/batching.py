"""Batches for a network: items are prepared in threads while it runs, and batches shrink if the device runs out of memory."""

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
    """Apply `work` to `items` in threads, at most `depth` items ahead of the consumer; yield (item, result) in order.

    An `InputError` is yielded instead of the item's result; any other error is raised.
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
    """Runs items through a network in batches; the batch size is halved when the device runs out of memory, with one warning.

    Args:
        device: where the network runs.
        size: maximum number of items in a batch.
        budget: maximum total cost of a batch, e.g. in pixels; None for no limit.
    """

    def __init__(self, device: torch.device, size: int, budget: int | None = None):
        self.device, self.size, self.budget = device, size, budget
        self._warned = False

    def at_once(self, cost: int = 1) -> int:
        """Number of items in a batch if each costs `cost`; at least 1."""
        return max(1, self.size if self.budget is None else min(self.size, self.budget // cost))

    def run(self, compute: Callable[[list[T]], R], items: Sequence[T], cost: int = 1) -> list[R]:
        """Apply `compute` to `items`, batch by batch; return the results of the batches in order.

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
            # here the error is gone, and so are the tensors that its traceback kept alive
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
