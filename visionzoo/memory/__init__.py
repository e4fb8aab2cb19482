"""Memory: what a system keeps and reads again.

The vector stores here hold keyed vectors, in memory, in a folder, or in a vector database, and answer top-k queries by
inner product. All of them give the same ranking: score descending, ties by the lower id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import attach as _attach

_names = {
    "FaissStore": "visionzoo.memory.faiss_store:FaissStore",
    "IndexBank": "visionzoo.memory.index_bank:IndexBank",
    "IndexResult": "visionzoo.memory.index_bank:IndexResult",
    "LearnedBank": "visionzoo.memory.learned:LearnedBank",
    "MatrixStore": "visionzoo.memory.matrix:MatrixStore",
    "MemoryCallback": "visionzoo.memory.callback:MemoryCallback",
    "ParametricBank": "visionzoo.memory.parametric:ParametricBank",
    "QdrantStore": "visionzoo.memory.qdrant_store:QdrantStore",
    "SearchResult": "visionzoo.memory.store:SearchResult",
    "VectorStore": "visionzoo.memory.store:VectorStore",
    "load_memory": "visionzoo.memory.folder:load_memory",
    "open_store": "visionzoo.memory.store:open_store",
    "save_memory": "visionzoo.memory.folder:save_memory",
}
__getattr__, __dir__ = _attach(__name__, _names)
__all__ = [*_names]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from .callback import MemoryCallback as MemoryCallback
    from .faiss_store import FaissStore as FaissStore
    from .folder import load_memory as load_memory
    from .folder import save_memory as save_memory
    from .index_bank import IndexBank as IndexBank
    from .index_bank import IndexResult as IndexResult
    from .learned import LearnedBank as LearnedBank
    from .matrix import MatrixStore as MatrixStore
    from .parametric import ParametricBank as ParametricBank
    from .qdrant_store import QdrantStore as QdrantStore
    from .store import SearchResult as SearchResult
    from .store import VectorStore as VectorStore
    from .store import open_store as open_store
