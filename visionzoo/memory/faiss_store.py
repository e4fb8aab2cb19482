"""A vector store whose first stage is faiss, for collections of millions."""

from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError, VisionZooError, require
from ..io.files import atomic_path, write_json
from .matrix import MatrixStore
from .rows import FREE, RowFile
from .store import SearchResult, Vectors, write_meta
from .topk import error_bound, exact_scores, rank, top_k

__all__ = ["FaissStore"]

log = logging.getLogger(__name__)

INDEX = "faiss.index"
STAMP = "faiss.json"  # which state of the rows INDEX was built from
KINDS = ("flat", "fp16", "ivf")
_NPROBE = 64
_SAMPLE = 64  # training vectors per IVF list
_MIN_SAMPLE = 39  # faiss warns if a list has fewer
_MIN_LISTS = 16
_FEW = 20_000  # up to this many changed rows are searched separately instead of rebuilding the index


class FaissStore(MatrixStore):
    """A `MatrixStore` with a faiss index over it. The extra `retrieval` installs faiss.

    The original vectors stay in the matrix: `fetch` returns them, and every candidate that faiss finds is scored and ranked
    with them. The index is derived from them: it is built on the first search, by `build` or on closing, saved next to the
    rows, memory-mapped when opened, and rebuilt when many rows have changed; a few changed rows are searched separately.

    Args:
        dim, path, storage, readonly: as for `MatrixStore`.
        kind: "flat" is exact, with the same ranking as `MatrixStore`; "fp16" keeps half-precision codes (may miss
            entries at the end of the list); "ivf" searches only the `nprobe` nearest of about 4 * sqrt(N) clusters
            of half-precision codes: much faster, misses more, meant for unit vectors. Default: the kind of the store in
            the folder, else "flat".
        nprobe: number of clusters that "ivf" searches. Default: the value stored in the folder, else 64.
    """

    backend: ClassVar[str] = "faiss"

    def __init__(
        self,
        dim: int | None = None,
        path: str | os.PathLike[str] | None = None,
        *,
        kind: str | None = None,
        nprobe: int | None = None,
        storage: str | None = None,
        readonly: bool = False,
    ) -> None:
        if kind is not None and kind not in KINDS:
            raise InputError(f"unknown kind {kind!r}; use {', '.join(KINDS)}")
        if nprobe is not None and nprobe < 1:
            raise InputError(f"nprobe must be at least 1, got {nprobe}")
        self._faiss: Any = require("faiss", extra="retrieval", purpose="a faiss store")
        self.kind, self.nprobe = kind or KINDS[0], nprobe or _NPROBE
        self._index: Any = None
        self._built = 0  # rows that the index covers
        self._rewritten = np.zeros(0, bool)  # (built,) rows overwritten since the index was built
        self._current = False  # whether the saved index matches the rows
        super().__init__(dim, path, storage=storage, readonly=readonly)
        if self.path is not None:
            self._resolve_options(kind, nprobe)
            self._read_index()

    def _resolve_options(self, kind: str | None, nprobe: int | None) -> None:
        """Read options that were not given from META, and write those that were given to it."""
        assert isinstance(self._rows, RowFile)
        assert self.path is not None
        meta = self._rows.meta
        self.kind = kind or (meta["kind"] if meta.get("kind") in KINDS else KINDS[0])
        found = meta.get("nprobe")
        self.nprobe = nprobe or (found if type(found) is int and found > 0 else _NPROBE)
        if not self.readonly and any(meta.get(key) != value for key, value in self._options().items()):
            meta.update(self._options())
            write_meta(self.path, meta)

    def _options(self) -> dict[str, Any]:
        return {"backend": self.backend, "kind": self.kind, "nprobe": self.nprobe}

    # --- the index ---

    def build(self) -> None:
        """Build the index over all rows now and save it, instead of on the first search or on closing."""
        self._check_open()
        self.flush()
        self._build()
        if self.path is not None and not self.readonly:
            self._write_index(self.path)

    def _build(self) -> None:
        matrix, ids = self._matrix(), self._row_ids[: self._count]
        self._index = None  # free the old index before the new one takes memory
        index = self._empty_index(matrix, np.flatnonzero(ids != FREE))
        step = max(1, (1 << 24) // self.dim)
        for start in range(0, self._count, step):
            index.add(np.ascontiguousarray(matrix[start : start + step], np.float32))
        self._use(index)

    def _use(self, index: Any) -> None:
        self._index, self._built = index, int(index.ntotal)
        self._rewritten = np.zeros(self._built, bool)

    def _empty_index(self, matrix: np.ndarray, live: NDArray[np.intp]) -> Any:
        """A trained index without rows. The position in faiss is the row number, so that ids need no second table."""
        faiss, metric = self._faiss, self._faiss.METRIC_INNER_PRODUCT
        kind = self.kind
        if kind != "flat" and self._norm_bound > 65504:
            log.warning(
                "vectors with a norm above 65504 exceed half precision; a flat faiss index is used instead of %s", kind
            )
            kind = "flat"
        lists = min(int(4 * math.sqrt(len(live))), len(live) // _MIN_SAMPLE)
        if kind == "ivf" and lists < _MIN_LISTS:
            log.warning(
                "%d vectors are too few for an IVF index (at least %d); a flat one is used",
                len(live),
                _MIN_SAMPLE * _MIN_LISTS,
            )
            kind = "flat"
        if kind == "flat":
            return faiss.IndexFlatIP(self.dim)
        if kind == "fp16":
            return faiss.IndexScalarQuantizer(self.dim, faiss.ScalarQuantizer.QT_fp16, metric)
        index = faiss.index_factory(self.dim, f"IVF{lists},SQfp16", metric)
        index.by_residual = False
        index.cp.spherical = True  # centroids by direction, as the inner product sees unit vectors
        index.cp.seed = 0
        size = min(len(live), _SAMPLE * lists)
        chosen = np.sort(np.random.default_rng(0).choice(live, size, replace=False))
        index.train(np.ascontiguousarray(matrix[chosen], np.float32))
        return index

    def _write_index(self, folder: Path) -> None:
        index, file = self._index, folder / INDEX
        self._index = None  # releases the mapped old file, which Windows could not replace otherwise
        with atomic_path(file) as temporary:
            try:
                self._faiss.write_index(index, str(temporary))
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[-1][:200]
                raise VisionZooError(
                    f"{file}: the faiss index cannot be written ({reason}); "
                    "free some space and run the command again (the vectors are safe)"
                ) from error
            finally:
                self._index = index
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
        write_json(folder / STAMP, {"format": 1, "stamp": self._stamp, "kind": self.kind, "bytes": file.stat().st_size})
        self._current = True

    def _read_index(self) -> None:
        folder = Path(self.path or "")
        try:
            made = json.loads((folder / STAMP).read_text(encoding="utf-8"))
            size = (folder / INDEX).stat().st_size
        except (OSError, ValueError):
            return  # no index has been saved yet
        wanted = {"format": 1, "stamp": self._stamp, "kind": self.kind, "bytes": size}
        if not self._changed and made == wanted:
            faiss = self._faiss
            for flag in (getattr(faiss, "IO_FLAG_MMAP_IFC", 0), faiss.IO_FLAG_MMAP, 0):
                try:
                    index = faiss.read_index(str(folder / INDEX), flag | faiss.IO_FLAG_READ_ONLY if flag else 0)
                except RuntimeError as error:
                    log.debug("%s with flag %d: %s", folder / INDEX, flag, error)
                    continue
                if index.ntotal <= self._count and index.d == self.dim:
                    self._use(index)
                    self._current = True
                    return
        log.warning(
            "%s is out of date, as the vectors have changed; it is rebuilt on the first search",
            folder / INDEX,
        )

    def _prepare(self) -> None:
        waiting = self._count - self._built + int(np.count_nonzero(self._rewritten))
        if self._index is None or waiting > max(_FEW, self._built // 10):
            log.info("building a faiss index (%s) over %d rows", self.kind, self._count)
            self._build()

    # --- the store ---

    def _add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        super()._add(ids, vectors)
        rows = self._table.rows(ids)
        self._rewritten[rows[rows < self._built]] = True
        self._current = False

    def _remove(self, ids: NDArray[np.int64]) -> int:
        removed = super()._remove(ids)
        self._current = self._current and not removed
        return removed

    def _search(self, queries: Vectors, k: int) -> SearchResult:
        self._check_open()
        values = queries.detach().cpu().numpy() if isinstance(queries, torch.Tensor) else queries
        self._prepare()
        matrix, row_ids = self._matrix(), self._row_ids[: self._count]
        usable = (row_ids[: self._built] != FREE) & ~self._rewritten
        unindexed = self._search_unindexed(values, k, matrix, row_ids)
        out = SearchResult(np.empty((len(values), k), np.int64), np.empty((len(values), k), np.float32))
        exact_stage = isinstance(self._index, self._faiss.IndexFlat)
        slack = error_bound(values, self._norm_bound)
        waiting, width = np.arange(len(values)), k + max(32, k // 4)
        while len(waiting) and width <= max(16 * k, 8192):
            width = min(width, self._built)
            approximate, rows = self._ask(values[waiting], width)
            again = []
            for place, query in enumerate(waiting.tolist()):
                found = rows[place][rows[place] >= 0]
                found = found[usable[found]]
                ids = np.concatenate([row_ids[found], *(part_ids[query] for part_ids, _ in unindexed)])
                exact = exact_scores(values[query], matrix[found])
                exact = np.concatenate([exact, *(part_scores[query] for _, part_scores in unindexed)])
                order = rank(exact, ids, k)
                # Final if no row that faiss left out can score as high: none of them scores above its last result.
                settled = len(order) == k and (
                    width == self._built or not exact_stage or exact[order[-1]] > approximate[place, -1] + slack[query]
                )
                if settled:
                    out.ids[query], out.scores[query] = ids[order], exact[order]
                else:
                    again.append(query)
            waiting = np.array(again, np.int64)
            if width == self._built:
                break
            width *= 4
        if len(waiting):  # many equal scores, or clusters with fewer than k rows: the plain scan finds the answer
            rest = super()._search(values[waiting], k)
            out.ids[waiting], out.scores[waiting] = rest.ids, rest.scores
        return out

    def _ask(self, queries: NDArray[np.float32], width: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """faiss's (Q, width) scores and rows; row -1 where it found fewer."""
        if width == 0:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        if not hasattr(self._index, "nprobe"):
            return self._index.search(queries, width)
        parameters = self._faiss.SearchParametersIVF(nprobe=min(self.nprobe, self._index.nlist))
        return self._index.search(queries, width, params=parameters)

    def _search_unindexed(
        self, queries: NDArray[np.float32], k: int, matrix: np.ndarray, row_ids: NDArray[np.int64]
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """The best of the rows that are not in the index: appended ones and overwritten ones."""
        parts = []
        if self._count > self._built:
            parts.append((matrix[self._built :], row_ids[self._built :]))
        rewritten = np.flatnonzero(self._rewritten)
        if len(rewritten):
            parts.append((matrix[rewritten], row_ids[rewritten]))
        return [top_k(queries, part, k, ids=ids, norm_bound=self._norm_bound) for part, ids in parts]

    def _empty_copy(self, path: Path) -> FaissStore:
        return FaissStore(self.dim, path, kind=self.kind, nprobe=self.nprobe, storage=self.storage)

    def close(self) -> None:
        """Flush, build and save the index if the rows have changed, and close the files."""
        if self._closed:
            return
        try:
            if self.path is not None and not self.readonly and not self._current and len(self):
                self.build()
        finally:
            self._index = None
            super().close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:  # the vectors are what matters; after an interrupt, nobody wants to wait for the index
            self._index = None
            super().close()
