"""Talking heads: a still face moves like the one in a driving video."""

from __future__ import annotations

from typing import TYPE_CHECKING

from visionzoo.lazy import attach as _attach
from visionzoo.registry import Bench, register_pipeline

register_pipeline(
    "reenact",
    factory=f"{__name__}:ReenactPipeline",
    command=f"{__name__}.command:app",
    summary="make a still face move like the one in a video",
    page="visionzoo.demos.reenact",
    benches=(Bench("mcnet", "benchmarks.mcnet:benchmark", "MCNet animating frames of 256 x 256", "straightforward"),),
)

_names = {
    "Live": "visionzoo.pipelines.reenact.live:Live",
    "Motion": "visionzoo.pipelines.reenact.motion:Motion",
    "Portrait": "visionzoo.pipelines.reenact.pipeline:Portrait",
    "ReenactPipeline": "visionzoo.pipelines.reenact.pipeline:ReenactPipeline",
    "ReenactResult": "visionzoo.pipelines.reenact.pipeline:ReenactResult",
}
__getattr__, __dir__ = _attach(__name__, _names)
__all__ = [*_names]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from .live import Live as Live
    from .motion import Motion as Motion
    from .pipeline import Portrait as Portrait
    from .pipeline import ReenactPipeline as ReenactPipeline
    from .pipeline import ReenactResult as ReenactResult
