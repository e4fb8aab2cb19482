"""A tensor that grows on disk: written in pieces, resumed after an interruption, read through a memory map.

The file is safetensors with one tensor, so other programs read it, too. While it grows it is called NAME.part.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, writing
from .files import check_name
from .head import read_head
from .locks import lock_file

__all__ = ["TensorFile", "TensorWriter"]

_HEADER_BYTES = 4096
"""Fixed size of the header, padded with spaces as safetensors allows, so that the number of rows can be written at the end."""
_DTYPES = {"float32": ("F32", np.dtype("<f4")), "float16": ("F16", np.dtype("<f2"))}
_NAME = "rows"


def _header(shape: Sequence[int], dtype: str, facts: Mapping[str, str]) -> bytes:
    code, kind = _DTYPES[dtype]
    size = math.prod(shape) * kind.itemsize
    tensor = {"dtype": code, "shape": list(shape), "data_offsets": [0, size]}
    text = json.dumps({"__metadata__": dict(facts), _NAME: tensor}).encode()
    if len(text) > _HEADER_BYTES - 8:
        raise InputError(
            f"the facts of a tensor file take {len(text)} bytes, more than {_HEADER_BYTES - 8}; shorten them"
        )
    return (_HEADER_BYTES - 8).to_bytes(8, "little") + text.ljust(_HEADER_BYTES - 8)


class TensorFile:
    """Rows of equal shape in a file, memory-mapped: `file[3]`, `file[2:8]`, `file[[5, 0]]` are float32 tensors on the CPU.

    `file[[5, 0], 2]` reads only number 2 of the rows' first dimension.

    It can be sent to other processes, e.g. the workers of a data loader, which map the file again.

    Args:
        path: a file that `TensorWriter` has written.

    Attributes:
        facts: what the writer was told about the rows.
        dtype: "float32" or "float16".
        shape: shape of all rows, (N, …).

    Raises:
        InputError: the file is missing, incomplete, or of another kind.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.facts, self.dtype, self.shape = _read_header(self.path)
        self._map: NDArray[Any] | None = None
        whole = _HEADER_BYTES + math.prod(self.shape) * _DTYPES[self.dtype][1].itemsize
        if (size := self.path.stat().st_size) != whole:
            raise InputError(f"{self.path}: is damaged ({size} bytes, expected {whole}); delete it, and make it again")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: SupportsIndex | slice | Sequence[int] | tuple[Sequence[int], int]) -> Tensor:
        if self._map is None:
            self._map = _mapped(self.path, self.dtype, self.shape)
        return torch.from_numpy(np.array(self._map[index], np.float32))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_map": None}


class TensorWriter:
    """Writes rows of equal shape to a file, and reads those that are written: `writer.append(rows)`, `writer[2:8]`.

    Used as a context manager. After the block the file has its name; if the block fails or is interrupted, NAME.part keeps
    the rows so far, and a writer with the same arguments continues after them (`len(writer)`). A NAME.part of other facts
    is deleted.

    Args:
        path: the file; it must not exist.
        shape: shape of a row.
        dtype: "float32" or "float16".
        facts: what else the rows depend on, as text.

    Raises:
        InputError: the file exists, NAME.part is of another kind or is being written by another program, or `dtype` is unknown.
        VisionZooError: the disk is full, or the folder cannot be written.
    """

    def __init__(
        self, path: str | Path, shape: Sequence[int], dtype: str = "float32", facts: Mapping[str, str] | None = None
    ):
        if dtype not in _DTYPES:
            raise InputError(f"unknown dtype {dtype!r} for a file; use {' or '.join(_DTYPES)}")
        self.path, self.row, self.dtype = check_name(path), tuple(shape), dtype
        self.facts = dict(facts or {})
        if self.path.exists():
            raise InputError(f"{self.path}: exists already; choose another name, or delete it")
        self.part = self.path.with_name(f"{self.path.name}.part")
        self._row_bytes = math.prod(self.row) * _DTYPES[dtype][1].itemsize
        self._map: NDArray[Any] | None = None
        self._count = 0
        own = _header((0, *self.row), dtype, self.facts)
        with writing(self.path):
            self._file: BinaryIO = self.part.open("r+b" if self.part.exists() else "w+b")
            try:
                self._resume(own)
            except BaseException:
                self._file.close()
                raise

    def _resume(self, header: bytes) -> None:
        """Go to the end of the rows in NAME.part; if it is of other facts, to the start of an empty one."""
        if not lock_file(self._file):
            raise InputError(
                f"{self.part}: another program is writing to it; wait until it ends, or choose another name"
            )
        found = self._file.read(_HEADER_BYTES)
        if found and found[:8] != header[:8]:
            raise InputError(f"{self.part}: exists and was not made by this command; move it or choose another output")
        if found == header:
            self._count = (self.part.stat().st_size - _HEADER_BYTES) // self._row_bytes
        else:
            self._file.truncate(0)
            self._file.seek(0)
            self._file.write(header)
            self._file.flush()
        self._file.truncate(_HEADER_BYTES + self._count * self._row_bytes)
        self._file.seek(0, os.SEEK_END)

    def __len__(self) -> int:
        return self._count

    def append(self, rows: Tensor) -> None:
        """Write `rows` (n, …) after those that are there.

        Raises:
            InputError: rows of another shape, or with values that are not finite in the file's dtype.
            VisionZooError: the disk is full; what was written before is kept.
        """
        if tuple(rows.shape[1:]) != self.row:
            raise InputError(f"{self.path}: holds rows of shape {self.row}, got {tuple(rows.shape[1:])}")
        with np.errstate(over="ignore"):  # reported below
            values = rows.detach().float().cpu().numpy().astype(_DTYPES[self.dtype][1])
        if not np.isfinite(values).all():
            raise InputError(f"{self.path}: got values that are not finite in {self.dtype}")
        with writing(self.path, keeps=f"{self._count} rows are kept in {self.part}"):
            self._file.write(values.tobytes())
            self._file.flush()
        self._count += len(values)

    def cut(self, count: int) -> None:
        """Drop all but the first `count` rows."""
        self._map = None
        with writing(self.path):
            self._file.truncate(_HEADER_BYTES + count * self._row_bytes)
            self._file.seek(0, os.SEEK_END)
        self._count = count

    def __getitem__(self, index: SupportsIndex | slice | Sequence[int]) -> Tensor:
        if self._map is None or len(self._map) < self._count:
            self._map = _mapped(self.part, self.dtype, (self._count, *self.row))
        return torch.from_numpy(np.array(self._map[index], np.float32))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._map = None
        with self._file, writing(self.path):
            if kind is None:
                self._file.seek(0)
                self._file.write(_header((self._count, *self.row), self.dtype, self.facts))
                self._file.flush()
                os.fsync(self._file.fileno())
        if kind is None:
            with writing(self.path):
                os.replace(self.part, self.path)
        elif not self._count:
            self.part.unlink(missing_ok=True)


def _mapped(path: Path, dtype: str, shape: Sequence[int]) -> NDArray[Any]:
    kind = _DTYPES[dtype][1]
    if not math.prod(shape):
        return np.empty(shape, kind)
    return np.memmap(path, kind, mode="r", offset=_HEADER_BYTES, shape=tuple(shape))


def _read_header(path: Path) -> tuple[dict[str, str], str, tuple[int, ...]]:
    """The facts, dtype and shape of a file. Raises `InputError`."""
    read_head(path, "a file of tensors")
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    try:
        if int.from_bytes(head[:8], "little") != _HEADER_BYTES - 8:
            raise ValueError("it has another header")
        found = json.loads(head[8:])
        dtype = next(name for name, (code, _) in _DTYPES.items() if code == found[_NAME]["dtype"])
        return dict(found["__metadata__"]), dtype, tuple(map(int, found[_NAME]["shape"]))
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise InputError(f"{path}: is not a file of tensors from visionzoo ({error})") from error
