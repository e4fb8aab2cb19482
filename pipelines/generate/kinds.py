"""The kinds of files that `visionzoo generate` reads and writes."""

from __future__ import annotations

from visionzoo.io.extensions import ANIMATIONS, IMAGES, VIDEOS, VIDEOS_WRITTEN
from visionzoo.jobs import Kind

KINDS = (
    Kind("image", IMAGES - ANIMATIONS, "video", VIDEOS_WRITTEN, ".mp4"),
    Kind("video", VIDEOS | ANIMATIONS, "video", VIDEOS_WRITTEN, ".mp4"),
)

__all__ = ["KINDS"]
