"""Resuming interrupted work: finished parts are kept, and a message says how to resume."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import AGAIN, InputError, VisionZooError, writing

RESUME = "run the same command again to resume"

Row = tuple[dict[str, Any], NDArray[np.float32] | None]
"""Facts about an input, as JSON values, and a vector (N,) or None."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a message about what was kept and how to resume."""


class Rows:
    """Results of single inputs, kept in the file `OUTPUT.part` until the output made from all of them is written.

    A row is valid for an unchanged input (name, size, modification time) and the same settings; other rows are discarded.

    Args:
        output: the output that is made from the rows.
        settings: everything that the rows depend on, as JSON values.

    Raises:
        InputError: `OUTPUT.part` exists and was not made by this command, or it cannot be written.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any]):
        self.path = output.with_name(f"{output.name}.part")
        key = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
        self._base = sqlite3.connect(self.path)
        with self._writing():
            known = {name for (name,) in self._base.execute("select name from sqlite_master where type = 'table'")}
            if known - {"visionzoo_owner", "visionzoo_rows"}:
                raise sqlite3.DatabaseError("a database of something else")
            self._base.execute("create table if not exists visionzoo_owner (key text)")
            self._base.execute(
                "create table if not exists visionzoo_rows (input text primary key, stamp text, facts text, vector blob)"
            )
            if self._base.execute("select key from visionzoo_owner").fetchall() != [(key,)]:
                self._base.execute("delete from visionzoo_owner")
                self._base.execute("delete from visionzoo_rows")
                self._base.execute("insert into visionzoo_owner values (?)", (key,))
            self._base.commit()

    def get(self, source: Path) -> Row | None:
        """The row of an input; None if there is none or the file has changed."""
        found = self._base.execute(
            "select stamp, facts, vector from visionzoo_rows where input = ?", (_name(source),)
        ).fetchone()
        if found is None or found[0] != _stamp(source):
            return None
        return json.loads(found[1]), None if found[2] is None else np.frombuffer(found[2], np.float32)

    def put(self, rows: Iterable[tuple[Path, Row]]) -> None:
        """Store rows; they are on disk when this returns."""
        with self._writing():
            self._base.executemany(
                "insert or replace into visionzoo_rows values (?, ?, ?, ?)",
                [
                    (
                        _name(source),
                        _stamp(source),
                        json.dumps(facts),
                        None if vector is None else np.ascontiguousarray(vector, np.float32).tobytes(),
                    )
                    for source, (facts, vector) in rows
                ],
            )
            self._base.commit()

    def __len__(self) -> int:
        return int(self._base.execute("select count(*) from visionzoo_rows").fetchone()[0])

    def close(self, *, delete: bool) -> None:
        """Close the file; delete it if `delete` is set, e.g. after the output is written, or if it is empty."""
        delete = delete or not len(self)
        self._base.close()
        if delete:
            self.path.unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn SQLite's errors into our one-line errors."""
        try:
            with writing(self.path):
                try:
                    yield
                except sqlite3.OperationalError as error:
                    full = "full" in str(error)
                    raise OSError(errno.ENOSPC if full else errno.EACCES, str(error)) from error
        except sqlite3.DatabaseError as error:
            self._base.close()
            raise InputError(
                f"{self.path}: exists and was not made by this command ({error}); move it or choose another output"
            ) from error


@contextmanager
def resumable_folder(work: Path, key: str, *, keep: bool, finished: str = "*.done") -> Iterator[None]:
    """A folder for work in progress, deleted if the block succeeds. Work for another `key` is deleted first.

    Args:
        keep: keep the folder if the block fails or is interrupted; the message then says so.
        finished: pattern of the names of files with which work can resume; without any, the folder is not kept.

    Raises:
        InputError: the folder cannot be created, or holds other files.
    """
    stamp = work / "belongs_to"
    try:
        if work.exists() and not stamp.exists() and not (work.is_dir() and not any(work.iterdir())):
            raise InputError(f"{work}: exists and was not made by this command; move it or choose another output")
        if not stamp.exists() or stamp.read_text(errors="replace") != key:
            if work.exists():
                _delete(work, stamp, finished)
            work.mkdir(parents=True)
            stamp.write_text(key)
    except OSError as error:
        raise InputError(f"{work}: cannot be written ({error.strerror})") from error
    try:
        yield
    except BaseException as error:
        if not keep or not any(work.glob(finished)):  # nothing to resume
            _delete(work, stamp, finished)
            raise
        kept = f"finished work is kept in {work}"
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"interrupted; {kept}: {RESUME}") from None
        if isinstance(error, VisionZooError):
            raise type(error)(resumable(error, kept)) from error
        raise
    _delete(work, stamp, finished)


def _delete(work: Path, stamp: Path, finished: str) -> None:
    """Delete a folder of work in an order that another interruption does no harm to: first what work could resume with, which then
    would miss other files, and at last the stamp, without which the folder would be taken for someone else's."""
    for path in (*work.glob(finished), *(path for path in work.glob("*") if path != stamp)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
    shutil.rmtree(work, ignore_errors=True)


def resumable(error: VisionZooError, kept: str, how: str = RESUME) -> str:
    """The text of an error, what is kept, and how to resume, unless the text says already to run the command again.

    Args:
        how: `RESUME`, possibly with a condition, such as ", without --overwrite", which is kept in any case.
    """
    if AGAIN in str(error):
        return f"{error}; {kept}{how.removeprefix(RESUME)}"
    return f"{error}; {kept}: {how}"


def _name(source: Path) -> str:
    return str(source.absolute()).encode("utf-8", "backslashreplace").decode()


def _stamp(source: Path) -> str:
    try:
        about = source.stat()
    except OSError:
        return "gone"
    return f"{about.st_size} {about.st_mtime_ns}"


__all__ = ["RESUME", "Interrupted", "Row", "Rows", "resumable", "resumable_folder"]
