"""Work done in threads ahead of whoever waits for it: pictures are decoded while the network runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from ..errors import InputError

T = TypeVar("T")
R = TypeVar("R")


def ahead(work: Callable[[T], R], items: Iterable[T], workers: int, depth: int) -> Iterator[tuple[T, R | InputError]]:
    """`work` over `items` in threads, at most `depth` ahead of the consumer, results in order; input errors are handed on."""
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
