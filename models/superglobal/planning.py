"""Determines which of the files found are already in an index, under any path, and which must be read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .identity import Found, content_digest, is_missing

__all__ = ["Entry", "Found", "Gone", "Photo", "Planner", "Work", "outer"]


@dataclass(frozen=True)
class Photo:
    """A row of the catalogue.

    Attributes:
        path: real path of the file.
        size: size of the file in bytes.
        width, height: size of the upright photo in pixels.
        error: why the photo has no descriptor.
        ctime_ns, digest: change time and digest of the file when it was read; see `identity`. None in an index of an earlier version.
        source: the folder that was searched when it was found.
    """

    id: int
    path: Path
    size: int
    mtime_ns: int
    width: int | None = None
    height: int | None = None
    error: str | None = None
    ctime_ns: int | None = None
    digest: bytes | None = None
    source: Path | None = None

    @property
    def home(self) -> Path:
        """The folder that the photo belongs to: where it was found, or its own."""
        return self.source or self.path.parent


@dataclass(frozen=True)
class Entry:
    """The entry of one file in the index: a descriptor (D,), or an error.

    Attributes:
        stat: state of the file, taken before it was read.
        size: (width, height) of the photo.
    """

    found: Found
    stat: os.stat_result
    vector: np.ndarray | None = None
    size: tuple[int, int] | None = None
    error: str | None = None
    digest: bytes | None = None


@dataclass(frozen=True)
class Work:
    """The work to do for files that were found.

    Attributes:
        read: new files, changed ones, and those that could not be read so far.
        same: rows and their unchanged files, perhaps with other times, or under another path.
        moved: how many of `same` are in another place now.
    """

    read: list[tuple[Found, os.stat_result]]
    same: list[tuple[Photo, Found, os.stat_result]]
    moved: int


@dataclass(frozen=True)
class Gone:
    """Rows whose file no longer exists.

    Attributes:
        deleted: photos of folders that hold others.
        unsure: photos that may lie on a disk that is not mounted: all those of a folder that has none left, and those below an empty
            folder.
        failed: files that could not be read when they existed.
    """

    deleted: list[Photo]
    unsure: list[Photo]
    failed: list[Photo]


class Planner:
    """Compares files with the rows of a catalogue.

    Args:
        photos: all rows.
        stored: ids that have a descriptor.
    """

    def __init__(self, photos: Iterable[Photo], stored: Collection[int]):
        self.stored = stored
        self.rows = {photo.path: photo for photo in photos}

    def plan(self, files: Sequence[Found]) -> Work:
        work = Work([], [], 0)
        new: list[tuple[Found, os.stat_result]] = []
        seen = set[tuple[int, int, int, int, int]]()
        for found in sorted(files, key=lambda one: one.path not in self.rows):  # of two names, the one that is known
            try:
                stat = found.path.stat()
            except OSError:
                continue  # deleted since the folder was listed
            identity = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
            if stat.st_ino and identity in seen:
                continue  # one file under two names: a hard link, or a file system that ignores case
            seen.add(identity)
            row = self.rows.get(found.path)
            if row is None:
                new.append((found, stat))
            elif self._usable(row) and self._unchanged(row, found.path, stat):
                work.same.append((row, found, stat))
            else:
                work.read.append((found, stat))
        return self._placed(work, new, {found.path for found in files})

    def _placed(self, work: Work, new: list[tuple[Found, os.stat_result]], listed: Collection[Path]) -> Work:
        """Divide new paths into files that were known under another path, and those to be read."""
        elsewhere = Elsewhere(
            row
            for sizes in [{stat.st_size for _, stat in new}]
            for row in self.rows.values()
            if row.size in sizes and row.path not in listed and self._usable(row)
        )
        moved = 0
        for found, stat in new:
            row = elsewhere.take(found.path, stat)
            if row is None:
                work.read.append((found, stat))
            else:
                moved += is_missing(row.path)
                work.same.append((row, found, stat))
        return Work(work.read, work.same, moved)

    def _usable(self, row: Photo) -> bool:
        return row.error is None and row.id in self.stored

    def _unchanged(self, row: Photo, path: Path, stat: os.stat_result) -> bool:
        if row.size != stat.st_size:
            return False
        if row.mtime_ns == stat.st_mtime_ns and row.ctime_ns in (None, stat.st_ctime_ns):
            return True
        return _holds(path, row.digest)


class Elsewhere:
    """Rows whose path was not found in this run: the file is there under another name, or it is missing and may have moved."""

    def __init__(self, rows: Iterable[Photo]):
        self.there: dict[tuple[int, int], Photo] = {}
        self.by_times: dict[tuple[int, int, int], Photo] = {}
        self.by_content: dict[tuple[int, bytes], Photo] = {}
        for row in rows:
            if is_missing(row.path):
                if row.ctime_ns is not None:
                    self.by_times[row.size, row.mtime_ns, row.ctime_ns] = row
                if row.digest is not None:
                    self.by_content[row.size, row.digest] = row
                continue
            with contextlib.suppress(OSError):
                stat = row.path.stat()
                self.there[stat.st_dev, stat.st_ino] = row
        self.taken = set[int]()
        self.sizes = {size for size, _ in self.by_content}

    def take(self, path: Path, stat: os.stat_result) -> Photo | None:
        """The row of the file at `path`; each row is returned once."""
        row = self.there.get((stat.st_dev, stat.st_ino)) if stat.st_ino else None
        # a renamed folder leaves the times of its files alone; otherwise the content decides
        row = row or self.by_times.get((stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
        if row is None and stat.st_size in self.sizes:
            with contextlib.suppress(OSError):
                row = self.by_content.get((stat.st_size, content_digest(path)))
        if row is None or row.id in self.taken:
            return None
        self.taken.add(row.id)
        return row


def _holds(path: Path, digest: bytes | None) -> bool:
    try:
        return digest is not None and content_digest(path) == digest
    except OSError:
        return False


def outer(known: Path | None, new: Path) -> Path:
    """The folder to record for a photo that was found in two: the one that contains the other, else the new one."""
    return known if known is not None and new.is_relative_to(known) else new
