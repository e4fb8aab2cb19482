"""The kinds of files that `visionzoo dehaze` reads and writes."""

from __future__ import annotations

from visionzoo.io.extensions import IMAGES, RASTERS, RASTERS_WRITTEN, VIDEOS, VIDEOS_WRITTEN
from visionzoo.jobs import Kind

KINDS = (
    Kind("image", IMAGES | RASTERS, "image", RASTERS_WRITTEN, ".png", keeps=True),
    Kind("video", VIDEOS, "video", VIDEOS_WRITTEN, ".mp4", keeps=True),
)

__all__ = ["KINDS"]
