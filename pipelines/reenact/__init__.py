"""Talking heads: a still face moves like the one in a driving video."""

from __future__ import annotations

import lazy_loader as _lazy

from visionzoo.registry import Bench, register_pipeline

register_pipeline(
    "reenact",
    factory=f"{__name__}:ReenactPipeline",
    command=f"{__name__}.command:app",
    summary="make a still face move like the one in a video",
    page="visionzoo.demos.reenact",
    benches=(Bench("mcnet", "benchmarks.mcnet:benchmark", "MCNet animating frames of 256 x 256", "straightforward"),),
)

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
