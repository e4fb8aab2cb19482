"""Distribute work on many items over the processes and machines of a Ray cluster. The extra `ray` installs Ray Data."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .errors import VisionZooError, require

__all__ = ["on_ray"]


def on_ray(
    items: Sequence[Any],
    build: Callable[..., Callable[[Any], Any]],
    arguments: dict[str, Any],
    *,
    gpus: float = 0.0,
    processes: int | None = None,
) -> Iterator[tuple[int, Any]]:
    """Call `build(**arguments)` once in every process, and the function that it returns with each item.

    The cluster is the one at `RAY_ADDRESS`, or else this machine. All machines must see the same files.

    Args:
        items: items to process; anything that can be pickled.
        build: a function that every machine can import by name.
        gpus: number of GPUs per process.
        processes: maximum number of processes; by default as many as the cluster has room for.

    Yields:
        (index of the item, its result) as results become ready, in any order.

    Raises:
        MissingDependencyError: Ray Data is not installed.
        VisionZooError: no cluster could be reached or started, or a process died.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = require("ray", extra="ray", purpose="--engine ray")
    data = require("ray.data", extra="ray", purpose="--engine ray")
    started = not ray.is_initialized()
    try:
        if started:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # the caller's bar shows the progress
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        room = ray.cluster_resources()
        free = int(room.get("GPU", 0) / gpus) if gpus else int(room.get("CPU", 1))
        size = max(1, min(len(items), free, processes or len(items)))
        rows = (
            data.from_items(
                [{"number": number, "item": pickle.dumps(item)} for number, item in enumerate(items)],
                override_num_blocks=len(items),
            )
            .map(
                _Worker,
                fn_constructor_args=(build, arguments),
                compute=data.ActorPoolStrategy(size=size),
                num_gpus=gpus or None,
                num_cpus=None if gpus else 1,
            )
            .iter_rows()
        )
        for row in rows:
            yield int(row["number"]), pickle.loads(row["result"])  # written by our own process
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise VisionZooError(f"Ray: {' '.join(str(error).split())[-300:]}") from error
    finally:
        if started:
            ray.shutdown()


class _Worker:
    """One process of the cluster."""

    def __init__(self, build: Callable[..., Callable[[Any], Any]], arguments: dict[str, Any]):
        self.work = build(**arguments)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"number": row["number"], "result": pickle.dumps(self.work(pickle.loads(row["item"])))}
