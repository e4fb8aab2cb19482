"""The default vector store: one matrix, in memory or mapped from a file, searched exactly."""

from __future__ import annotations

import math
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, writing
from .rows import FREE, STORAGE, IdTable, RowArray, RowFile
from .store import (
    META,
    MissingIdsError,
    SearchResult,
    Vectors,
    VectorStore,
    check_dim,
    empty_folder,
    no_store,
    read_meta,
)
from .topk import top_k

__all__ = ["MatrixStore"]

_COPY = 1 << 22  # values that `save` copies at once: 16 MB


class MatrixStore(VectorStore):
    """Vectors in memory (no path) or in a folder, searched exactly. This is the default backend.

    The file in a folder is memory-mapped, whatever its size. If the program dies, changes since the last `flush` are lost
    and earlier ones are safe. One program may write at a time and any number may read. A reader sees the store in the
    state in which it opened it, and should open it again after a writer has replaced or removed entries.

    Args:
        dim: length of a vector; needed for a new store, checked for an existing one.
        path: the folder; None keeps everything in memory.
        storage: "float32", or "float16": half the size, values rounded to 11 bits (relative error 2**-11) and at most
            65504. Default: the type that the folder holds, float32 for a new store.
        readonly: never write into the folder; it must hold a store.

    Raises:
        InputError: no dim for a new store, no store to read, a damaged store, or one with another dim or storage.
        VisionZooError: another program is writing to it, or the folder cannot be written.
    """

    backend: ClassVar[str] = "matrix"

    def __init__(
        self,
        dim: int | None = None,
        path: str | os.PathLike[str] | None = None,
        *,
        storage: str | None = None,
        readonly: bool = False,
    ) -> None:
        if storage is not None and storage not in STORAGE:
            raise InputError(f"unknown storage {storage!r}; use {' or '.join(STORAGE)}")
        self.path = None if path is None else Path(path)
        self.readonly = readonly
        self._closed = False
        new = self.path is None or not (self.path / META).exists()
        if self.path is None or new:
            if readonly:
                raise (
                    no_store(path)
                    if path is not None
                    else InputError("a store in memory cannot be opened for reading only")
                )
            if dim is None or dim < 1:
                raise InputError(f"dim must be the length of the vectors of a new store, e.g. dim=2048, got {dim}")
            meta = {**self._options(), "dim": dim, "storage": storage or "float32", "rows": 0, "norm_bound": 1.01}
        else:
            meta = self._checked(self.path, dim, storage)
        self.dim, self.storage = int(meta["dim"]), str(meta["storage"])
        self._rows: RowArray | RowFile
        if self.path is None:
            self._rows, ids = RowArray(self.dim, self.storage), np.empty(0, np.int64)
        else:
            self._rows = RowFile(self.path, {"stamp": secrets.token_hex(8), **meta}, new=new, readonly=readonly)
            meta = self._rows.meta
            try:
                ids = self._rows.read_ids()
            except BaseException:
                self._rows.close()
                raise
        self._norm_bound = float(meta["norm_bound"])
        self._stamp = str(meta.get("stamp", ""))
        self._begin(ids)

    def _options(self) -> dict[str, Any]:
        """Entries of META that describe the backend."""
        return {"backend": self.backend}

    def _checked(self, folder: Path, dim: int | None, storage: str | None) -> dict[str, Any]:
        """META, after checking that its values are valid and match the arguments."""
        meta, file = read_meta(folder), folder / META
        remedy = "restore it from a copy, or delete the folder and index again"
        if meta["backend"] not in ("matrix", "faiss"):  # both keep the original vectors in these files
            raise InputError(f"{file}: is a {meta['backend']} store; open it with visionzoo.memory.open_store")
        for key, kind in (("storage", str), ("rows", int), ("norm_bound", (int, float))):
            if not isinstance(meta.get(key), kind) or isinstance(meta[key], bool):
                raise InputError(f"{file}: is damaged ({key} is {meta.get(key)!r}); {remedy}")
        if meta["storage"] not in STORAGE or meta["rows"] < 0 or not 0 < meta["norm_bound"] < math.inf:
            raise InputError(f"{file}: is damaged (storage, rows or norm_bound is invalid); {remedy}")
        check_dim(dim, meta["dim"], file)
        if storage not in (None, meta["storage"]):
            raise InputError(
                f"{file}: holds {meta['storage']}, not {storage}; leave storage out, or index into another folder"
            )
        return meta

    def _begin(self, ids: NDArray[np.int64]) -> None:
        self._count = len(ids)  # all rows, in use or free
        self._row_ids = ids  # (capacity,) id of each row
        self._table = IdTable(ids)
        self._changed: list[NDArray[np.int64]] = []  # rows whose id differs from the one on disk
        self._freed: list[int] = []  # free, but an id on disk still points there: not overwritten before a flush
        named = np.flatnonzero(ids != FREE)
        # An interrupted replacement leaves an id in two rows: the last row is the valid one.
        stale = named[self._table.rows(ids[named]) != named]
        self._live = len(named) - len(stale)
        self._free = np.flatnonzero(ids == FREE).tolist()  # rows to reuse
        self._leftover = True  # whether the files may hold more rows than `ids`
        if len(stale):
            ids[stale] = FREE
            self._changed.append(stale)
            self._freed.extend(stale.tolist())

    def __len__(self) -> int:
        return self._live

    def ids(self) -> NDArray[np.int64]:
        row_ids = self._row_ids[: self._count]
        return np.sort(row_ids[row_ids != FREE])

    def _add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        self._check_open()
        if self.storage == "float16" and np.abs(vectors).max() > 65504:
            raise InputError("a vector holds a value above 65504, too large for float16; use storage='float32'")
        if isinstance(self._rows, RowFile) and self._leftover:
            self._rows.cut(self._count)
        self._leftover = False
        refilled = sorted(self._free[len(self._free) - min(len(ids), len(self._free)) :])
        end = self._count + len(ids) - len(refilled)
        rows = np.concatenate([np.array(refilled, np.int64), np.arange(self._count, end)])
        self._rows.write(rows, vectors)
        # The state of the store changes only after the rows were written without an error.
        self._norm_bound = max(self._norm_bound, _bound(vectors))
        del self._free[len(self._free) - len(refilled) :]
        if end > len(self._row_ids):
            grown = np.full(max(end, 2 * len(self._row_ids), 64), FREE, np.int64)
            grown[: self._count] = self._row_ids[: self._count]
            self._row_ids = grown
        replaced = self._table.rows(ids)
        replaced = replaced[replaced != FREE]
        self._row_ids[rows] = ids
        self._table.put(ids, rows)
        self._count = end
        self._live += len(ids)
        self._changed.append(rows)
        self._release(replaced)

    def _remove(self, ids: NDArray[np.int64]) -> int:
        self._check_open()
        rows = self._table.rows(ids)
        self._table.put(ids[rows != FREE], np.full(np.count_nonzero(rows != FREE), FREE))
        self._release(rows[rows != FREE])
        return int(np.count_nonzero(rows != FREE))

    def _release(self, rows: NDArray[np.int64]) -> None:
        self._row_ids[rows] = FREE
        self._live -= len(rows)
        if self._rows.durable:
            self._changed.append(rows)
            self._freed.extend(rows.tolist())
        else:
            self._free.extend(rows.tolist())

    def _matrix(self) -> np.ndarray:
        """All rows, (rows, dim) in the stored type; the content of free rows is undefined."""
        return self._rows.view(self._count)

    def _search(self, queries: Vectors, k: int) -> SearchResult:
        self._check_open()
        ids = self._row_ids[: self._count]
        return SearchResult(*top_k(queries, self._matrix(), k, ids=ids, norm_bound=self._norm_bound))

    def _fetch(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        self._check_open()
        rows = self._table.rows(ids)
        if (rows == FREE).any():
            raise MissingIdsError(np.unique(ids[rows == FREE]))
        return self._matrix()[rows].astype(np.float32)

    def flush(self) -> None:
        if not isinstance(self._rows, RowFile) or self.readonly or self._closed:
            self._changed = []
            return
        changed = np.unique(np.concatenate([*self._changed, np.empty(0, np.int64)]))
        if len(changed):
            stamp = secrets.token_hex(8)
            meta = {**self._rows.meta, "rows": self._count, "norm_bound": self._norm_bound, "stamp": stamp}
            self._rows.commit(self._row_ids, changed, meta)
            self._stamp = stamp
        self._changed = []
        self._free.extend(self._freed)
        self._freed = []

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a copy without the gaps of removed entries to the new or empty folder `path`."""
        self._check_open()
        if self.path is not None and Path(path).absolute() == self.path.absolute():
            self.flush()
            return
        target = empty_folder(path)
        with writing(target):
            part = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", dir=target.absolute().parent))
            try:
                with self._empty_copy(part / "store") as copy:
                    ids, step = self.ids(), max(1, _COPY // self.dim)
                    for start in range(0, len(ids), step):
                        some = ids[start : start + step]
                        copy.add(some, self.fetch(some))
                os.replace(part / "store", target)
            finally:
                shutil.rmtree(part, ignore_errors=True)

    def _empty_copy(self, path: Path) -> MatrixStore:
        """A new empty store of the same kind."""
        return MatrixStore(self.dim, path, storage=self.storage)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, readonly: bool = False) -> Self:
        if not (Path(path) / META).exists():
            raise no_store(path)
        return cls(None, path, readonly=readonly)

    def close(self) -> None:
        if self._closed:
            return
        try:
            self.flush()
        finally:
            self._closed = True
            self._rows.close()

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("this store is closed; open it again")


def _bound(vectors: NDArray[np.float32]) -> float:
    """A power of two (times 1.01) that no row's norm exceeds, even after rounding to float16; 1.01 for unit vectors."""
    longest = float(np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64).max()))
    return 1.01 if longest <= 1.005 else 1.01 * 2.0 ** math.ceil(math.log2(longest * 1.005))
