"""Photos found by example."""

from __future__ import annotations

from typing import TYPE_CHECKING

from visionzoo.lazy import attach as _attach

_names = {
    "IndexReport": "visionzoo.pipelines.retrieve.pipeline:IndexReport",
    "Match": "visionzoo.pipelines.retrieve.pipeline:Match",
    "RetrievalResult": "visionzoo.pipelines.retrieve.pipeline:RetrievalResult",
    "RetrievePipeline": "visionzoo.pipelines.retrieve.pipeline:RetrievePipeline",
}
__getattr__, __dir__ = _attach(__name__, _names)
__all__ = [*_names]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from .pipeline import IndexReport as IndexReport
    from .pipeline import Match as Match
    from .pipeline import RetrievalResult as RetrievalResult
    from .pipeline import RetrievePipeline as RetrievePipeline
