"""Output files that are written completely or not at all, and sidecars that record how a result was made."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import InputError, writing


def check_output(path: str | Path, *, overwrite: bool = False) -> Path:
    """Return `path` if it may be written: it is a new name, or an existing file with `overwrite`.

    Raises:
        InputError: the file exists and `overwrite` is off, it is a folder, or its folder does not exist.
    """
    path = check_name(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected the name of a file to write")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; choose another name or add --overwrite")
    folder = path.absolute().parent
    if not folder.is_dir():
        taken = next((place for place in (folder, *folder.parents) if place.exists()), folder)
        problem = f"{taken} is a file, not a folder" if taken.is_file() else f"the folder {folder} does not exist"
        raise InputError(f"{path}: {problem}; {'choose another name' if taken.is_file() else 'create it first'}")
    return path


def check_name(path: str | Path) -> Path:
    """Return `path` if the file system accepts a name of this length; raise `InputError` if not."""
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.EINVAL):
            raise InputError(f"{path}: the name is too long for this file system; choose a shorter one") from error
    return Path(path)


def make_folder(path: str | Path) -> Path:
    """Return `path`, a folder that is created if it does not exist. Raises `InputError` if that is impossible."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise InputError(f"{path}: is a file, expected a folder") from error
    except OSError as error:
        raise InputError(f"{path}: the folder cannot be created ({error.strerror})") from error
    return path


def remove_empty(folder: Path) -> None:
    """Delete a folder and its subfolders if they are empty."""
    for base, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):  # not empty
            os.rmdir(base)


def bundled(*parts: str) -> Path:
    """The path of a file or folder that comes with visionzoo (`visionzoo/assets`)."""
    return Path(str(resources.files("visionzoo")), "assets", *parts)


def copy_bundled(part: str, folder: str | Path, names: list[str], *, overwrite: bool = False) -> list[Path]:
    """Copy bundled files from the folder `part` to `folder`, which is created if it does not exist; return the copies.

    Raises:
        InputError: the folder or a file cannot be written, or a file exists and `overwrite` is off.
    """
    folder = make_folder(folder)
    paths = [check_output(folder / name, overwrite=overwrite) for name in names]
    for path in paths:
        with atomic_path(path) as temporary:
            shutil.copyfile(bundled(part, path.name), temporary)
    return paths


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; it replaces `path` if the block succeeds and is deleted if it fails."""
    path = Path(path)
    with writing(path):
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name[:40]}.", suffix=path.suffix or ".part", dir=path.absolute().parent
        )
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # mkstemp creates private files
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8; undecodable bytes of file names become escapes, which are valid in JSON, too."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def write_json(path: str | Path, data: Any) -> None:
    """Write `data` as JSON to `path` atomically."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def record(options: Mapping[str, Any]) -> dict[str, Any]:
    """What a sidecar `OUT.json` records about a result: command line, options, time, versions, device."""
    from ..devices import environment

    return {
        "command": sys.argv,
        "options": dict(options),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
    }
