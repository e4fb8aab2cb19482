"""What a command that makes files of files does with its arguments, and what it says at the end."""

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
    """The inputs and the output of a command: `--output`, or else the second of two paths if nothing has that name yet.

    So `visionzoo TASK IN OUT` works, and can neither replace a file nor mistake an input for the output.

    Args:
        example: a command line that has an output, for the message.

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
    """Do a plan as a command does it: results as JSON if wanted, and at the end a line on where they are.

    Args:
        where: the output as the user named it; `-` for standard output, of which nothing is said.

    Raises:
        SomeFailed: some of several files could not be processed.
        InputError: and others, see `run_files`.
    """
    results = run_files(job, plan, overwrite=how.overwrite, progress=not how.quiet, engine=how.engine)
    if how.json:
        emit([result.to_dict() for result in results])
    for text in summary(results, job.done, plan.output) if where != STANDARD else ():
        note(text, quiet=how.silent)
    raise_if_some_failed(results, job.done)
    return results


__all__ = ["run_and_report", "split_output"]
