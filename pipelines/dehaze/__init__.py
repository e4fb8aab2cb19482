"""Haze removal from images and videos."""

from __future__ import annotations

import lazy_loader as _lazy

from visionzoo.registry import Bench, register_pipeline

register_pipeline(
    "dehaze",
    factory=f"{__name__}:DehazePipeline",
    command=f"{__name__}.command:app",
    summary="remove haze from images of any size and from videos",
    page="visionzoo.demos.dehaze",
    benches=(
        Bench(
            "dehazexl", "benchmarks.dehazexl:benchmark", "DehazeXL on 1024 x 1024 pixels, streamed", "straightforward"
        ),
        Bench(
            "dehaze-photo",
            "benchmarks.dehaze_photo:benchmark",
            "a photo of 3 megapixels with the bundled network",
            "the network as trained",
        ),
    ),
)

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
