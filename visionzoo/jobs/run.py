"""Process files one after another in this process, or on a Ray cluster."""

from __future__ import annotations

import errno
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from ..errors import FileFailed, InputError, MissingDependencyError, SomeFailed, VisionZooError
from ..io.files import make_folder, remove_empty
from ..ray_engine import on_ray
from .plan import Kind, Plan
from .progress import Bars, Counter, Progress, silent
from .results import FileResult, refuse_inputs, refuse_twice
from .resume import RESUME, Interrupted

Engine = Literal["local", "ray"]


class FileJob(ABC):
    """How a task processes one file. On a cluster, every process has its own copy.

    Attributes:
        kinds: kinds of files that are read and written.
        done: what is done to a file, as a participle: "converted".
        gpus: number of GPUs that a process of a cluster needs.
        reads: files that all outputs depend on, in addition to their own inputs.
        writes: files that are written besides the outputs.
    """

    kinds: ClassVar[tuple[Kind, ...]]
    done: ClassVar[str]
    gpus: float = 0.0
    reads: Sequence[Path] = ()
    writes: Sequence[Path] = ()

    def check(self, overwrite: bool) -> None:  # noqa: B027
        """Raise `InputError` if an additional file next to the outputs may not be written."""

    def prepare(self, report: Progress) -> None:  # noqa: B027 (most jobs have nothing to prepare)
        """Do work shared by all files. Called once before the first file, and not at all if there is nothing to do."""

    @abstractmethod
    def convert(self, source: Path, target: Path, report: Progress) -> FileResult:
        """Process `source` and write `target`. Raises `InputError` if that is impossible."""

    def recipe(self) -> tuple[Callable[..., FileJob], dict[str, Any]]:
        """A function that every machine can import, and the arguments with which it rebuilds this job."""
        raise InputError(f"files cannot be {self.done} on a Ray cluster")


def run_files(
    job: FileJob,
    plan: Plan,
    *,
    overwrite: bool = False,
    progress: bool = True,
    engine: Engine = "local",
    on_result: Callable[[FileResult], None] | None = None,
) -> list[FileResult]:
    """Run a plan.

    A failure of a single file is an error. Among several files, existing outputs are skipped (unless `overwrite`), and a failure
    gives a warning and is recorded in the results.

    Args:
        progress: show bars.
        engine: "local" processes one file after another in this process, "ray" distributes them over a cluster.
        on_result: called with each result as soon as it is ready.

    Raises:
        InputError: the output may not be written, a single file cannot be processed, or none of several can.
        SomeFailed: the disk is full, or a package is missing, after some files were finished.
        Interrupted: by Ctrl-C; the message says what was kept.
        VisionZooError: Ray is missing, or fails.
    """
    plan.check(overwrite)
    outputs = [*(target for _, target in plan.pairs), *job.writes]
    refuse_twice(outputs)
    refuse_inputs(outputs, [*(source for source, _ in plan.pairs), *job.reads])
    job.check(overwrite)
    new_folder = not plan.single and not plan.output.exists()
    plan.make_folders()
    finished = {
        number: FileResult(str(source), str(target))
        for number, (source, target) in enumerate(plan.pairs)
        if not plan.single and target.exists() and not overwrite
    }
    left = [number for number in range(len(plan.pairs)) if number not in finished]
    results = dict(finished)
    try:
        if left:
            with Bars(progress) as bars:
                job.prepare(bars.show)
        work = _spread(job, plan, left, progress) if engine == "ray" and left else _in_turn(job, plan, left, progress)
        shown = progress and not plan.single
        with Counter(len(plan.pairs), job.done, shown=shown, initial=len(finished)) as bar:
            for number in finished if on_result is not None else ():
                on_result(finished[number])  # pyright: ignore[reportOptionalCall]
            for number, result in work:
                results[number] = result
                bar.update()
                if on_result is not None:
                    on_result(result)
    except KeyboardInterrupt as error:
        raise Interrupted(_interrupted(str(error), plan, len(results), overwrite)) from None
    except VisionZooError as error:
        done = sum(result.error is None for result in results.values())
        if plan.single or not done:
            raise
        raise SomeFailed(f"{error}; {done} of {len(plan.pairs)} files are finished") from error
    ordered = [results[number] for number in range(len(plan.pairs))]
    if all(result.error for result in ordered):
        if new_folder:
            remove_empty(plan.output)
        if len(ordered) == 1:
            raise InputError(ordered[0].error)
        raise InputError(f"none of the {len(ordered)} files could be {job.done}, e.g. {ordered[0].error}")
    return ordered


def _in_turn(job: FileJob, plan: Plan, left: list[int], progress: bool) -> Iterator[tuple[int, FileResult]]:
    for number in left:
        source, target = plan.pairs[number]
        with Bars(progress, source.name) as bars:
            if plan.single:
                yield number, job.convert(source, target, bars.show)
                continue
            result = attempt(job, source, target, bars.show)
        if result.error is not None:
            warnings.warn(result.error, FileFailed, stacklevel=3)
        yield number, result


def attempt(job: FileJob, source: Path, target: Path, report: Progress) -> FileResult:
    """Process one of several files. Errors are recorded in the result, except those that would affect all files.

    These are a full disk and a missing package.
    """
    make_folder(target.parent)
    try:
        return job.convert(source, target, report)
    except VisionZooError as error:
        if disk_is_full(error) or isinstance(error, MissingDependencyError):
            raise
        return FileResult(str(source), error=str(error))


def _spread(job: FileJob, plan: Plan, left: list[int], progress: bool) -> Iterator[tuple[int, FileResult]]:
    del progress  # there is one bar over all files; the processes show none
    build, arguments = job.recipe()
    items = [tuple(str(path.absolute()) for path in plan.pairs[number]) for number in left]
    for place, found in on_ray(items, build_worker, {"build": build, "arguments": arguments}, gpus=job.gpus):
        source, target = plan.pairs[left[place]]
        result = FileResult(**{**found, "source": str(source), "output": str(target) if found["output"] else None})
        if result.error is not None:  # warnings of other processes are not shown
            if plan.single:
                raise InputError(result.error)
            warnings.warn(result.error, FileFailed, stacklevel=3)
        yield left[place], result


def build_worker(build: Callable[..., FileJob], arguments: dict[str, Any]) -> Callable[[Any], dict[str, Any]]:
    """Build the function that a process of a cluster applies to each file; called once per process."""
    job = build(**arguments)

    def work(item: tuple[str, str]) -> dict[str, Any]:
        return attempt(job, Path(item[0]), Path(item[1]), silent).to_dict()

    return work


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error was caused by a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False


def _interrupted(message: str, plan: Plan, done: int, overwrite: bool) -> str:
    """The message for Ctrl-C: what was kept and how to resume.

    Args:
        message: message of the interrupted file, if it can be resumed.
    """
    if plan.single:
        written = plan.output.exists() and not overwrite  # an earlier file would have been an error
        return message or ("interrupted; the output is written" if written else "interrupted; no file was written")
    how = "the same command without --overwrite resumes" if overwrite else RESUME
    return f"{message or 'interrupted'}; {done} of {len(plan.pairs)} files are finished: {how}"


__all__ = ["Engine", "FileJob", "attempt", "disk_is_full", "run_files"]
