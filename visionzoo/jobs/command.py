"""Shared parts of commands that turn files into files: their arguments, and the report at the end."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from ..console import emit, note
from ..errors import InputError
from ..options import Processing
from .plan import Plan
from .results import FileResult, raise_if_some_failed, summary
from .run import FileJob, run_files
from .standard import STANDARD


def split_output(paths: Sequence[Path], output: Path | None, example: str) -> tuple[list[Path], Path]:
    """Split the paths of a command into inputs and output: `--output`, or else the second of two paths if it does not exist.

    So `visionzoo TASK IN OUT` works, but neither replaces a file nor mistakes an input for the output.

    Args:
        example: a command line with an output, for the error message.

    Raises:
        InputError: there is no output.
    """
    if output is not None:
        return list(paths), output
    if len(paths) == 2 and paths[1] == STANDARD:
        return [paths[0]], STANDARD
    if len(paths) == 2 and not os.path.lexists(paths[1]) and not glob.has_magic(str(paths[1])):
        return [paths[0]], paths[1]
    taken = f"{paths[1]} exists, so it is an input; " if len(paths) == 2 else ""
    raise InputError(f"{taken}--output (-o) is missing, e.g. {example}")


def run_and_report(job: FileJob, plan: Plan, how: Processing, *, where: Path | None = None) -> list[FileResult]:
    """Run a plan for a command: print results as JSON if wanted, and at the end where they are.

    Args:
        where: the output as the user named it; for `-` (standard output), no location is printed.

    Raises:
        SomeFailed: some of several files could not be processed.
        InputError: see `run_files`, also for other errors.
    """
    results = run_files(job, plan, overwrite=how.overwrite, progress=not how.quiet, engine=how.engine)
    if how.json:
        emit([result.to_dict() for result in results])
    for text in summary(results, job.done, plan.output) if where != STANDARD else ():
        note(text, quiet=how.silent)
    raise_if_some_failed(results, job.done)
    return results


__all__ = ["run_and_report", "split_output"]
