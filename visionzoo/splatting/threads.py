"""Jobs of compiled loops, in Python threads: the loops release the GIL, and numba's own threads could not be forked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache


@lru_cache(maxsize=4)
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    """Threads of one process, since those of a parent do not survive a fork."""
    return ThreadPoolExecutor(workers, thread_name_prefix=f"splatting-{process}")


def run_jobs(jobs: Sequence[Callable[[], None]], threads: int) -> None:
    """Run jobs in this thread and in up to `threads` - 1 others, in any distribution."""
    queue = iter(jobs)

    def work(source: Iterable[Callable[[], None]] = queue) -> None:
        for job in source:
            job()

    if threads <= 1 or len(jobs) <= 1:
        work()
        return
    others = [_pool(os.getpid(), threads - 1).submit(work) for _ in range(min(threads, len(jobs)) - 1)]
    work()
    for other in others:
        other.result()
