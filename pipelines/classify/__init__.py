"""Image classification."""

from __future__ import annotations

from typing import TYPE_CHECKING

from visionzoo.lazy import attach as _attach

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
