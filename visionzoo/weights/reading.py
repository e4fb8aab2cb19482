"""Read and write checkpoint files. By default, reading runs no code: safetensors, or `torch.load(weights_only=True)`."""

from __future__ import annotations

import hashlib
import json
import pickle
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import WeightsError
from ..io.files import atomic_path
from ..io.head import read_head

StateDict = dict[str, Tensor]


def read_checkpoint(path: str | PathLike[str], *, unsafe: bool = False, safe_classes: Sequence[type] = ()) -> Any:
    """Read the content of a checkpoint file to the CPU: a state dict, or a dictionary that contains it.

    Args:
        path: a `.safetensors` file, or a file written by `torch.save`.
        safe_classes: plain container classes that a published file holds besides tensors, and that run no code.
        unsafe: allow a pickle to run code. Use this only for files from authors you trust.

    Raises:
        WeightsError: see `read_head`; or the file is truncated, not a checkpoint, a TorchScript archive, or a pickle that
            needs `unsafe`.
    """
    path = Path(path)
    head = read_head(path, "a checkpoint file", WeightsError)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path}: damaged or truncated safetensors file ({error}); download it again") from error
    if head.startswith(b"PK"):
        _check_archive(path)
    elif not head.startswith(_PICKLE) and not tarfile.is_tarfile(path):
        raise WeightsError(f"{path}: is not a checkpoint, expected a file written by torch.save or a .safetensors file")
    try:
        with torch.serialization.safe_globals(list(safe_classes)):
            return torch.load(path, map_location="cpu", weights_only=not unsafe)
    except pickle.UnpicklingError as error:
        if "nsupported" in str(error) or "weights_only" in str(error) or "WeightsUnpickler" in str(error):
            raise WeightsError(
                f"{path}: holds more than tensors and would run code when read ({_first_line(error)}); if you trust its "
                f"author, convert it once: visionzoo weights convert {path} OUT.safetensors --unsafe"
            ) from error
        raise WeightsError(f"{path}: not a checkpoint, or damaged ({_first_line(error)})") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError, IndexError) as error:
        raise WeightsError(f"{path}: not a checkpoint, or damaged ({_first_line(error)})") from error


_PICKLE = b"\x80"
"""First byte of every pickle written by torch.save (protocol 2 and later)."""


def _check_archive(path: Path) -> None:
    """Raise `WeightsError` for a zip file that is truncated, or that is a TorchScript program and not a state dict."""
    if not zipfile.is_zipfile(path):
        raise WeightsError(f"{path}: truncated checkpoint (the archive has no end); download it again")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if _is_program(names):
        raise WeightsError(
            f"{path}: is a TorchScript archive (a network with its code), expected a state dict; if you trust its author, "
            "extract it with: torch.save(torch.jit.load(FILE).state_dict(), OUT)"
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise WeightsError(f"{path}: is a zip file, not a checkpoint; if the checkpoint is inside, unpack it first")


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    informative = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
    return (informative or lines or [type(error).__name__])[0].strip()[:160]


NESTED = ("model_state", "state_dict", "model", "params", "network")
"""Keys under which training programs store the network, in the order of search."""


LIGHTNING_ENTRY = "visionzoo"
"""Key of the metadata in our training checkpoints, in addition to Lightning's own entries."""


def find_state_dict(loaded: Any, where: str = "the checkpoint") -> StateDict:
    """Find the state dict in a loaded checkpoint, without the `module.` prefix of data-parallel training.

    For a Lightning checkpoint, these are the weights that its training would export: those of `model`, or their average.
    """
    if isinstance(loaded, Mapping) and "pytorch-lightning_version" in loaded and "state_dict" in loaded:
        prefix = loaded.get(LIGHTNING_ENTRY, {}).get("prefix", "model.")
        network = {k.removeprefix(prefix): v for k, v in loaded["state_dict"].items() if k.startswith(prefix)}
        loaded = network or loaded
    seen = 0
    while isinstance(loaded, Mapping) and seen < 4:
        inner = next((key for key in NESTED if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            break
        loaded, seen = loaded[inner], seen + 1
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{where} holds a {type(loaded).__name__}, expected a dictionary of tensors")
    state = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
    if not state:
        raise WeightsError(f"{where} holds no tensors; its keys are {', '.join(map(str, list(loaded)[:8])) or 'none'}")
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def save_safetensors(
    state: Mapping[str, Tensor], path: str | PathLike[str], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors as safetensors, atomically."""
    with atomic_path(Path(path)) as temporary:
        save_file({key: value.detach().cpu().contiguous().clone() for key, value in state.items()}, temporary, metadata)


def read_metadata(path: str | PathLike[str]) -> dict[str, str]:
    """The metadata that `save_safetensors` or our training stored with the tensors; empty for other files.

    Raises:
        WeightsError: the file is missing, or has the extension .safetensors but is not such a file.
    """
    if Path(path).suffix != ".safetensors":
        return _lightning_texts(Path(path))
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file") from error
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: is not a safetensors file ({_first_line(error)})") from error


def _is_program(names: list[str]) -> bool:
    """Whether an archive with files of these names is a TorchScript program."""
    return any(name.endswith("/constants.pkl") for name in names)


def _lightning_texts(path: Path) -> dict[str, str]:
    if not zipfile.is_zipfile(path):
        return {}
    try:
        with zipfile.ZipFile(path) as archive:
            if _is_program(archive.namelist()):
                return {}  # torch.load would warn of it, before `read_checkpoint` refuses it
        loaded = torch.load(
            path, map_location="cpu", weights_only=True, mmap=True
        )  # maps the tensors without reading them
    except (
        pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError, IndexError,
    ):  # fmt: skip
        return {}  # `read_checkpoint` reports the reason when the weights are loaded
    ours = loaded.get(LIGHTNING_ENTRY) if isinstance(loaded, Mapping) else None
    facts = ours.get("facts", {}) if isinstance(ours, Mapping) else {}
    return {key: fact if isinstance(fact, str) else json.dumps(fact) for key, fact in facts.items()}


def fingerprint(model: nn.Module, values: int | None = None) -> str:
    """A fingerprint of a model's weights: 16 hex digits that change with any parameter or buffer.

    Args:
        values: look at no more than about this many values of each tensor, evenly spaced: enough to tell trainings apart, and
            fast for large models. None for all.
    """
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        flat = value.detach().reshape(-1)
        if values is not None:
            flat = flat[:: max(1, flat.numel() // values)]
        digest.update(flat.cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()[:16]
