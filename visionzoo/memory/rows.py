"""Rows of vectors, in memory or in files, and the table that maps ids to rows."""

from __future__ import annotations

import os
from io import FileIO
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, VisionZooError, writing
from ..io.locks import lock_file
from .store import META, read_meta, write_meta

__all__ = ["IdTable", "RowArray", "RowFile", "write_at"]

STORAGE = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
IDS = "ids.i64"
FREE = -1  # marks a row without an entry
_CHUNK = 1 << 24  # bytes converted and written at once


class IdTable:
    """Maps ids to rows with sorted arrays (16 bytes per entry) and a small dictionary of recent changes."""

    def __init__(self, ids: NDArray[np.int64]) -> None:
        """`ids` (N,): the id of each row, or FREE; an id in several rows refers to the last one."""
        rows = np.flatnonzero(ids != FREE)
        self._set(ids[rows], rows)

    def _set(self, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        order = np.argsort(ids, kind="stable")
        self._ids, self._rows = ids[order], rows[order]
        self._recent: dict[int, int] = {}

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of each id, (n,), or FREE for unknown ids."""
        found = np.full(len(ids), FREE, np.int64)
        if len(self._ids):
            place = np.searchsorted(self._ids, ids, side="right") - 1
            hit = (place >= 0) & (self._ids[np.maximum(place, 0)] == ids)
            found[hit] = self._rows[place[hit]]
        if self._recent:
            for position, key in enumerate(ids.tolist()):
                row = self._recent.get(key)
                if row is not None:
                    found[position] = row
        return found

    def put(self, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Set the rows of ids; `rows` (n,) may hold FREE to forget an id."""
        self._recent.update(zip(ids.tolist(), rows.tolist(), strict=True))
        if len(self._recent) > max(8192, len(self._ids) // 8):
            recent_ids = np.fromiter(self._recent.keys(), np.int64, len(self._recent))
            recent_rows = np.fromiter(self._recent.values(), np.int64, len(self._recent))
            old = ~np.isin(self._ids, recent_ids)
            live = recent_rows != FREE
            self._set(
                np.concatenate([self._ids[old], recent_ids[live]]), np.concatenate([self._rows[old], recent_rows[live]])
            )


class RowArray:
    """Rows in memory."""

    durable = False

    def __init__(self, dim: int, storage: str) -> None:
        self._values = np.empty((0, dim), STORAGE[storage])

    def write(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        needed = int(rows.max()) + 1
        if needed > len(self._values):
            grown = np.empty((max(needed, 2 * len(self._values), 64), self._values.shape[1]), self._values.dtype)
            grown[: len(self._values)] = self._values
            self._values = grown
        self._values[rows] = vectors

    def view(self, count: int) -> np.ndarray:
        """The first `count` rows, (count, dim) in the storage's type."""
        return self._values[:count]

    def close(self) -> None:
        self._values = self._values[:0]


class RowFile:
    """Rows in a folder: `vectors.f32` or `.f16` (raw little-endian rows), `ids.i64` (one id a row) and META.

    The order of writes makes it safe. Vectors are written to rows that no id on disk points to, and are synchronised before
    the ids that point to them; ids that replace others are synchronised before the old rows are freed. An id is 8 aligned
    bytes, which no system writes partially. So the ids on disk always describe complete vectors, and an interrupted writer
    leaves at most some unreferenced rows.
    """

    durable = True

    def __init__(self, folder: Path, meta: dict[str, Any], *, new: bool, readonly: bool) -> None:
        """Open the files of `folder`, or create them if `new`; `meta` is the content of META (to be written if `new`)."""
        self.folder, self.meta, self.readonly = folder, meta, readonly
        dtype = STORAGE[meta["storage"]]
        self.vectors = folder / f"vectors.f{8 * dtype.itemsize}"
        self._dtype, self._dim = dtype, int(meta["dim"])
        self._row_bytes = dtype.itemsize * self._dim
        self._map = np.empty((0, self._dim), dtype)
        self._vector_file: FileIO | None = None
        self._id_file: FileIO | None = None
        if not readonly:
            with writing(folder):
                if new:
                    folder.mkdir(parents=True, exist_ok=True)
                mode = "r+b" if not new or (folder / IDS).exists() else "w+b"
                self._id_file = _open(folder / IDS, mode)
                try:
                    if not lock_file(self._id_file):
                        raise VisionZooError(
                            f"{folder}: another program is writing to this store; wait until it ends, or open it with readonly=True"
                        )
                    if new:
                        if (folder / META).exists():
                            raise VisionZooError(
                                f"{folder}: another program has just created a store here; run this again"
                            )
                        self._id_file.truncate(0)
                        _open(self.vectors, "w+b").close()
                        # META is written last: a folder without it is not a store yet, and is created again.
                        write_meta(folder, meta)
                    else:
                        self.meta = read_meta(folder)  # another writer may have finished in the meantime
                    self._vector_file = _open(self.vectors, "r+b")
                except BaseException:
                    self.close()
                    raise

    def read_ids(self) -> NDArray[np.int64]:
        """The id of each row, (rows,). Raises `InputError` if the files do not match META."""
        remedy = "restore the folder from a copy, or delete it and index again"
        try:
            held = self.vectors.stat().st_size // self._row_bytes
            with open(self.folder / IDS, "rb") as file:
                raw = file.read()
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read ({error.strerror}); {remedy}") from error
        ids = np.frombuffer(raw[: len(raw) // 8 * 8], "<i8").astype(np.int64)
        promised = self.meta["rows"]
        if len(ids) < promised:
            raise InputError(f"{self.folder / IDS}: is damaged: {len(ids)} of {promised} ids are left; {remedy}")
        if held < promised:
            raise InputError(f"{self.vectors}: is damaged: {held} of {promised} vectors are left; {remedy}")
        if held < len(ids):
            raise InputError(f"{self.vectors}: is damaged: {held} vectors for {len(ids)} ids; {remedy}")
        if (ids < FREE).any():
            raise InputError(f"{self.folder / IDS}: is damaged: holds ids below 0; {remedy}")
        return ids

    def cut(self, count: int) -> None:
        """Drop rows that an interrupted writer left after the first `count` rows."""
        assert self._vector_file is not None
        assert self._id_file is not None
        with writing(self.folder):
            self._id_file.truncate(8 * count)
            self._vector_file.truncate(self._row_bytes * count)

    def write(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        assert self._vector_file is not None
        with writing(self.vectors, keeps="what was flushed before is safe"):
            for first, last in _runs(rows):
                step = max(1, _CHUNK // self._row_bytes)
                for start in range(first, last, step):
                    part = vectors[start : min(start + step, last)]
                    write_at(self._vector_file, int(rows[start]) * self._row_bytes, part.astype(self._dtype).tobytes())

    def view(self, count: int) -> np.ndarray:
        """The first `count` rows, mapped from the file."""
        if count > len(self._map):
            # Map everything that the file holds, so that a growing store is not mapped again for every row.
            held = self.vectors.stat().st_size // self._row_bytes
            self._map = np.memmap(self.vectors, self._dtype, mode="r", shape=(max(held, count), self._dim))
        return np.asarray(self._map)[:count]

    def commit(self, ids: NDArray[np.int64], changed: NDArray[np.int64], meta: dict[str, Any]) -> None:
        """Make the rows `changed` (n,) of `ids` durable, after the vectors that they point to."""
        assert self._vector_file is not None
        assert self._id_file is not None
        with writing(self.folder, keeps="what was flushed before is safe"):
            os.fsync(self._vector_file.fileno())
            # The new stamp and norm bound are written before any id, the number of rows after all ids.
            write_meta(self.folder, {**meta, "rows": self.meta["rows"]})
            filled = ids[changed] != FREE
            # A row beyond the end of the id file must be written even if it is already free.
            appended = changed >= self.meta["rows"]
            for part in (changed[filled | appended], changed[~filled & ~appended]):
                for first, last in _runs(part):
                    low, high = int(part[first]), int(part[last - 1]) + 1
                    write_at(self._id_file, 8 * low, ids[low:high].astype("<i8").tobytes())
                if len(part):
                    os.fsync(self._id_file.fileno())
            write_meta(self.folder, meta)
        self.meta = meta

    def close(self) -> None:
        for file in (self._vector_file, self._id_file):
            if file is not None:
                file.close()  # releases the lock
        self._vector_file = self._id_file = None
        self._map = self._map[:0]


def write_at(file: FileIO, offset: int, data: bytes) -> None:
    """Write all of `data` at `offset`; a single write to a raw file may be partial when the disk is nearly full."""
    file.seek(offset)
    rest = memoryview(data)
    while len(rest):
        rest = rest[file.write(rest) or 0 :]


def _open(path: Path, mode: str) -> FileIO:
    return cast(FileIO, open(path, mode, buffering=0))


def _runs(rows: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Spans of positions with consecutive rows."""
    if not len(rows):
        return []
    ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    return list(zip([0, *ends[:-1]], ends, strict=True))
