"""The tensors of a TorchScript archive, without running it.

`torch.jit.load` compiles and can run the code in an archive, so it must not open untrusted files. An archive is a zip file: `data.pkl`
pickles a tree of modules, and each tensor's numbers are in `data/`. The reader here knows modules as plain
dictionaries, and tensors; it refuses everything else and never looks at the code.
"""

from __future__ import annotations

import io
import math
import pickle
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visionzoo.errors import WeightsError
from visionzoo.io.files import atomic_path
from visionzoo.io.head import read_head

LARGEST_ENTRY = 256 << 20
LARGEST_PICKLE = 4 << 20

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
}


def read_torchscript(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a TorchScript archive, {"0.weight": …}; its code is not run.

    Raises:
        WeightsError: the file is missing, damaged, not a TorchScript archive, or holds anything but modules and tensors.
    """
    path = Path(path)
    read_head(path, "a TorchScript archive", WeightsError)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            data = next((name for name in names if name.endswith("data.pkl") and name.count("/") <= 1), None)
            if data is None or not any(name.endswith("constants.pkl") for name in names):
                raise WeightsError(f"{path}: is not a TorchScript archive")
            root = data.removesuffix("data.pkl")
            if root + "byteorder" in names and _entry(archive, root + "byteorder", 16) != b"little":
                raise WeightsError(
                    f"{path}: must be a little-endian archive, got a big-endian one; save it again with torch"
                )
            tree = _Unpickler(archive, root, _entry(archive, data, LARGEST_PICKLE)).load()
        state: dict[str, Tensor] = {}
        _collect(tree, "", state, 0)
    except WeightsError:
        raise
    except _RefusedError as error:
        raise WeightsError(f"{path}: holds {error}, which networks never need; nothing was run") from None
    except Exception as error:  # a damaged archive can raise any error
        raise WeightsError(
            f"{path}: is not a TorchScript archive, or is damaged ({type(error).__name__}: {error})"
        ) from error
    if not state:
        raise WeightsError(f"{path}: holds no tensors")
    return state


def write_torchscript(network: nn.Module, path: str | Path) -> None:
    """Write a network as a TorchScript archive, which the published code loads."""
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # torch.jit is deprecated; the published format is not ours to choose
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(network.cpu()).save(str(temporary))


class _RefusedError(Exception):
    pass


class _Module:
    """Stands for any module of an archive: its attributes, nothing else."""

    attributes: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class _Unpickler(pickle.Unpickler):
    """Nothing is ever imported: the few names that an archive needs stand for classes of this file."""

    def __init__(self, archive: zipfile.ZipFile, root: str, data: bytes):
        super().__init__(io.BytesIO(data))
        self._archive, self._root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _DTYPES:
            return name
        raise _RefusedError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, storage, key, _, count = pid
        if kind != "storage" or storage not in _DTYPES or not str(key).isdigit():
            raise _RefusedError("a reference to an external object")
        dtype = _DTYPES[storage]
        data = _entry(self._archive, f"{self._root}data/{key}", LARGEST_ENTRY)
        if len(data) != count * dtype.itemsize:
            raise ValueError(f"storage {key} has {len(data)} bytes for {count} numbers")
        return torch.frombuffer(bytearray(data), dtype=dtype) if count else torch.empty(0, dtype=dtype)


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """A tensor on its storage; one that repeats numbers could be of any size, and is refused."""
    if not isinstance(storage, Tensor) or min((offset, *size, *stride), default=0) < 0 or len(size) != len(stride):
        raise ValueError("a tensor without numbers")
    if math.prod(size) > storage.numel():
        raise _RefusedError("a tensor larger than its numbers")
    return torch.as_strided(storage, size, stride, offset).clone()


def _entry(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    if archive.getinfo(name).file_size > most:
        raise _RefusedError(f"the entry {name} of more than {most >> 20} MB")
    return archive.read(name)


def _collect(value: Any, prefix: str, state: dict[str, Tensor], depth: int) -> None:
    if depth > 32:
        raise _RefusedError("modules nested without end")
    if isinstance(value, Tensor):
        state[prefix] = value
    elif isinstance(value, _Module):
        for name, inner in getattr(value, "attributes", {}).items():
            _collect(inner, f"{prefix}.{name}" if prefix else str(name), state, depth + 1)


__all__ = ["read_torchscript", "write_torchscript"]
