"""Memory: what a system keeps and reads again.

The vector stores here hold keyed vectors, in memory, in a folder, or in a vector database, and answer top-k queries by
inner product. All of them give the same ranking: score descending, ties by the lower id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import attach as _attach

_names = {
    "FaissStore": "visionzoo.memory.faiss_store:FaissStore",
    "MatrixStore": "visionzoo.memory.matrix:MatrixStore",
    "QdrantStore": "visionzoo.memory.qdrant_store:QdrantStore",
    "SearchResult": "visionzoo.memory.store:SearchResult",
    "VectorStore": "visionzoo.memory.store:VectorStore",
    "open_store": "visionzoo.memory.store:open_store",
}
__getattr__, __dir__ = _attach(__name__, _names)
__all__ = [*_names]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from .faiss_store import FaissStore as FaissStore
    from .matrix import MatrixStore as MatrixStore
    from .qdrant_store import QdrantStore as QdrantStore
    from .store import SearchResult as SearchResult
    from .store import VectorStore as VectorStore
    from .store import open_store as open_store
