"""Making an index of photos and keeping it up to date: only new and changed photos are read, and an interrupted run resumes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from visionzoo.errors import InputError
from visionzoo.jobs import Counter, Progress, silent
from visionzoo.ray_engine import on_ray
from visionzoo.registry import pipeline

from ...models.superglobal.extraction import Described, describe
from ...models.superglobal.identity import Found
from ...models.superglobal.index import Manifest, PhotoIndex, is_index_folder, is_unfinished, read_manifest
from ...models.superglobal.planning import Entry
from .results import IndexReport
from .sources import check_emptied, find_photos


def update_index(
    sources: Sequence[str | Path],
    path: Path,
    manifest: Manifest,
    describe_files: Callable[[list[Path]], Iterable[Described[Path]]],
    *,
    prune: bool,
    prune_empty: bool,
    rebuild: bool,
    chunk: int,
    progress: bool | Progress,
) -> IndexReport:
    """Make the index at `path`, or bring it up to date; see `RetrievePipeline.index`.

    Args:
        sources: folders, files or glob patterns.
        path: the index, a folder; made if it does not exist.
        manifest: what a new index records; an existing one must have been made with the same model, weights and settings.
        describe_files: function that returns the descriptors of files, in any order.
        prune, prune_empty, rebuild, chunk, progress: as in `RetrievePipeline.index`.

    Raises:
        InputError: a source without photos, none readable, or an index that was made with another model.
        VisionZooError: it cannot be written.
    """
    found = find_photos(sources, path)
    discarded = path.exists() and (rebuild or is_unfinished(path))
    if found.empty and (discarded or not path.exists()):
        raise found.empty[0][1]
    if discarded:
        _discard(path)
    started = time.monotonic()
    made = not path.exists()
    new = made or (path.is_dir() and not any(path.iterdir()))
    with _open_for_writing(path, manifest) as index:
        if found.empty:
            check_emptied(found, list(index.photos()), prune_empty)
        index.drop_orphans()
        work = index.plan(found.files)
        index.keep(work.same)
        added = _read_into(index, work.read, describe_files, chunk, progress)
        here = {file.path for file in found.files}
        gone = index.gone(here)
        remove = [*(gone.deleted if prune or prune_empty else ()), *(gone.unsure if prune_empty else ())]
        if remove or gone.failed:
            index.remove([*remove, *gone.failed])
        failed = [(p.path, p.error or "") for p in index.photos(failed=True) if p.path in here]
        report = IndexReport(
            photos=len(index), added=added, unchanged=len(work.same), moved=work.moved, failed=(*found.unreadable, *failed),
            vanished=tuple(p.path for p in (*gone.deleted, *gone.unsure)), unsure=tuple(p.path for p in gone.unsure),
            removed=len(remove), pruned=prune or prune_empty, seconds=time.monotonic() - started,
        )  # fmt: skip
    if found.files and len(failed) == len(found.files):
        if new:
            shutil.rmtree(path)
            if not made:
                path.mkdir()
        raise InputError(f"none of the {len(failed)} files can be read as an image, e.g. {failed[0][1]}")
    return report


def check_same(path: Path, found: Manifest, wanted: Manifest) -> None:
    """Raise `InputError` unless the index at `path` (`found`) was made with the model, weights and settings of `wanted`."""
    remedy = "search or extend it with that model, or make it again with --rebuild"
    if found.model != wanted.model:
        raise InputError(f"{path}: was made with the model {found.model}, but this is {wanted.model}; {remedy}")
    if found.fingerprint != wanted.fingerprint or found.dim != wanted.dim:
        raise InputError(
            f"{path}: was made with other weights of {found.model} "
            f"({found.fingerprint}, but these are {wanted.fingerprint}); {remedy}"
        )
    changed = [key for key, value in found.config.items() if wanted.config.get(key) != value]
    if changed or found.max_side != wanted.max_side:
        what = ", ".join(changed) or f"max_side {found.max_side}, but this is {wanted.max_side}"
        raise InputError(f"{path}: was made with other settings ({what}); {remedy}")


def describe_on_ray(files: list[Path], chunk: int, create: dict[str, Any], gpus: float) -> Iterator[Described[Path]]:
    """Descriptors of `files` from a Ray cluster, `chunk` photos per item of work, as they become ready.

    Args:
        create: arguments of `visionzoo.pipeline` with which each process makes the pipeline.
        gpus: GPUs per process.
    """
    chunks = [[str(file) for file in files[start : start + chunk]] for start in range(0, len(files), chunk)]
    for _, found in on_ray(chunks, _describe_on_worker, {"create": create}, gpus=gpus):
        yield from found


def _describe_on_worker(create: dict[str, Any]) -> Callable[[list[str]], list[Described[Path]]]:
    """Makes the function with which a process of a cluster describes a chunk of photos; called once in each process."""
    pipe: Any = pipeline(**create)

    def work(chunk: list[str]) -> list[Described[Path]]:
        photos = ((Path(file), Path(file), None) for file in chunk)
        return list(describe(pipe.model, photos, pipe.preprocess, identify=True))

    return work


def _open_for_writing(path: Path, manifest: Manifest) -> PhotoIndex:
    if path.is_dir() and any(path.iterdir()):
        check_same(path, read_manifest(path), manifest)
        return PhotoIndex.open(path, readonly=False)
    return PhotoIndex.create(path, manifest)


def _read_into(
    index: PhotoIndex,
    todo: list[tuple[Found, os.stat_result]],
    describe_files: Callable[[list[Path]], Iterable[Described[Path]]],
    chunk: int,
    progress: bool | Progress,
) -> int:
    """Describe the files of `todo` and store them, `chunk` at a time; returns how many photos were added."""
    about = {found.path: (found, stat) for found, stat in todo}
    ready: list[Described[Path]] = []
    added = 0
    report = silent if isinstance(progress, bool) else progress

    def store() -> None:
        index.put(Entry(*about[d.key], d.vector, d.size, d.error, d.digest) for d in ready)
        ready.clear()

    try:
        with Counter(len(todo), "indexing", "photo", shown=progress is True) as bar:
            for done in describe_files([found.path for found, _ in todo]):
                ready.append(done)
                added += done.error is None
                bar.update()
                report("describing photos", bar.done, bar.total)
                if len(ready) >= chunk:
                    store()
    except KeyboardInterrupt:
        store()
        raise
    store()
    return added


def _discard(path: Path) -> None:
    """Delete an index, and nothing else: a folder that is not one is refused."""
    if not is_index_folder(path):
        raise InputError(
            f"{path}: is not an index of photos, so --rebuild does not delete it; choose another name for -o"
        )
    shutil.rmtree(path)
