"""Classification of many files: in this process or on a cluster, resumable, with the results in one output."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from visionzoo.errors import FileFailed, InputError, VisionZooError
from visionzoo.io.bar_sheet import check_size
from visionzoo.io.extensions import IMAGES, SHEETS_WRITTEN, VIDEOS, is_video
from visionzoo.io.find import find_inputs
from visionzoo.io.image import image_size
from visionzoo.io.video import probe
from visionzoo.jobs import Bars, Counter, Engine, Interrupted, Progress, Rows, refuse_inputs, silent
from visionzoo.jobs.resume import RESUME, Row
from visionzoo.ray_engine import on_ray
from visionzoo.registry import pipeline

from .frames import count_shots
from .results import ClassificationResult, FrameClasses, Prediction, check_outputs, write_features, write_results

KINDS = IMAGES | VIDEOS
"""Extensions of the files that are taken from folders."""
KEPT_EVERY = 64
"""Number of results between two writes to the file from which an interrupted run resumes."""
CHUNK = 64
"""Number of images that a process of a cluster takes at once."""

Found = tuple[ClassificationResult, np.ndarray | None]


class Classifier(Protocol):
    """The part of `ClassifyPipeline` that is used here (it imports this module)."""

    fingerprint: str
    classes: tuple[str, ...]

    def facts(self) -> dict[str, Any]: ...

    def arguments(self) -> dict[str, Any]: ...

    @property
    def gpus(self) -> float: ...

    def classify_with_vectors(
        self, sources: Any, top: int, batch_size: int, every: float, progress: Progress = silent
    ) -> Iterator[Found]: ...


@dataclass(frozen=True)
class How:
    """Arguments of `Classifier.classify_with_vectors`."""

    top: int
    batch_size: int
    every: float


def classify_files(
    pipe: Classifier,
    path_in: str | Path | Sequence[str | Path],
    path_out: str | Path | None,
    progress: bool,
    *,
    top: int,
    batch_size: int,
    every: float,
    features: str | Path | None,
    overwrite: bool,
    engine: Engine,
    on_result: Callable[[ClassificationResult], None] | None,
) -> list[ClassificationResult]:
    """See `ClassifyPipeline.run`."""
    out, store = check_outputs(path_out, features, overwrite)
    files = find_files(path_in)
    videos = any(map(is_video, files))
    refuse_inputs([path for path in (out, store) if path is not None], files)
    if out is not None and out.suffix.lower() in SHEETS_WRITTEN:
        cards = sum(1 + count_shots(path, every) if is_video(path) else 1 for path in files)
        check_size(out, cards, min(top, len(pipe.classes)))
    how = How(top, batch_size, every)
    options = {**pipe.facts(), **asdict(how), "features": None if store is None else str(store)}
    first = out or store
    rows = None
    if first is not None and len(files) > 1:
        settings = {"weights": pipe.fingerprint, "classes": pipe.classes, "top": top, "vectors": store is not None}
        settings |= {"every": every} if videos else {}
        rows = Rows(first, {**settings, **{key: options.get(key) for key in ("dtype", "image_size")}})
    results: list[ClassificationResult] = []
    vectors: list[np.ndarray] = []
    what = "file" if videos else "image"
    shown = progress and len(files) > 8
    bars = Bars(progress and videos and not shown)
    if engine == "ray":
        work = _spread(pipe, files, rows, how)
    else:
        work = _in_turn(pipe, files, rows, how, bars.show if bars.shown else silent)
    try:
        with bars, Counter(len(files), "classifying", what, shown=shown) as bar:
            for result, vector in work:
                results.append(result)
                if vector is not None and store is not None:
                    vectors.append(vector)
                if result.error is not None and len(files) > 1:
                    warnings.warn(f"{result.error}; skipped", FileFailed, stacklevel=3)
                elif on_result is not None and result.error is None:
                    on_result(result)
                bar.update()
        readable = [result for result in results if result.error is None]
        if not readable:
            if len(files) == 1:
                raise InputError(results[0].error)
            raise InputError(f"none of the {len(files)} {what}s can be read, e.g. {results[0].error}")
        if store is not None:
            write_features(store, vectors, [result.source for result in readable])
        if first is not None:
            write_results(first, results, options)
    except KeyboardInterrupt:
        work.close()  # keeps what is not on disk yet
        left = "no file was written"
        if rows is not None and len(rows):
            left = f"{len(rows)} of {len(files)} {what}s are done and kept in {rows.path}: {RESUME}"
        if rows is not None:
            rows.close(delete=False)
        raise Interrupted(f"interrupted; {left}") from None
    except BaseException:
        if rows is not None:
            rows.close(delete=False)
        raise
    if rows is not None:
        rows.close(delete=True)
    return results


def _in_turn(
    pipe: Classifier, files: Sequence[Path], rows: Rows | None, how: How, progress: Progress
) -> Generator[Found, None, None]:
    """Results in order; those of an interrupted run come from `rows`."""
    known = {path: row for path in files if rows is not None and (row := rows.get(path)) is not None}
    fresh = pipe.classify_with_vectors((path for path in files if path not in known), **vars(how), progress=progress)
    unsaved: list[tuple[Path, Row]] = []
    try:
        for path in files:
            if path in known:
                yield from_row(path, known[path])
                continue
            found = next(fresh)
            if rows is not None and found[0].error is None:
                unsaved.append((path, to_row(found)))
            if rows is not None and len(unsaved) >= KEPT_EVERY:
                rows.put(unsaved)
                unsaved.clear()
            yield found
    finally:
        if rows is not None and unsaved:
            rows.put(unsaved)


def _spread(pipe: Classifier, files: Sequence[Path], rows: Rows | None, how: How) -> Generator[Found, None, None]:
    """Results in order, computed by the processes of a cluster."""
    ready: dict[Path, Found] = {}
    for path in files:
        if rows is not None and (row := rows.get(path)) is not None:
            ready[path] = from_row(path, row)
    left = [path for path in files if path not in ready]
    chunks = [left[start : start + CHUNK] for start in range(0, len(left), CHUNK)]
    waiting = iter(files)
    following = next(waiting, None)
    if chunks:
        items = [[str(path.absolute()) for path in chunk] for chunk in chunks]
        arguments = {"create": pipe.arguments(), "how": vars(how)}
        for number, found in on_ray(items, build_worker, arguments, gpus=pipe.gpus):
            for path, (facts, vector) in zip(chunks[number], found, strict=True):
                ready[path] = from_row(path, (facts, vector))
            if rows is not None:
                rows.put((path, to_row(ready[path])) for path in chunks[number] if ready[path][0].error is None)
            while following is not None and following in ready:
                yield ready[following]
                following = next(waiting, None)
    while following is not None:
        yield ready[following]
        following = next(waiting, None)


def build_worker(create: dict[str, Any], how: dict[str, Any]) -> Callable[[list[str]], list[Row]]:
    """Makes the function with which a process of a cluster classifies a chunk of files; called once in each process."""
    pipe = pipeline(**create)

    def work(chunk: list[str]) -> list[Row]:
        return [to_row(found) for found in pipe.classify_with_vectors(map(Path, chunk), **how)]

    return work


def to_row(found: Found) -> Row:
    result, vector = found
    frames = [{**frame.to_dict(), "thumbnail": base64.b64encode(frame.thumbnail).decode()} for frame in result.frames]
    return {"predictions": [asdict(p) for p in result.predictions], "error": result.error, "frames": frames}, vector


def from_row(path: Path, row: Row) -> Found:
    facts, vector = row
    frames = tuple(
        FrameClasses(frame["time"], _predictions(frame), base64.b64decode(frame["thumbnail"]))
        for frame in facts.get("frames", ())
    )
    return ClassificationResult(str(path), _predictions(facts), facts["error"], frames), vector


def _predictions(facts: dict[str, Any]) -> tuple[Prediction, ...]:
    return tuple(Prediction(**p) for p in facts["predictions"])


def find_files(path_in: str | Path | Sequence[str | Path]) -> list[Path]:
    """Images and videos that are named, or found in folders. Raises `InputError` if there are none."""
    return [path for path, _ in find_inputs(path_in, KINDS, what="images or videos")]


def check_readable(files: Sequence[Path]) -> None:
    """Raise `InputError` if none of the files is an image or video that can be read, judging by their first bytes."""
    errors: list[VisionZooError] = []
    for path in files:
        try:
            if is_video(path):
                probe(path)
            else:
                image_size(path)
            return
        except VisionZooError as error:
            errors.append(error)
    if len(files) == 1:
        raise errors[0]
    for error in errors:
        warnings.warn(f"{error}; skipped", FileFailed, stacklevel=2)
    what = "files" if any(map(is_video, files)) else "images"
    raise InputError(f"none of the {len(files)} {what} can be read, e.g. {errors[0]}")


__all__ = ["KINDS", "check_readable", "classify_files", "find_files"]
