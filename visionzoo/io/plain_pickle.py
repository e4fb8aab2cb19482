"""Read pickles of plain data without running any code.

A pickle can run code when it is loaded. This reader accepts only lists, dictionaries, text, numbers and plain numeric arrays.
"""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, VisionZooError

MAX_BYTES = 64 << 20


def read_pickle(path: str | Path) -> Any:
    """Read lists, dictionaries, text, numbers and numeric arrays (as lists) from a pickle; no code in it is run.

    Raises:
        InputError: the file is missing, too large or damaged, or holds anything else.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"{path}: is larger than {MAX_BYTES >> 20} MB, the limit for a pickle of plain data")
    try:
        return _plain(_PlainUnpickler(io.BytesIO(data), encoding="latin1").load())
    except _RefusedError as error:
        raise InputError(
            f"{path}: contains {error}, which plain data never does; no code was run; get the file from its authors"
        ) from None
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f"{path}: not a pickle, or damaged ({type(error).__name__}: {error})") from error


class _RefusedError(VisionZooError):
    pass


class _Dtype:
    """Placeholder for a pickled numpy dtype; only integers, floats and booleans are accepted."""

    def __init__(self, code: str, *_: Any):
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?([iu][1248]|f[248]|b1)", code):
            raise _RefusedError(f"an array of type {str(code)[:40]!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Placeholder for a pickled numpy array: its bytes are read as numbers of its dtype."""

    values: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        self.values = _from_bytes(data, dtype).reshape(shape, order="F" if is_fortran else "C")


def _from_bytes(data: bytes | str, dtype: _Dtype) -> np.ndarray:
    if not isinstance(dtype, _Dtype):
        raise _RefusedError("an array without a type")
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype.dtype)


def _new_array(*_: Any) -> _Array:
    return _Array()


def _array_from_buffer(data: bytes, dtype: _Dtype, shape: tuple, order: str) -> _Array:
    array = _Array()
    array.values = _from_bytes(data, dtype).reshape(shape, order="F" if order == "F" else "C")
    return array


def _scalar(dtype: _Dtype, data: bytes | str) -> Any:
    return _from_bytes(data, dtype)[0].item()


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise _RefusedError(f"the codec {encoding!r}")
    return text.encode("latin1")


_KNOWN = {
    ("_codecs", "encode"): _latin1,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): "numpy.ndarray",  # only used as an argument of _reconstruct
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _new_array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _array_from_buffer),
        )
    },
}


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that imports nothing: the few names that numeric arrays need map to functions of this file."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _RefusedError(f"{module}.{name}")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _RefusedError("a reference to an external object")


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.values.tolist()
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("latin1")
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise _RefusedError(f"a value of type {type(value).__name__}")
