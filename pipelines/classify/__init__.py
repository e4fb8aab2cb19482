"""Image classification."""

from __future__ import annotations

from typing import TYPE_CHECKING

from visionzoo.lazy import attach as _attach
from visionzoo.registry import Bench, register_pipeline

register_pipeline(
    "classify",
    factory=f"{__name__}:ClassifyPipeline",
    command=f"{__name__}.command:app",
    summary="say what images show: the most probable classes, with their probabilities",
    page="visionzoo.demos.classify",
    benches=(
        Bench("shvit_s1", "benchmarks.shvit:s1", "SHViT-S1, batches of 16 and single images", "timm"),
        Bench("shvit_s4", "benchmarks.shvit:s4", "SHViT-S4, batches of 16 and single images", "timm"),
    ),
)

_names = {
    "ClassificationResult": "visionzoo.pipelines.classify.pipeline:ClassificationResult",
    "ClassifyPipeline": "visionzoo.pipelines.classify.pipeline:ClassifyPipeline",
    "Prediction": "visionzoo.pipelines.classify.pipeline:Prediction",
}
__getattr__, __dir__ = _attach(__name__, _names)
__all__ = [*_names]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from .pipeline import ClassificationResult as ClassificationResult
    from .pipeline import ClassifyPipeline as ClassifyPipeline
    from .pipeline import Prediction as Prediction
