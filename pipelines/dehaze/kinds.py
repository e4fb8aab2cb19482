"""The kinds of files that `visionzoo dehaze` reads and writes."""

from __future__ import annotations

from visionzoo.io.extensions import ANIMATIONS, IMAGES, RASTERS, RASTERS_WRITTEN, VIDEOS, VIDEOS_WRITTEN
from visionzoo.jobs import Kind

IMAGE = Kind("image", IMAGES | RASTERS, "image", RASTERS_WRITTEN, ".png", keeps=True)
VIDEO = Kind("video", VIDEOS, "video", VIDEOS_WRITTEN, ".mp4", keeps=True, also=ANIMATIONS)
KINDS = (IMAGE, VIDEO)

__all__ = ["IMAGE", "KINDS", "VIDEO"]
