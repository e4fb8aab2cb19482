"""The kinds of files that `visionzoo colorize` reads and writes."""

from __future__ import annotations

from visionzoo.io.extensions import ANIMATIONS, IMAGES, VIDEOS, VIDEOS_WRITTEN
from visionzoo.jobs import Kind

FRAMES = IMAGES - ANIMATIONS
"""Images whose folder is a clip."""

KINDS = (Kind("video", VIDEOS | ANIMATIONS, "video", VIDEOS_WRITTEN, ".mp4", frames=FRAMES),)

__all__ = ["FRAMES", "KINDS"]
