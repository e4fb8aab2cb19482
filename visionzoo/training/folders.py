"""Output folders of runs, which never overwrite an earlier run, and the checkpoints to resume from."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from visionzoo.console import note
from visionzoo.errors import InputError
from visionzoo.io.files import make_folder

CHILD = "VISIONZOO_RUN_FOLDER"
"""Environment variable that passes the folder chosen by the first process to the processes that Lightning starts."""


def new_folder(wanted: Path) -> Path:
    """`wanted`, or if it holds an earlier run, the first of `wanted`-2, `wanted`-3, … that does not."""
    if os.environ.get("LOCAL_RANK", "0") != "0" and CHILD in os.environ:
        return Path(os.environ[CHILD])
    folder = next(folder for folder in _numbered(wanted) if not holds_run(folder))
    if folder != wanted:
        note(
            f"{wanted}: holds an earlier run, so this one writes to {folder} (ckpt_path=last would resume the last one)"
        )
    os.environ[CHILD] = str(folder)
    return folder


def last_folder(wanted: Path) -> Path:
    """The latest run among `wanted`, `wanted`-2, `wanted`-3, … that has a checkpoint.

    Raises:
        InputError: none has one.
    """
    found = wanted
    for folder in _numbered(wanted):
        if not holds_run(folder):
            break
        if checkpoints(folder):
            found = folder
    if not checkpoints(found):
        raise InputError(
            f"ckpt_path=last: {wanted} holds no checkpoint; give ckpt_path=FILE, or omit ckpt_path to start a new run"
        )
    return found


def folder_of(checkpoint: Path, wanted: Path) -> Path | None:
    """The run among `wanted`, `wanted`-2, … that holds a checkpoint file; None if there is none."""
    place = checkpoint.absolute()
    return next((f for f in _numbered(wanted, most=1000) if place.is_relative_to(f.absolute())), None)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, newest first; `last.ckpt` comes before equally new ones."""
    found = {
        path for pattern in ("*.ckpt", "checkpoints/*.ckpt", "*/*/checkpoints/*.ckpt") for path in folder.glob(pattern)
    }
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.stem == "last"), reverse=True)


def holds_run(folder: Path) -> bool:
    """Whether a folder holds the result or a checkpoint of a training."""
    return bool(checkpoints(folder)) or any(folder.glob("weights*.safetensors"))


def check_writable(folder: Path) -> None:
    """Create a folder; raise `InputError` if it cannot be written to."""
    try:
        make_folder(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written to ({error.strerror}); choose another with trainer.default_root_dir=FOLDER"
        ) from error
    except InputError as error:
        raise InputError(f"{error}; choose another with trainer.default_root_dir=FOLDER") from error


def _numbered(folder: Path, most: int = 10**6) -> Iterator[Path]:
    yield folder
    yield from (folder.with_name(f"{folder.name}-{number}") for number in range(2, most))


__all__ = ["check_writable", "checkpoints", "folder_of", "holds_run", "last_folder", "new_folder"]
