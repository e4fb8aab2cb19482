"""Copies of the photos found, under names that do not collide with each other or with existing files."""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from visionzoo.errors import FileFailed, InputError, writing
from visionzoo.io.files import make_folder

from .results import Match, RetrievalResult

LONGEST = 200
"""Largest number of bytes of a name, which leaves room for a number before and after it (file systems allow 255)."""


def check_folder(folder: str | Path, index: str | Path) -> Path:
    """`folder`, if copies may be put there. Raises `InputError` for a file, for the index, and for a folder in it."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; --copy-to must be a folder")
    if folder.resolve().is_relative_to(Path(index).resolve()):
        raise InputError(f"{folder}: is the index or a folder in it; choose another folder for the copies")
    return folder


def copy_matches(results: Sequence[RetrievalResult], folder: Path) -> list[RetrievalResult]:
    """Copy the photos found for each query: rank and name, in a folder for each query if there are several.

    An existing file is never replaced: if it is the same photo, it is kept, otherwise the copy gets a number. A photo that
    cannot be copied causes a warning.

    Returns:
        The results, in which each match has its `copy`.
    """
    make_folder(folder)
    copied = []
    for number, result in enumerate(results, 1):
        digits = len(str(len(results)))
        place = folder if len(results) == 1 else folder / f"{number:0{digits}}_{_short(Path(result.query).stem)}"
        copied.append(replace(result, matches=tuple(_copy(match, place, result) for match in result.matches)))
    return copied


def _copy(match: Match, folder: Path, result: RetrievalResult) -> Match:
    if match.missing:
        return match  # which is noted for all of them
    digits = max(2, len(str(len(result.matches))))
    stem, suffix = f"{match.rank:0{digits}}_{_short(match.path.stem)}", match.path.suffix[:40]
    make_folder(folder)
    for number in count(1):
        target = folder / f"{stem}{'' if number == 1 else f'_{number}'}{suffix}"
        try:
            if os.path.lexists(target):
                if target.is_file() and filecmp.cmp(match.path, target, shallow=False):
                    return replace(match, copy=target)
                continue
            _write_new(match.path, target)
        except FileExistsError:
            continue  # made by another program just now
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                with writing(target):
                    raise
            warnings.warn(f"{match.path}: cannot be copied ({error.strerror})", FileFailed, stacklevel=4)
            return match
        return replace(match, copy=target)
    raise AssertionError("count() does not end")


def _write_new(source: Path, target: Path) -> None:
    """Copy a file with its times to a name that is free; an unfinished copy is deleted."""
    with source.open("rb") as reader, target.open("xb") as writer:
        try:
            shutil.copyfileobj(reader, writer, 1 << 20)
        except BaseException:
            writer.close()
            target.unlink(missing_ok=True)
            raise
    shutil.copystat(source, target)


def _short(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:LONGEST]) if len(os.fsencode(name)) > LONGEST else name


__all__ = ["check_folder", "copy_matches"]
