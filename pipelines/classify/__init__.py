"""Image classification."""

from __future__ import annotations

import lazy_loader as _lazy

from visionzoo.registry import Bench, register_pipeline

register_pipeline(
    "classify",
    factory=f"{__name__}:ClassifyPipeline",
    command=f"{__name__}.command:app",
    summary="show the most probable classes of images and videos, with their probabilities",
    page="visionzoo.demos.classify",
    benches=(
        Bench("shvit_s1", "benchmarks.shvit:s1", "SHViT-S1, batches of 16 and single images", "timm"),
        Bench("shvit_s4", "benchmarks.shvit:s4", "SHViT-S4, batches of 16 and single images", "timm"),
    ),
)

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
