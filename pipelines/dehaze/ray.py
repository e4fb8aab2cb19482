"""Haze removal of many files on a Ray cluster: each process loads the network once and takes one file after the other."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from visionzoo.devices import pick_device
from visionzoo.errors import InputError
from visionzoo.ray_engine import map_on_ray

from .files import FileJob, make_folder, plan
from .pipeline import DehazedFile, DehazePipeline


def run_on_ray(
    create: dict[str, Any],
    settings: dict[str, Any],
    path_in: str | Path | Sequence[str | Path],
    path_out: Path,
    progress: bool = True,
) -> list[DehazedFile]:
    """As `FileJob.run`, in the processes of a cluster. Inputs, outputs and a checkpoint are files that all machines see.

    Args:
        create: arguments of `DehazePipeline.create`.
        settings: of `FileJob`.

    Raises:
        InputError: as `FileJob.run`.
        VisionZooError: Ray is missing, or fails.
    """
    todo = [
        (source.absolute(), target.absolute()) for source, target in plan(path_in, path_out, settings.get("format"))
    ]
    if len(todo) > 1 or todo[0][1] != path_out.absolute():
        make_folder(path_out)
    gpus = 1.0 if pick_device(create.get("device", "auto")).type == "cuda" else 0.0
    checkpoint = create.get("checkpoint")
    create = {**create, "checkpoint": None if checkpoint is None else Path(checkpoint).absolute()}
    items = [(str(source), str(target)) for source, target in todo]
    found = map_on_ray(items, build, {"create": create, "settings": settings}, gpus=gpus, progress=progress)
    results = [DehazedFile(**result) for result in found]
    for result in results:
        if result.error:  # the warning itself was given in another process
            warnings.warn(result.error, stacklevel=2)
    if all(result.error for result in results):
        raise InputError(f"none of {len(results)} files could be dehazed, e.g. {results[0].error}")
    return results


def build(create: dict[str, Any], settings: dict[str, Any]) -> Callable[[tuple[str, str]], dict[str, Any]]:
    """What a process of the cluster does with a file; called once in each."""
    job = FileJob(DehazePipeline.create(**create), **settings)

    def work(item: tuple[str, str]) -> dict[str, Any]:
        source, target = Path(item[0]), Path(item[1])
        return job.one(source, target).to_dict()

    return work
