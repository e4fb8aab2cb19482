"""Saves memory banks in the folder of a pipeline."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..lazy import resolve
from .bank import KINDS, MemoryBank
from .files import CONFIG, read_config

__all__ = ["check_names", "load_memory", "save_memory"]

FOLDER = "memory"


def save_memory(banks: Mapping[str, MemoryBank], folder: str | os.PathLike[str]) -> None:
    """Write every bank to `folder`/memory/NAME: config.json and the content.

    Args:
        banks: banks by name; a name becomes a folder, so it consists of letters, digits, "_", "-" and "." only.
        folder: the folder of a pipeline, e.g. the one that `save_pretrained` wrote. Banks of the same names are replaced, others stay.

    Raises:
        InputError: a name that cannot be the name of a folder.
        VisionZooError: the folder cannot be written.
    """
    check_names(banks)
    for name, bank in banks.items():
        bank.save(Path(folder) / FOLDER / name)


def load_memory(
    folder: str | os.PathLike[str], arguments: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, MemoryBank]:
    """The banks that `save_memory` wrote, by name; none if there is no `folder`/memory.

    Args:
        arguments: arguments for the `load` method of a bank's class, by the name of the bank. A memory in weights needs its module:
            {"episode": {"module": unet}}.

    Raises:
        InputError: a bank is damaged, its arguments are missing, or there are arguments for a bank that does not exist.
    """
    arguments = dict(arguments or {})
    top = Path(folder) / FOLDER
    found = sorted(path for path in top.iterdir() if (path / CONFIG).exists()) if top.is_dir() else []
    if unknown := arguments.keys() - {path.name for path in found}:
        names = ", ".join(path.name for path in found) or "none"
        raise InputError(f"{top} holds no memory {', '.join(sorted(unknown))}; it holds: {names}")
    return {
        path.name: resolve(KINDS[read_config(path, KINDS)["kind"]]).load(path, **arguments.get(path.name, {}))
        for path in found
    }


def check_names(banks: Mapping[str, Any]) -> None:
    for name in banks:
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
            raise InputError(f"{name!r} cannot name a memory: use letters, digits, _, - and . (it becomes a folder)")
