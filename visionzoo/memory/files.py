"""The state of a bank in a folder: config.json and safetensors."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError, writing
from ..io.files import atomic_path, write_json

__all__ = ["CONFIG", "FORMAT", "read_config", "read_state", "write_state"]

CONFIG, FORMAT = "config.json", 1
_SHARD_BYTES = 5 * 10**9


def write_state(state: Mapping[str, Any], folder: str | os.PathLike[str]) -> None:
    """Write the `state_dict()` of a bank into `folder`, which is created; more than 5 GB are split into several files."""
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    path = Path(folder)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state["tensors"].items()}
        shards = split_torch_state_dict_into_shards(
            tensors, filename_pattern="memory{suffix}.safetensors", max_shard_size=_SHARD_BYTES
        )
        files = shards.filename_to_tensors or {"memory.safetensors": []}
        for file, names in files.items():
            with atomic_path(path / file) as temporary:
                save_file({name: tensors[name] for name in names}, temporary)
        # written last, so that a folder with a config is complete
        write_json(path / CONFIG, {**state["config"], "format": FORMAT, "kind": state["kind"], "files": [*files]})


def read_state(folder: str | os.PathLike[str], kinds: Mapping[str, str]) -> dict[str, Any]:
    """Read the `state_dict()` that `write_state` wrote.

    Raises:
        InputError: the folder holds no bank of one of `kinds`, or a damaged one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(folder)
    config = read_config(path, kinds)
    tensors: dict[str, Tensor] = {}
    for file in config["files"]:
        try:
            tensors |= load_file(path / file)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path / file}: cannot be read ({error}); save the bank again") from error
    return {"kind": config["kind"], "config": config, "tensors": tensors}


def read_config(folder: Path, kinds: Mapping[str, str]) -> dict[str, Any]:
    """Read and check config.json of a bank. Raises `InputError`."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{folder} holds no memory bank: there is no {CONFIG}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / CONFIG}: cannot be read ({error}); save the bank again") from error
    if not isinstance(config, dict) or config.get("kind") not in kinds:
        raise InputError(f"{folder / CONFIG} describes no memory bank; known kinds: {', '.join(kinds)}")
    if config.get("format") != FORMAT:
        raise InputError(f"{folder / CONFIG} has format {config.get('format')}; this version reads format {FORMAT}")
    files = config.get("files")
    if not isinstance(files, list) or not all(isinstance(f, str) and Path(f).name == f for f in files):
        raise InputError(f"{folder / CONFIG} lists files outside its folder, or none; save the bank again")
    return config
