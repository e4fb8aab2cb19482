"""Colouring of long line-art animations."""

from __future__ import annotations

import lazy_loader as _lazy

from visionzoo.registry import Bench, Need, register_pipeline

register_pipeline(
    "colorize",
    factory=f"{__name__}:LongAnimationPipeline",
    command=f"{__name__}.command:app",
    summary="colour line art from one reference image",
    page="visionzoo.demos.colorize",
    benches=(
        Bench(
            "longanimation",
            "benchmarks.longanimation:benchmark",
            "LongAnimation's memory of a clip of 500 frames",
            "the published form",
        ),
    ),
    needs=(Need("av", "colorize", "visionzoo colorize, which reads and writes videos"),),
)

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
