"""Memory: what a system keeps and reads again.

`MemoryBank` is the face of all: `TensorBank` (keys and values in time), `TieredBank` (several of them, each taking what the
one before lets go), `IndexBank` (keyed vectors), `LearnedBank` (a model's own parameters), `ParametricBank` (weights trained at run
time). Policies say what leaves, consolidators what becomes of it.

The vector stores under `IndexBank` hold keyed vectors, in memory, in a folder, or in a vector database, and answer top-k
queries by inner product. All of them give the same ranking: score descending, ties by the lower id.
"""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
