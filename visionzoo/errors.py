"""Errors that a command shows as a single line."""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
from collections.abc import Iterable, Iterator
from os import PathLike
from types import ModuleType
from typing import Any


class VisionZooError(Exception):
    """Something the user can fix. The message is one line: what is wrong, where, and what to do."""

    exit_code = 2


class InputError(VisionZooError, ValueError):
    """A file or value given by the user cannot be used."""


class WeightsError(InputError):
    """A checkpoint that is missing, damaged, unsafe or incompatible with the model. The message says what to do."""


class MissingDependencyError(VisionZooError, ImportError):
    """An optional package is not installed."""


class SomeFailed(VisionZooError):
    """Some of several files could not be processed; the others were."""

    exit_code = 1


class FileFailed(UserWarning):
    """Warning that one of several files could not be processed while the others were. Commands show it even with `--quiet`."""


class Caution(UserWarning):
    """Warning that users of some weights must know something about them. Commands do not show it with `--quiet` or `--json`."""


AGAIN = "run the command again"
"""Part of the errors that are over once it is followed, such as that of a full disk."""

FEW = 8
"""Up to this many known names are listed beside a suggestion."""


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not registered. It suggests similar names, or lists all of them, or both if there are few."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    every = f"known: {', '.join(known)}" if known else "there are none"
    hint = f"did you mean {' or '.join(near)}?" if near else every
    if near and len(known) <= FEW:  # a similar word is not always what was meant
        hint = f"{hint} {every}"
    return InputError(f"there is no {kind} {name!r}; {hint}")


def described(value: Any) -> str:
    """What an error calls a value of a wrong type: None, numbers and text as they are written, other objects by their class."""
    if value is None or isinstance(value, (str, bytes, PathLike, bool, int, float)):
        return repr(value)[:80]
    return f"an object of class {type(value).__name__}"


def check_kind(name: str, value: Any, expected: str, *attributes: str) -> None:
    """Raise `InputError` unless an object has all of these attributes, by which its kind is told.

    Args:
        name: the argument.
        expected: what it must be, e.g. "an AutoencoderKL of diffusers".
    """
    if any(not hasattr(value, attribute) for attribute in attributes):
        raise InputError(f"{name} must be {expected}, got {described(value)}")


def check_items(name: str, values: Any, expected: str) -> None:
    """Raise `InputError` unless `values` can be iterated and is no text, whose letters would be taken for the items.

    Args:
        expected: what it must be, e.g. "the frames of a video".
    """
    if isinstance(values, (str, bytes, PathLike)) or not (
        hasattr(values, "__iter__") or hasattr(values, "__getitem__")
    ):
        raise InputError(f"{name} must be {expected}, got {described(values)}")


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional package; if that fails, the error names the extra that installs it.

    Args:
        module: import name, e.g. "faiss".
        extra: the extra of visionzoo that installs it, e.g. "retrieval".
        purpose: what needs it, as the subject of the message, e.g. "the faiss index".

    Raises:
        MissingDependencyError: the package is not installed, or fails to import.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = error.name == module.split(".")[0] if error.name else False
        problem = (
            f"the package {module!r}, which is not installed"
            if missing
            else f"{module!r}, which fails to import ({error})"
        )
        raise MissingDependencyError(
            f"{purpose} needs {problem}; install it with: pip install 'visionzoo[{extra}]'"
        ) from error


@contextlib.contextmanager
def writing(path: str | PathLike[str], keeps: str = "") -> Iterator[None]:
    """Turn errors in writing `path` (full disk, no permission, …) into a one-line error that names the fix.

    Args:
        path: what is being written.
        keeps: what is safe already and how to resume, e.g. "12 photos are indexed; run the command again to resume".
    """
    tail = f" ({keeps})" if keeps else ""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise VisionZooError(f"{path}: the disk is full; free some space and {AGAIN}{tail}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise VisionZooError(f"{path}: no permission to write here; choose another place with -o{tail}") from error
        if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.EINVAL, errno.ENAMETOOLONG):
            raise VisionZooError(
                f"{path}: cannot be written here ({error.strerror}); choose another name{tail}"
            ) from error
        raise
