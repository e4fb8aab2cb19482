"""What a command line asks for: actions, and which source goes to which output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from visionzoo.errors import InputError
from visionzoo.io.extensions import VIDEOS_WRITTEN, extension
from visionzoo.io.files import check_name
from visionzoo.jobs import Plan, make_plan, split_output

from .actions import EXAMPLE, check_actions, read_actions, repeated
from .file_options import GenerateFileOptions
from .kinds import KINDS
from .saved_episode import is_episode

__all__ = ["plan_of", "taken_actions"]


def taken_actions(file: Path | None, given: Sequence[str] | None) -> list[str]:
    """The actions of a file or of a command line.

    Raises:
        InputError: none, both, or a file that cannot be read.
    """
    if file is not None and given:
        raise InputError("--actions and --action: give a file or actions, not both")
    if file is not None:
        return read_actions(file)
    if given is None:
        raise InputError(f'no actions: give a file with --actions FILE ({EXAMPLE}), or e.g. --action "go left"')
    return [action for text in given for action in (repeated(text) if text.strip() else check_actions([text], None))]


def plan_of(sources: Sequence[Path], output: Path | None, files: GenerateFileOptions, example: str) -> Plan:
    """Pair the sources with outputs; without a source, the saved episode is continued.

    Raises:
        InputError: neither a source nor a saved episode, or see `make_plan`.
    """
    if sources:
        paths, where = split_output(sources, output, example)
        return make_plan(paths, where, KINDS)
    if files.memory is None:
        raise InputError(f"IMAGE_OR_VIDEO is missing, e.g. {example}")
    if not is_episode(files.memory):
        raise InputError(
            f"{files.memory}: holds no saved episode; begin one with an image, e.g. visionzoo generate IMAGE --memory {files.memory} …"
        )
    if output is None:
        raise InputError(f"--output (-o) is missing, e.g. {example}")
    if extension(check_name(output)) not in VIDEOS_WRITTEN:
        raise InputError(f"{output}: is written as a video; choose a name that ends in {', '.join(VIDEOS_WRITTEN)}")
    return Plan(((files.memory, output),), output)
