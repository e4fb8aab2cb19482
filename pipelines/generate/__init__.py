"""Action-driven generation of long videos."""

from __future__ import annotations

import lazy_loader as _lazy

from visionzoo.registry import Bench, Need, register_pipeline

register_pipeline(
    "generate",
    factory=f"{__name__}:SlowFastVGenPipeline",
    command=f"{__name__}.command:app",
    summary="continue an image or a video by actions",
    page="visionzoo.demos.generate",
    benches=(
        Bench(
            "slowfastvgen",
            "benchmarks.slowfastvgen:benchmark",
            "SlowFast-VGen making 8 frames and learning from them",
            "diffusers and PEFT",
        ),
    ),
    needs=(Need("av", "generate", "visionzoo generate, which writes videos"),),
)

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
