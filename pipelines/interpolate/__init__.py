"""Frame interpolation: more frames per second, or slow motion."""

from __future__ import annotations

import lazy_loader as _lazy

from visionzoo.registry import register_pipeline

register_pipeline(
    "interpolate",
    factory=f"{__name__}:InterpolatePipeline",
    command=f"{__name__}.command:app",
    summary="add frames to videos, for smoother motion or slow motion",
    page="visionzoo.demos.interpolate",
)

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
