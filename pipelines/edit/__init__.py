"""Text-driven editing of videos."""

from __future__ import annotations

import lazy_loader as _lazy

from visionzoo.registry import Bench, Need, register_pipeline

register_pipeline(
    "edit",
    factory=f"{__name__}:LOVEConPipeline",
    command=f"{__name__}.command:app",
    summary="edit a video by text",
    page="visionzoo.demos.edit",
    benches=(
        Bench("lovecon", "benchmarks.lovecon:benchmark", "LOVECon editing 16 frames of 256 x 256", "straightforward"),
    ),
    needs=(
        Need("cv2", "edit", "visionzoo edit with the control canny"),
        Need("controlnet_aux", "controls", "visionzoo edit with the controls depth, openpose, softedge and others"),
    ),
)

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
