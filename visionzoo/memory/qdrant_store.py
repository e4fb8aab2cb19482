"""A vector store in a Qdrant collection: on a server, in a local folder, or in memory, by the same calls."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError, VisionZooError, require, writing
from .store import (
    META,
    MissingIdsError,
    SearchResult,
    Vectors,
    VectorStore,
    check_dim,
    empty_folder,
    read_meta,
    write_meta,
)
from .topk import error_bound, exact_scores, rank

__all__ = ["QdrantStore"]

_PAGE = 4096  # ids per request
_BATCH_VALUES = 1 << 19  # values per request: a few MB of JSON, below the server's limit of 32 MB


class QdrantStore(VectorStore):
    """Vectors in a Qdrant collection with dot-product distance. The extra `qdrant` installs the client.

    Qdrant finds candidates; they are scored and ranked here with the vectors that it returns, so the ranking equals that of
    the other stores (guaranteed if all vectors have about the same length, e.g. unit vectors). Every change is durable when
    the call returns. A large collection belongs on a server: the local mode is a plain scan in Python.

    Args:
        url: address of a server, e.g. "http://localhost:6333".
        path: a folder for the local mode. Without url and path, the vectors are in memory and lost when the store is closed.
        collection: name of the collection; it is created if it does not exist.
        api_key: key for the server. Default: the environment variable QDRANT_API_KEY. It is never written to a file.
        dim: length of a vector; needed for a new collection, checked for an existing one.
        readonly: refuse changes; the collection must exist.
        exact: let the server scan all vectors. False uses its HNSW graph, which is faster and may miss some.
        timeout_s: timeout of one request.

    Raises:
        InputError: both url and path, no dim for a new collection, or a collection with another dim, distance or number type.
        VisionZooError: the server does not answer or refuses the key, or another program uses the local folder.
    """

    backend: ClassVar[str] = "qdrant"

    def __init__(
        self,
        url: str | None = None,
        path: str | os.PathLike[str] | None = None,
        collection: str = "visionzoo",
        api_key: str | None = None,
        *,
        dim: int | None = None,
        readonly: bool = False,
        exact: bool = True,
        timeout_s: float = 30,
    ) -> None:
        if url is not None and path is not None:
            raise InputError("both url and path are given; use url for a server or path for a local folder")
        if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
            raise InputError(f"{url!r} is not the address of a server; expected e.g. http://localhost:6333")
        if url is not None and "@" in urlsplit(url).netloc:
            raise InputError("the address contains a password; set QDRANT_API_KEY instead")
        package: Any = require("qdrant_client", extra="qdrant", purpose="a Qdrant store")
        self._models = package.models
        self._package = package
        self.url, self.path, self.collection = url, None if path is None else Path(path), collection
        self.readonly, self._exact = readonly, exact
        self._where = f"{url or path or 'memory'}, collection {collection!r}"
        with self._talking():
            if url is not None:
                key = api_key or os.environ.get("QDRANT_API_KEY") or None
                # the version check would only print a second message when the server does not answer
                self._client = package.QdrantClient(
                    url=url, api_key=key, timeout=int(timeout_s), check_compatibility=False
                )
            elif path is not None:
                with writing(path):
                    self._client = package.QdrantClient(path=str(path))
            else:
                self._client = package.QdrantClient(":memory:")
            try:
                self.dim = self._open_collection(dim)
            except BaseException:
                self._client.close()
                raise

    def _open_collection(self, dim: int | None) -> int:
        models = self._models
        if not self._client.collection_exists(self.collection):
            if self.readonly:
                raise InputError(f"{self._where}: does not exist; index some photos into it first or check the name")
            if dim is None or dim < 1:
                raise InputError(f"dim must be the length of the vectors of a new collection, e.g. dim=2048, got {dim}")
            vectors = models.VectorParams(size=dim, distance=models.Distance.DOT)
            self._client.create_collection(self.collection, vectors_config=vectors)
            return dim
        vectors = self._client.get_collection(self.collection).config.params.vectors
        if not isinstance(vectors, models.VectorParams):
            raise InputError(
                f"{self._where}: has named vectors, expected a single unnamed one; choose another collection"
            )
        check_dim(dim, vectors.size, self._where)
        # Cosine would normalise the vectors and smaller number types round them: fetch would not return what was added.
        if vectors.distance != models.Distance.DOT:
            raise InputError(
                f"{self._where}: has the distance {vectors.distance.value}, expected Dot; choose another collection"
            )
        if vectors.datatype not in (None, models.Datatype.FLOAT32):
            raise InputError(
                f"{self._where}: stores {vectors.datatype.value}, expected float32; choose another collection"
            )
        return int(vectors.size)

    @contextlib.contextmanager
    def _talking(self) -> Iterator[None]:
        """Turn the client's exceptions into one-line errors."""
        errors = self._package.http.exceptions
        try:
            yield
        except errors.ResponseHandlingException as error:
            raise VisionZooError(
                f"{self._where}: no answer from a Qdrant server ({error}); start it or check the address"
            ) from error
        except errors.UnexpectedResponse as error:
            if error.status_code in (401, 403):
                raise VisionZooError(f"{self._where}: the server refuses the key; set QDRANT_API_KEY") from error
            reason = " ".join(str(error).split())[:300]
            raise VisionZooError(
                f"{self._where}: the server refuses the request ({reason}); check the address and its log"
            ) from error
        except RuntimeError as error:
            if "already accessed" not in str(error):
                raise
            raise VisionZooError(
                f"{self._where}: another program uses this folder; wait until it ends, or run a server"
            ) from error

    def __len__(self) -> int:
        with self._talking():
            return int(self._client.count(self.collection, exact=True).count)

    def ids(self) -> NDArray[np.int64]:
        found: list[int] = []
        offset: Any = None
        with self._talking():
            while True:
                points, offset = self._client.scroll(
                    self.collection, limit=_PAGE, offset=offset, with_payload=False, with_vectors=False
                )
                found.extend(point.id for point in points)
                if offset is None:
                    break
        if not all(isinstance(i, int) for i in found):
            raise InputError(
                f"{self._where}: holds points with UUIDs, expected whole numbers; choose another collection"
            )
        return np.sort(np.array(found, np.int64))

    def _add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        step = max(1, _BATCH_VALUES // self.dim)
        with self._talking():
            for start in range(0, len(ids), step):
                some = slice(start, start + step)
                batch = self._models.Batch(ids=ids[some].tolist(), vectors=vectors[some].tolist())
                self._client.upsert(self.collection, points=batch, wait=True)

    def _retrieve(self, ids: NDArray[np.int64], *, vectors: bool) -> list[Any]:
        step = max(1, _BATCH_VALUES // self.dim) if vectors else _PAGE
        points: list[Any] = []
        with self._talking():
            for start in range(0, len(ids), step):
                some = ids[start : start + step].tolist()
                points += self._client.retrieve(self.collection, some, with_payload=False, with_vectors=vectors)
        return points

    def _fetch(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        wanted, back = np.unique(ids, return_inverse=True)
        points = {point.id: point.vector for point in self._retrieve(wanted, vectors=True)}
        missing = np.array([i for i in wanted.tolist() if i not in points], np.int64)
        if len(missing):
            raise MissingIdsError(missing)
        unique = np.array([points[i] for i in wanted.tolist()], np.float32).reshape(len(wanted), self.dim)
        return unique[back]

    def _remove(self, ids: NDArray[np.int64]) -> int:
        present = [point.id for point in self._retrieve(ids, vectors=False)]
        with self._talking():
            for start in range(0, len(present), _PAGE):
                selector = self._models.PointIdsList(points=present[start : start + _PAGE])
                self._client.delete(self.collection, points_selector=selector, wait=True)
        return len(present)

    def _search(self, queries: Vectors, k: int) -> SearchResult:
        values = queries.detach().cpu().numpy() if isinstance(queries, torch.Tensor) else queries
        out = SearchResult(np.empty((len(values), k), np.int64), np.empty((len(values), k), np.float32))
        waiting, width, count = list(range(len(values))), k + max(16, k // 8), len(self)
        while waiting:
            width = min(width, count)
            step = max(1, _BATCH_VALUES // (width * self.dim))
            again = []
            for start in range(0, len(waiting), step):
                some = waiting[start : start + step]
                for query, points in zip(some, self._ask(values[some], width), strict=True):
                    order, ids, scores, settled = self._order(values[query], points, k, count)
                    if settled:
                        out.ids[query], out.scores[query] = ids[order], scores[order]
                    else:
                        again.append(query)
            if again and width == count:
                raise VisionZooError(f"{self._where}: has changed during the search; search again")
            waiting, width = again, 4 * width
        return out

    def _ask(self, queries: NDArray[np.float32], width: int) -> list[list[Any]]:
        models = self._models
        # The local mode always scans, and warns if `exact` is set.
        parameters = models.SearchParams(exact=True) if self._exact and self.url is not None else None
        requests = [
            models.QueryRequest(query=query, limit=width, with_vector=True, with_payload=False, params=parameters)
            for query in queries.tolist()
        ]
        with self._talking():
            return [answer.points for answer in self._client.query_batch_points(self.collection, requests=requests)]

    def _order(
        self, query: NDArray[np.float32], points: list[Any], k: int, count: int
    ) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.float32], bool]:
        """Score and rank the candidates; the last result is True if no point that was left out can be among the k best."""
        ids = np.array([point.id for point in points], np.int64)
        vectors = np.array([point.vector for point in points], np.float32).reshape(len(points), self.dim)
        scores = exact_scores(query, vectors)
        order = rank(scores, ids, k)
        if len(points) >= count or len(points) < k or not self._exact:
            return order, ids, scores, len(order) == k or len(points) >= count
        longest = 2 * max(1.0, float(np.linalg.norm(vectors, axis=1).max()))
        slack = error_bound(query[None], longest)[0]
        return order, ids, scores, bool(scores[order[-1]] > points[-1].score + slack)

    def flush(self) -> None:
        """Do nothing: every change waits until Qdrant has stored it."""

    def record(self, folder: str | os.PathLike[str]) -> None:
        """Write the address, collection and dim (never the key) into `folder`, so that `load` finds the collection."""
        if self.url is None and self.path is None:
            raise InputError("a Qdrant store in memory cannot be saved; make it with path=… or url=…")
        folder = Path(folder)
        path = None if self.path is None else self.path.absolute()
        inside = path is not None and path.is_relative_to(folder.absolute())  # a folder that can be moved as a whole
        if path is not None and inside:
            path = path.relative_to(folder.absolute())
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        place = {"url": self.url, "path": None if path is None else path.as_posix(), "collection": self.collection}
        write_meta(folder, {"backend": self.backend, "dim": self.dim, "dtype": "float32", **place})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the location of the collection into the new or empty folder `path`; the vectors stay in Qdrant."""
        self.record(empty_folder(path))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        readonly: bool = False,
        dim: int | None = None,
        api_key: str | None = None,
        **options: Any,
    ) -> Self:
        meta, file = read_meta(path), Path(path) / META
        if meta["backend"] != cls.backend:
            raise InputError(f"{file}: is a {meta['backend']} store; open it with visionzoo.memory.open_store")
        if not isinstance(meta.get("collection"), str) or not isinstance(meta.get("url") or meta.get("path"), str):
            raise InputError(
                f"{file}: is damaged (no address or collection); create it again with QdrantStore(…).save(…)"
            )
        check_dim(dim, meta["dim"], file)
        local = None if meta.get("url") else Path(path) / meta["path"]  # an absolute path stays unchanged
        for key, value in (("url", meta.get("url")), ("path", local), ("collection", meta["collection"])):
            given = options.pop(key, None)  # may be given again, with the value that created the store
            if given is not None and str(given) != str(value):
                raise InputError(f"{file}: has the {key} {str(value)!r}, not {str(given)!r}; omit it")
        return cls(meta.get("url"), local, meta["collection"], api_key, dim=meta["dim"], readonly=readonly, **options)

    def close(self) -> None:
        self._client.close()
