"""Haze removal from images and videos."""

from __future__ import annotations

from typing import TYPE_CHECKING

from visionzoo.lazy import attach as _attach
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
    ),
)

_names = {
    "DehazePipeline": "visionzoo.pipelines.dehaze.pipeline:DehazePipeline",
    "DehazeResult": "visionzoo.pipelines.dehaze.pipeline:DehazeResult",
    "DehazedFile": "visionzoo.pipelines.dehaze.pipeline:DehazedFile",
}
__getattr__, __dir__ = _attach(__name__, _names)
__all__ = [*_names]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from .pipeline import DehazedFile as DehazedFile
    from .pipeline import DehazePipeline as DehazePipeline
    from .pipeline import DehazeResult as DehazeResult
