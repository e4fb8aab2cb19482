"""The interface of all vector stores, whichever backend keeps the vectors."""

from __future__ import annotations

import contextlib
import json
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError, VisionZooError, writing
from ..io.files import atomic_path
from ..lazy import resolve

__all__ = [
    "BACKENDS",
    "META",
    "MissingIdsError",
    "SearchResult",
    "VectorStore",
    "open_store",
    "read_meta",
    "write_meta",
]

META = "store.json"  # in the folder of a store: backend, dim, and options of the backend
FORMAT = 1
BACKENDS = {
    "matrix": "visionzoo.memory.matrix:MatrixStore",
    "faiss": "visionzoo.memory.faiss_store:FaissStore",
    "qdrant": "visionzoo.memory.qdrant_store:QdrantStore",
}
LONGEST = 1e15  # maximum norm of a vector; the inner product of two such vectors is far from overflow in float32

Vectors = np.ndarray | torch.Tensor
Ids = ArrayLike | torch.Tensor


class MissingIdsError(VisionZooError, KeyError):
    """The store does not hold some of the requested ids; `.ids` lists them."""

    def __init__(self, ids: NDArray[np.int64]) -> None:
        self.ids = ids
        shown = ", ".join(str(i) for i in ids[:10].tolist()) + (", …" if len(ids) > 10 else "")
        super().__init__(f"{len(ids)} id(s) are not in the store: {shown}; ids() lists those that are")

    __str__ = Exception.__str__  # KeyError would show the message in quotes


@dataclass(frozen=True)
class SearchResult:
    """The best entries for each query, best first; equal scores are ordered by id."""

    ids: NDArray[np.int64]  # (Q, k)
    scores: NDArray[np.float32]  # (Q, k) inner products


class VectorStore(ABC):
    """Vectors under integer ids, searched by inner product.

    All backends give the same ranking for the same vectors: by score, which is summed in float64 and rounded to float32
    (`topk.exact_scores`), then by the lower id. Only one thread at a time may change a store; searches may run in parallel.
    """

    backend: ClassVar[str]
    dim: int
    readonly: bool = False

    # --- implemented by a backend; the arguments have been checked ---

    @abstractmethod
    def _add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None: ...

    @abstractmethod
    def _search(self, queries: Vectors, k: int) -> SearchResult: ...

    @abstractmethod
    def _fetch(self, ids: NDArray[np.int64]) -> NDArray[np.float32]: ...

    @abstractmethod
    def _remove(self, ids: NDArray[np.int64]) -> int: ...

    @abstractmethod
    def ids(self) -> NDArray[np.int64]:
        """All ids, (N,) int64, ascending."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def flush(self) -> None:
        """Make all changes so far durable, so that they survive a crash."""

    @abstractmethod
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the store to the folder `path`, which must be new or empty, so that `load` finds it."""

    @classmethod
    @abstractmethod
    def load(cls, path: str | os.PathLike[str], *, readonly: bool = False) -> Self:
        """Open the store in the folder `path`. Raises `InputError` if there is none, a damaged one, or another kind."""

    @abstractmethod
    def close(self) -> None:
        """Flush, and close files and connections. A closed store cannot be used."""

    # --- the public interface ---

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Store `vectors` under `ids`; the vector of an existing id is replaced.

        Args:
            ids: (n,) distinct integers >= 0.
            vectors: (n, dim) finite floats, stored as float32 unless the store has another type.

        Raises:
            InputError: wrong shapes, NaN or infinity, a repeated or negative id, or a read-only store.
        """
        self._check_writable()
        checked = _check_ids(ids)
        values = np.ascontiguousarray(_numpy(vectors, "vectors"), np.float32)
        if values.shape != (len(checked), self.dim):
            raise InputError(
                f"vectors of shape {values.shape} do not fit; expected ({len(checked)}, {self.dim}): a row for each id"
            )
        _check_finite(values, "vectors", checked)
        if len(np.unique(checked)) != len(checked):
            values_, counts = np.unique(checked, return_counts=True)
            raise InputError(f"id {values_[counts > 1][0]} is given twice in one call; give every id once")
        if len(checked):
            self._add(checked, values)

    def search(self, queries: Vectors, k: int) -> SearchResult:
        """The k entries with the largest inner product for each of (Q, dim) finite queries.

        `k` is limited to the number of entries, so an empty store gives (Q, 0) results.

        Raises:
            InputError: a shape that does not fit, NaN or infinity in a query, or k below 1.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}")
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise InputError(f"queries of shape {tuple(queries.shape)} do not fit; expected (Q, {self.dim})")
        values = np.ascontiguousarray(_numpy(queries, "queries"), np.float32)
        _check_finite(values, "queries", None)
        on_device = None
        if isinstance(queries, torch.Tensor) and queries.device.type != "cpu":
            on_device = queries.detach().float()
        k = min(k, len(self))
        if k == 0 or len(values) == 0:
            return SearchResult(np.empty((len(values), k), np.int64), np.empty((len(values), k), np.float32))
        return self._search(on_device if on_device is not None else values, k)

    def fetch(self, ids: Ids) -> NDArray[np.float32]:
        """The vectors of (n,) ids in the given order, (n, dim) float32; ids may be repeated.

        Raises:
            MissingIdsError: a `KeyError` that lists the ids that are not there.
        """
        return self._fetch(_check_ids(ids))

    def remove(self, ids: Ids) -> int:
        """Remove the entries of (n,) ids; unknown ids are ignored. Returns the number of removed entries."""
        self._check_writable()
        checked = np.unique(_check_ids(ids))
        return self._remove(checked) if len(checked) else 0

    def count(self) -> int:
        """The number of entries."""
        return len(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_writable(self) -> None:
        if self.readonly:
            raise InputError(
                f"this {self.backend} store is open for reading only; open it with readonly=False to change it"
            )


def open_store(
    path: str | os.PathLike[str] | None = None,
    *,
    backend: str | None = None,
    dim: int | None = None,
    readonly: bool = False,
    **options: Any,
) -> VectorStore:
    """Open the store in the folder `path`, or create one.

    Args:
        path: a folder. None: the store is in memory and lost when closed.
        backend: "matrix", "faiss" or "qdrant". Default: the backend of the store in the folder, "matrix" for a new store.
        dim: length of a vector; needed for a new store, checked for an existing one.
        readonly: never write into the folder; the store must exist.
        options: options of the backend's class, e.g. storage="float16" (matrix), kind="ivf" (faiss), url=… (qdrant).

    Raises:
        InputError: there is no store (with `readonly`), it is damaged, or it has another dimension or backend.
        MissingDependencyError: the backend's package is not installed.
    """
    if backend is not None and backend not in BACKENDS:
        raise InputError(f"unknown backend {backend!r}; use {', '.join(BACKENDS)}")
    if path is not None and (Path(path) / META).exists():
        found = read_meta(path)["backend"]
        # Both keep the same rows and faiss only adds an index, so each can open the other's folder on request.
        if backend not in (None, found) and {backend, found} != {"matrix", "faiss"}:
            raise InputError(
                f"{Path(path) / META}: is a {found} store, not {backend}; name no backend, or choose another folder"
            )
        backend = backend or found
        if found == "qdrant":
            options["dim"] = dim
            return resolve(BACKENDS[found]).load(path, readonly=readonly, **options)
    elif path is not None and readonly:
        raise no_store(path)
    if backend == "qdrant":
        if path is not None and not {"url", "path"} & options.keys():
            options["path"] = str(Path(path) / "qdrant")
        store = resolve(BACKENDS[backend])(dim=dim, readonly=readonly, **options)
        if path is not None:
            store.record(path)
        return store
    return resolve(BACKENDS[backend or "matrix"])(dim, path, readonly=readonly, **options)


# --- the JSON file next to the data ---


def no_store(path: str | os.PathLike[str]) -> InputError:
    return InputError(f"{path}: holds no vector store (no {META}); index some photos into it first or check the name")


def read_meta(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read META in `folder`. Raises `InputError` if it is missing, damaged, or of an unknown version."""
    file = Path(folder) / META
    remedy = "restore it from a copy, or delete the folder and index again"
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise no_store(folder) from error
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read ({error.strerror}); fix its permissions or choose another folder"
        ) from error
    except ValueError as error:
        raise InputError(f"{file}: is damaged (not JSON); {remedy}") from error
    if not isinstance(meta, dict) or "format" not in meta:
        raise InputError(f"{file}: is damaged (no format version); {remedy}")
    if meta["format"] != FORMAT:
        raise InputError(
            f"{file}: has format version {meta['format']!r}, this visionzoo reads {FORMAT}; update visionzoo, or {remedy}"
        )
    if meta.get("backend") not in BACKENDS:
        raise InputError(f"{file}: names the unknown backend {meta.get('backend')!r}; update visionzoo, or {remedy}")
    if type(meta.get("dim")) is not int or meta["dim"] < 1:
        raise InputError(f"{file}: is damaged (dim is {meta.get('dim')!r}, expected a positive number); {remedy}")
    return meta


def write_meta(folder: str | os.PathLike[str], meta: dict[str, Any]) -> None:
    """Write META atomically and durably, so that it survives a power failure."""
    with atomic_path(Path(folder) / META) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump({"format": FORMAT, **meta}, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Make renames in `folder` durable, if the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_dim(asked: int | None, found: int, where: str | os.PathLike[str]) -> None:
    if asked is not None and asked != found:
        raise InputError(
            f"{where}: holds vectors of {found} values, not {asked}; "
            "use the model that it was made with, or index again into another folder"
        )


def empty_folder(path: str | os.PathLike[str]) -> Path:
    """Return `path` if a store may be saved there. Raises `InputError` if it exists and is not an empty folder."""
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: exists already and is not an empty folder; choose another name")
    with writing(path):
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
    return path


# --- checks of arguments ---


def _numpy(values: Vectors, what: str) -> np.ndarray:
    array = values.detach().cpu() if isinstance(values, torch.Tensor) else np.asarray(values)
    if isinstance(array, torch.Tensor):
        array = (array.float() if array.dtype == torch.bfloat16 else array).numpy()
    if array.dtype.kind not in "fiu":
        raise InputError(f"{what} are of type {array.dtype}, expected real numbers (float32)")
    return array


def _check_ids(ids: Ids) -> NDArray[np.int64]:
    array = ids.detach().cpu().numpy() if isinstance(ids, torch.Tensor) else np.asarray(ids)
    if array.ndim != 1:
        raise InputError(f"ids of shape {array.shape} do not fit; expected one dimension (n,)")
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu":
        raise InputError(f"ids are of type {array.dtype}, expected whole numbers (int64)")
    if array.min() < 0:
        raise InputError(f"ids must be at least 0, got {array.min()}")
    if array.max() > np.iinfo(np.int64).max:
        raise InputError(f"ids must be below 2**63, got {array.max()}")
    return np.ascontiguousarray(array, np.int64)


def _check_finite(values: NDArray[np.float32], what: str, ids: NDArray[np.int64] | None) -> None:
    # One sum of squares per row detects NaN, infinity and absurd lengths at once.
    norms = np.sqrt(np.einsum("nd,nd->n", values, values, dtype=np.float64))
    bad = np.flatnonzero(~(norms <= LONGEST))
    if len(bad):
        row = int(bad[0])
        name = f"{what}[{row}]" + ("" if ids is None else f" (id {ids[row]})")
        problem = "is longer than 1e15" if np.isfinite(values[row]).all() else "holds NaN or infinity"
        raise InputError(
            f"{name} {problem}; vectors must be finite: skip this vector, or fix the code that computed it"
        )
