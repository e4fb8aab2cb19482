"""Memory banks in a folder, as a pipeline keeps them beside its other parts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError, writing
from ..io.files import atomic_path, write_json
from ..lazy import resolve
from .bank import CONFIG, FORMAT, KINDS, TENSORS, MemoryBank, _read_config

__all__ = ["check_names", "load_memory", "read_state", "save_memory", "write_state"]

FOLDER = "memory"


def save_memory(banks: Mapping[str, MemoryBank], folder: str | os.PathLike[str]) -> None:
    """Write every bank to `folder`/memory/NAME: config.json and what it holds.

    Args:
        banks: by name: letters, digits, "_", "-" and "." only, as it becomes a folder.
        folder: of a pipeline, e.g. where `save_pretrained` wrote. A bank of that name is replaced, others stay.

    Raises:
        InputError: a name that is no folder's name.
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
        arguments: what `load` of a bank's class needs, by the name of the bank. A memory in weights needs its module:
            {"episode": {"module": unet}}.

    Raises:
        InputError: a bank that is damaged, lacks its arguments, or is not there although there are arguments for it.
    """
    arguments = dict(arguments or {})
    top = Path(folder) / FOLDER
    found = sorted(path for path in top.iterdir() if (path / CONFIG).exists()) if top.is_dir() else []
    if unknown := arguments.keys() - {path.name for path in found}:
        names = ", ".join(path.name for path in found) or "none"
        raise InputError(f"{top} holds no memory {', '.join(sorted(unknown))}; it holds: {names}")
    return {
        path.name: resolve(KINDS[_read_config(path)["kind"]]).load(path, **arguments.get(path.name, {}))
        for path in found
    }


def read_state(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The `state_dict()` of a bank that `MemoryBank.save` wrote, for `load_state_dict` of an equal one.

    Raises:
        InputError: no bank there, or a damaged one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(folder)
    config = _read_config(path)
    tensors: dict[str, Tensor] = {}
    for file in config["files"]:
        try:
            tensors |= load_file(path / file)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path / file}: cannot be read ({error}); save the bank again") from error
    return {"kind": config["kind"], "config": config, "tensors": tensors}


def write_state(state: Mapping[str, Any], folder: str | os.PathLike[str]) -> None:
    """Write the `state_dict()` of a bank into `folder`, so that `read_state` finds it."""
    from safetensors.torch import save_file

    path = Path(folder)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        with atomic_path(path / TENSORS) as temporary:
            save_file({name: value.cpu().contiguous() for name, value in state["tensors"].items()}, temporary)
        # last, so that a folder with a config is whole
        write_json(path / CONFIG, {**state["config"], "format": FORMAT, "kind": state["kind"], "files": [TENSORS]})


def check_names(banks: Mapping[str, Any]) -> None:
    for name in banks:
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
            raise InputError(f"{name!r} cannot name a memory: use letters, digits, _, - and . (it becomes a folder)")
