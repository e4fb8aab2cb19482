"""Memory banks: content that a system writes and reads later.

`MemoryBank` is the common interface: `TensorBank` (keys and values over time), `TieredBank` (several of them, each receiving what
the previous one evicts), `IndexBank` (keyed vectors), `LearnedBank` (a model's own parameters), `ParametricBank` (weights trained
at run time). Policies decide what is evicted, consolidators how it is merged into the next tier.

The vector stores behind `IndexBank` hold keyed vectors in memory, in a folder, or in a vector database, and answer top-k queries
by inner product. All of them rank in the same order: by descending score, ties by the lower id.
"""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
