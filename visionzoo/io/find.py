"""Find the files that paths, folders and glob patterns name, in the same way for every command, data set and page."""

from __future__ import annotations

import glob
import os
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from ..errors import FileFailed, InputError
from .extensions import extension

ARRAYS = frozenset({".zarr"})
"""Extensions of folders that count as a single file."""


def find_inputs(
    sources: str | Path | Iterable[str | Path],
    extensions: Collection[str],
    *,
    what: str = "images",
    outside: Path | None = None,
    recursive: bool = True,
    unreadable: Callable[[OSError], object] | None = None,
    frames: Collection[str] = (),
) -> list[tuple[Path, Path]]:
    """Files named by paths, folders and glob patterns, each once, with its path relative to the folder or pattern that named it.

    A file that is named explicitly is used whatever its extension. Folders are searched in the order of names; hidden files
    and folders in them are skipped.

    Args:
        extensions: extensions of the files to use from folders and patterns, in lower case with the dot.
        what: what messages call those files, in the plural.
        outside: the output folder; if it lies inside a folder that is searched, its files are not inputs.
        recursive: also search subfolders.
        unreadable: called with the error of each folder that cannot be read; by default a warning names it.
        frames: extensions of images. A folder in which nothing else is found, and which holds such images itself, is one input: a
            clip whose frames they are.

    Raises:
        InputError: a source does not exist, or no file is found for it.
    """
    given = [sources] if isinstance(sources, (str, Path)) else list(sources)
    if not given:
        raise InputError("the list of inputs is empty")
    found: dict[str, tuple[Path, Path]] = {}
    for source in given:
        path = Path(source)
        if is_one_file(path, extensions):
            found.setdefault(os.path.abspath(path), (path, Path(path.name)))
            continue
        if path.is_dir():
            base, files = path, list(_walk(path, extensions, recursive, unreadable or _warn))
        elif glob.has_magic(str(source)):
            base, files = _matches(str(source), extensions, frames)
        else:
            raise InputError(f"{source}: no such file or folder")
        if outside is not None and _strictly_below(outside, base):
            files = [file for file in files if not _strictly_below(file, outside)]
        others = [file for file in files if outside is None or os.path.abspath(file) != os.path.abspath(outside)]
        if frames and path.is_dir() and not others and list_frames(path, frames):
            name = path.resolve().name if path.name in ("", "..") else path.name
            found.setdefault(os.path.abspath(path), (path, Path(name)))
            continue
        if not files:
            images = ", and no images in the folder itself that could be the frames of a clip" if frames else ""
            raise InputError(
                f"{source}: no {what} found{images}; expected files with the extension {_examples(extensions)}, …"
            )
        for file in files:
            found.setdefault(os.path.abspath(file), (file, file.relative_to(base)))
    return list(found.values())


def is_one_file(path: Path, extensions: Collection[str]) -> bool:
    """Whether a path is one input: a file, or a folder that holds one array."""
    return path.exists() and (not path.is_dir() or extension(path) in ARRAYS & set(extensions))


def list_frames(folder: Path, extensions: Collection[str]) -> list[Path]:
    """Files of a folder itself with these extensions, in the order of the frames of a clip: 2.png is before 10.png."""
    files = _walk(folder, extensions, recursive=False, unreadable=_warn)
    return sorted(files, key=lambda path: _natural(path.name))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _warn(problem: OSError) -> None:
    warnings.warn(f"{problem.filename}: cannot be read ({problem.strerror}); skipped", FileFailed, stacklevel=4)


def _walk(
    folder: Path, extensions: Collection[str], recursive: bool, unreadable: Callable[[OSError], object]
) -> Iterator[Path]:
    """Files with these extensions. Links to folders are followed, except to parent folders and to folders searched anyway."""
    problems: list[OSError] = []
    arrays = ARRAYS & set(extensions)
    top, seen = Path(os.path.realpath(folder)), set[Path]()
    for base, folders, files in os.walk(folder, onerror=problems.append, followlinks=True):
        here = Path(os.path.realpath(base))
        by_link = here != top / Path(base).relative_to(folder)
        if here in seen or (by_link and (here.is_relative_to(top) or top.is_relative_to(here))):
            folders.clear()  # a cycle, or a second path to the same files
            continue
        seen.add(here)
        shown = sorted(name for name in folders if not name.startswith("."))
        inner = [name for name in shown if extension(name) in arrays]
        folders[:] = [name for name in shown if name not in inner] if recursive else []
        for name in sorted([*files, *inner]):
            if not name.startswith(".") and extension(name) in extensions:
                yield Path(base, name)
    for problem in problems:
        unreadable(problem)


def _matches(pattern: str, extensions: Collection[str], frames: Collection[str]) -> tuple[Path, list[Path]]:
    """The folder above the first wildcard, and the files that match; without any, the folders that hold frames."""
    parts = Path(pattern).parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    hits = [Path(hit) for hit in sorted(glob.glob(pattern, recursive=True))]
    files = [hit for hit in hits if extension(hit) in extensions and is_one_file(hit, extensions)]
    if frames and not files:
        files = [hit for hit in hits if hit.is_dir() and list_frames(hit, frames)]
    return Path(*parts[:fixed]), files


def _strictly_below(path: Path, folder: Path) -> bool:
    inner, outer = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return inner != outer and inner.is_relative_to(outer)


def _examples(extensions: Collection[str]) -> str:
    usual: Sequence[str] = [name for name in (".jpg", ".png", ".webp", ".tif", ".mp4", ".mkv") if name in extensions]
    return ", ".join(usual or sorted(extensions)[:4])


__all__ = ["find_inputs", "is_one_file", "list_frames"]
