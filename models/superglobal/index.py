"""An index of photos on disk: a catalogue of files (SQLite) and a store of their descriptors.

    photos.index/
      manifest.json     which model made it, with which settings
      catalog.sqlite    id, path, size, times and digest of every file that was read, with the error if it could not be
      store/            the descriptors (visionzoo.memory)

Descriptors are written before the catalogue names them, in chunks, so that an interrupted run loses at most the current chunk and
the catalogue never points at a descriptor that is not there.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from visionzoo.console import printable
from visionzoo.errors import InputError, VisionZooError, writing
from visionzoo.io.files import write_json
from visionzoo.memory import IndexBank, VectorStore

from .identity import is_missing, looks_unmounted
from .planning import Entry, Found, Gone, Photo, Planner, Work, outer

FORMAT = 1
MANIFEST, CATALOG, STORE = "manifest.json", "catalog.sqlite", "store"


@dataclass(frozen=True)
class Manifest:
    """The model and settings that made an index; searching it with others is an error.

    Attributes:
        model: registered name or "timm:NAME".
        fingerprint: fingerprint of the weights (`visionzoo.weights.fingerprint`).
        dim: D, length of a descriptor.
        max_side: longest side in pixels to which photos are shrunk; None for native size.
        config: the model's configuration.
        checkpoint: the weights file that was given, if one was.
        store: options of the store ("backend", "url", …).
        format: version of this layout.
    """

    model: str
    fingerprint: str
    dim: int
    max_side: int | None
    config: dict[str, Any]
    checkpoint: str | None = None
    store: dict[str, Any] = field(default_factory=lambda: {"backend": "matrix"})
    format: int = FORMAT


class PhotoIndex:
    """Photos and their descriptors. Use `create` or `open`, and as a context manager.

    One process writes at a time; any number read.
    """

    def __init__(self, path: Path, manifest: Manifest, catalog: sqlite3.Connection, memory: IndexBank):
        self.path = path
        self.manifest = manifest
        self.memory = memory
        self._catalog = catalog

    @property
    def store(self) -> VectorStore:
        """The descriptors by photo id, as arrays."""
        return self.memory.store

    @classmethod
    def create(cls, path: str | Path, manifest: Manifest) -> PhotoIndex:
        """A new, empty index at `path`, a folder that does not exist yet or is empty."""
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path}: exists and is not an index of photos; choose another name for -o")
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            memory = IndexBank.open(path / STORE, dim=manifest.dim, **manifest.store)
            catalog = _connect(path / CATALOG)
            catalog.execute(
                "CREATE TABLE photos (id INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB UNIQUE NOT NULL, size INTEGER NOT NULL,"
                " mtime_ns INTEGER NOT NULL, width INTEGER, height INTEGER, error TEXT, ctime_ns INTEGER, digest BLOB, source BLOB)"
            )
            # the manifest last: a folder without one is not an index yet
            write_json(path / MANIFEST, asdict(manifest))
        return cls(path, manifest, catalog, memory)

    @classmethod
    def open(cls, path: str | Path, *, readonly: bool = True) -> PhotoIndex:
        """The index at `path`.

        Raises:
            InputError: no index there, one of another version, or a damaged one; the message says how to fix it.
        """
        path = Path(path)
        manifest = read_manifest(path)
        if not (path / CATALOG).is_file():
            raise InputError(f"{path}: is a damaged index ({CATALOG} is missing); make it again with --rebuild")
        try:
            catalog = _connect(path / CATALOG, readonly=readonly)
            catalog.execute("SELECT id, path, error FROM photos LIMIT 1").fetchone()
            if not readonly:
                _add_columns(catalog)
        except sqlite3.DatabaseError as error:
            raise _explain(path, error) from error
        try:
            memory = IndexBank.open(path / STORE, dim=manifest.dim, readonly=readonly, **manifest.store)
        except InputError as error:
            raise InputError(
                f"{error}; to make the index again, run `visionzoo retrieve index` with --rebuild"
            ) from error
        return cls(path, manifest, catalog, memory)

    def __enter__(self) -> PhotoIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except (OSError, VisionZooError):
            if error is None:
                raise  # else the first error, which led here, is the one to show

    def close(self) -> None:
        """Close the files."""
        try:
            with writing(self.path):
                self.memory.close()
        finally:
            self._catalog.close()

    def __len__(self) -> int:
        """Number of photos that can be found."""
        return self._catalog.execute("SELECT count(*) FROM photos WHERE error IS NULL").fetchone()[0]

    # Reading

    def photos(self, *, failed: bool | None = None) -> Iterator[Photo]:
        """All photos, or only those without (`failed=False`) or with an error (`failed=True`), by id."""
        where = {None: "", True: "WHERE error IS NOT NULL", False: "WHERE error IS NULL"}[failed]
        with self._reading():
            for row in self._catalog.execute(f"SELECT * FROM photos {where} ORDER BY id"):
                yield _photo(row)

    def photo(self, id_: int) -> Photo | None:
        """The photo with this id, if there is one."""
        with self._reading():
            row = self._catalog.execute("SELECT * FROM photos WHERE id = ?", (int(id_),)).fetchone()
        return None if row is None else _photo(row)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise _explain(self.path, error) from error

    def check(self) -> list[str]:
        """The problems of the index, one line each: descriptors that are missing, orphaned, not finite or not of unit length."""
        problems = []
        with self._reading():
            listed = np.array(
                [row[0] for row in self._catalog.execute("SELECT id FROM photos WHERE error IS NULL ORDER BY id")],
                dtype=np.int64,
            )
            state = self._catalog.execute("PRAGMA integrity_check").fetchone()[0]
        if state != "ok":
            problems.append(f"{CATALOG}: {state}")
        stored = self.store.ids()
        if len(missing := np.setdiff1d(listed, stored)):
            problems.append(f"{len(missing)} photos have no descriptor, e.g. {self._path_of(missing[0])}")
        present = np.intersect1d(listed, stored)
        for start in range(0, len(present), 4096):
            block = present[start : start + 4096]
            norms = np.linalg.norm(self.store.fetch(block), axis=1)
            bad = block[~(np.abs(norms - 1) < 1e-2)]
            problems += [f"the descriptor of {self._path_of(i)} is not a unit vector" for i in bad.tolist()]
        return problems

    def _path_of(self, id_: int) -> Path | None:
        photo = self.photo(id_)
        return photo and photo.path

    # Writing

    def plan(self, files: Sequence[Found]) -> Work:
        """The work to do for `files`, which are all different."""
        return Planner(list(self.photos()), set(self.store.ids().tolist())).plan(files)

    def keep(self, same: Sequence[tuple[Photo, Found, os.stat_result]]) -> None:
        """Record where unchanged photos lie now, and their times."""
        changed = [
            (_encode(found.path), stat.st_mtime_ns, stat.st_ctime_ns, _encode(source), photo.id)
            for photo, found, stat in same
            for source in [outer(photo.source, found.source)]
            if (photo.path, photo.mtime_ns, photo.ctime_ns, photo.source)
            != (found.path, stat.st_mtime_ns, stat.st_ctime_ns, source)
        ]
        if changed:
            with writing(self.path), self._changing() as cursor:
                cursor.executemany(
                    "UPDATE photos SET path = ?, mtime_ns = ?, ctime_ns = ?, source = ? WHERE id = ?", changed
                )

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Cursor]:
        """A transaction of the catalogue."""
        with self._reading():
            cursor = self._catalog.cursor()
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield cursor
                self._catalog.commit()
            except BaseException:
                self._catalog.rollback()
                raise

    def put(self, entries: Iterable[Entry]) -> None:
        """Add or replace photos in one step."""
        entries = list(entries)
        with writing(self.path, f"{len(self)} photos are kept in the index"), self._changing() as cursor:
            ids, vectors, stale = [], [], []
            for entry in entries:
                width, height = entry.size or (None, None)
                row = cursor.execute(
                    "INSERT INTO photos (path, size, mtime_ns, width, height, error, ctime_ns, digest, source)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET size = excluded.size,"
                    " mtime_ns = excluded.mtime_ns, width = excluded.width, height = excluded.height, error = excluded.error,"
                    " ctime_ns = excluded.ctime_ns, digest = excluded.digest, source = excluded.source RETURNING id",
                    (
                        _encode(entry.found.path), entry.stat.st_size, entry.stat.st_mtime_ns, width, height,
                        entry.error and printable(entry.error), entry.stat.st_ctime_ns, entry.digest, _encode(entry.found.source),
                    ),
                ).fetchone()  # fmt: skip
                if entry.vector is None:
                    stale.append(row[0])
                else:
                    ids.append(row[0])
                    vectors.append(entry.vector)
            if ids:
                self.memory.write(np.stack(vectors), np.array(ids, dtype=np.int64))
            if stale:
                self.memory.remove(np.array(stale, dtype=np.int64))
            self.memory.flush()  # descriptors are on disk before the catalogue names them

    def gone(self, seen: Container[Path] = ()) -> Gone:
        """Listed photos whose file no longer exists.

        Args:
            seen: files that are known to exist.
        """
        missing, failed, alive = list[Photo](), list[Photo](), set[Path]()
        for photo in self.photos():
            if photo.path not in seen and is_missing(photo.path):
                (missing if photo.error is None else failed).append(photo)
            elif photo.error is None:
                alive.add(photo.home)
        deleted, unsure = list[Photo](), list[Photo]()
        for photo in missing:
            (deleted if photo.home in alive and not looks_unmounted(photo.path) else unsure).append(photo)
        return Gone(deleted, unsure, failed)

    def remove(self, photos: Sequence[Photo]) -> None:
        """Take photos out of the index (their files are not touched)."""
        ids = np.array([photo.id for photo in photos], dtype=np.int64)
        with writing(self.path), self._reading():
            # the catalogue first: an orphaned descriptor is skipped, a photo without one would be an error
            with self._changing() as cursor:
                cursor.executemany("DELETE FROM photos WHERE id = ?", [(int(i),) for i in ids])
            self.memory.remove(ids)
            self.memory.flush()

    def drop_orphans(self) -> int:
        """Remove descriptors that no photo owns (left by a run that was killed between two writes)."""
        with self._reading():
            listed = [row[0] for row in self._catalog.execute("SELECT id FROM photos WHERE error IS NULL")]
        orphans = np.setdiff1d(self.store.ids(), np.array(listed, dtype=np.int64))
        if len(orphans):
            self.memory.remove(orphans)
            self.memory.flush()
        return len(orphans)


def is_index_folder(path: Path) -> bool:
    """Whether `path` is a folder with the files of an index, whole or damaged, and nothing else in it."""
    ours = {MANIFEST, CATALOG, STORE, f"{CATALOG}-journal"}
    names = {item.name for item in path.iterdir()} if path.is_dir() else set()
    known = (path / MANIFEST).is_file() or (path / CATALOG).is_file() or (path / STORE / "store.json").is_file()
    return known and not names - ours


def is_unfinished(path: Path) -> bool:
    """Whether `path` holds the remains of a run that was killed before the first photo was in the index."""
    if not is_index_folder(path) or (path / MANIFEST).exists():
        return False
    if not (path / CATALOG).exists():
        return True
    try:
        with contextlib.closing(_connect(path / CATALOG, readonly=True)) as catalog:
            tables = catalog.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            return tables == 0 or catalog.execute("SELECT count(*) FROM photos").fetchone()[0] == 0
    except sqlite3.DatabaseError:
        return False


def read_manifest(path: Path) -> Manifest:
    """The manifest of the index at `path`. Raises `InputError` if there is none, or one that cannot be read."""
    if not path.exists():
        raise InputError(f"{path}: no such index; make it with: visionzoo retrieve index PHOTOS -o {path}")
    file = path / MANIFEST
    if not path.is_dir() or not file.exists():
        raise InputError(
            f"{path}: is not an index of photos; make one with: visionzoo retrieve index PHOTOS -o NAME.index"
        )
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if data.get("format") != FORMAT:
            raise InputError(
                f"{path}: has index format {data.get('format')!r}, but this version reads {FORMAT}; make it again with --rebuild"
            )
        return Manifest(**data)
    except (ValueError, TypeError, AttributeError) as error:
        if isinstance(error, VisionZooError):
            raise
        raise InputError(f"{path}: is a damaged index ({MANIFEST}: {error}); make it again with --rebuild") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _explain(path: Path, error: sqlite3.DatabaseError) -> VisionZooError:
    """The error to raise: a full disk, a lock or a missing permission is not damage."""
    text = str(error)
    if "full" in text:
        return VisionZooError(
            f"{path}: the disk is full; free some space and run the command again (finished work is kept)"
        )
    if "locked" in text:
        return VisionZooError(f"{path}: another process is writing this index; wait for it to end")
    if "readonly" in text or "unable to open" in text:
        return VisionZooError(f"{path}: no permission to write this index")
    return InputError(f"{path}: is a damaged index ({CATALOG}: {error}); make it again with --rebuild")


def _connect(path: Path, readonly: bool = False) -> sqlite3.Connection:
    mode = "?mode=ro" if readonly else ""
    if readonly and not os.access(path.parent, os.W_OK):
        mode += "&immutable=1"  # SQLite would create a journal next to the file, which a read-only folder forbids
    # the pages of a demo read from several threads; Python's module serialises the calls
    return sqlite3.connect(f"{path.absolute().as_uri()}{mode}", uri=True, isolation_level=None, check_same_thread=False)


def _add_columns(catalog: sqlite3.Connection) -> None:
    """Columns that the catalogue of an earlier version lacks."""
    there = {row[1] for row in catalog.execute("PRAGMA table_info(photos)")}
    for name, kind in (("ctime_ns", "INTEGER"), ("digest", "BLOB"), ("source", "BLOB")):
        if name not in there:
            catalog.execute(f"ALTER TABLE photos ADD COLUMN {name} {kind}")


def _encode(path: Path) -> bytes:
    return os.fsencode(path.absolute())


def _photo(row: tuple) -> Photo:
    """A row with its columns in the order of the table, the last three of which an earlier version lacks."""
    id_, path, size, mtime_ns, width, height, error, *more = row
    ctime_ns, digest, source = more or (None, None, None)
    place = None if source is None else Path(os.fsdecode(source))
    return Photo(id_, Path(os.fsdecode(path)), size, mtime_ns, width, height, error, ctime_ns, digest, place)
