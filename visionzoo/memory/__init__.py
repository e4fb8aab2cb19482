"""Memory: what a system keeps and reads again.

`MemoryBank` is the face of all: `TensorBank` (keys and values in time), `TieredBank` (several of them, each taking what the
one before lets go), `IndexBank` (keyed vectors), `LearnedBank` (a model's own parameters), `ParametricBank` (weights trained at run
time). Policies say what leaves, consolidators what becomes of it.

The vector stores under `IndexBank` hold keyed vectors, in memory, in a folder, or in a vector database, and answer top-k
queries by inner product. All of them give the same ranking: score descending, ties by the lower id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import attach as _attach

_names = {
    "AnchorsAndRecent": "visionzoo.memory.policies:AnchorsAndRecent",
    "Drop": "visionzoo.memory.consolidate:Drop",
    "EvenSample": "visionzoo.memory.policies:EvenSample",
    "FaissStore": "visionzoo.memory.faiss_store:FaissStore",
    "Fifo": "visionzoo.memory.policies:Fifo",
    "IndexBank": "visionzoo.memory.index_bank:IndexBank",
    "IndexResult": "visionzoo.memory.index_bank:IndexResult",
    "LearnedBank": "visionzoo.memory.learned:LearnedBank",
    "MatrixStore": "visionzoo.memory.matrix:MatrixStore",
    "MemoryBank": "visionzoo.memory.bank:MemoryBank",
    "MemoryCallback": "visionzoo.memory.callback:MemoryCallback",
    "Never": "visionzoo.memory.policies:Never",
    "ParametricBank": "visionzoo.memory.parametric:ParametricBank",
    "Pool": "visionzoo.memory.consolidate:Pool",
    "Prototypes": "visionzoo.memory.consolidate:Prototypes",
    "QdrantStore": "visionzoo.memory.qdrant_store:QdrantStore",
    "ReadResult": "visionzoo.memory.bank:ReadResult",
    "SearchResult": "visionzoo.memory.store:SearchResult",
    "SimilarityMerge": "visionzoo.memory.consolidate:SimilarityMerge",
    "TensorBank": "visionzoo.memory.tensor_bank:TensorBank",
    "TieredBank": "visionzoo.memory.tiered:TieredBank",
    "TimeWindow": "visionzoo.memory.policies:TimeWindow",
    "Usage": "visionzoo.memory.policies:Usage",
    "VectorStore": "visionzoo.memory.store:VectorStore",
    "load_memory": "visionzoo.memory.folder:load_memory",
    "open_store": "visionzoo.memory.store:open_store",
    "save_memory": "visionzoo.memory.folder:save_memory",
}
__getattr__, __dir__ = _attach(__name__, _names)
__all__ = [*_names]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from .bank import MemoryBank as MemoryBank
    from .bank import ReadResult as ReadResult
    from .callback import MemoryCallback as MemoryCallback
    from .consolidate import Drop as Drop
    from .consolidate import Pool as Pool
    from .consolidate import Prototypes as Prototypes
    from .consolidate import SimilarityMerge as SimilarityMerge
    from .faiss_store import FaissStore as FaissStore
    from .folder import load_memory as load_memory
    from .folder import save_memory as save_memory
    from .index_bank import IndexBank as IndexBank
    from .index_bank import IndexResult as IndexResult
    from .learned import LearnedBank as LearnedBank
    from .matrix import MatrixStore as MatrixStore
    from .parametric import ParametricBank as ParametricBank
    from .policies import AnchorsAndRecent as AnchorsAndRecent
    from .policies import EvenSample as EvenSample
    from .policies import Fifo as Fifo
    from .policies import Never as Never
    from .policies import TimeWindow as TimeWindow
    from .policies import Usage as Usage
    from .qdrant_store import QdrantStore as QdrantStore
    from .store import SearchResult as SearchResult
    from .store import VectorStore as VectorStore
    from .store import open_store as open_store
    from .tensor_bank import TensorBank as TensorBank
    from .tiered import TieredBank as TieredBank
