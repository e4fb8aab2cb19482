"""The kinds of files that `visionzoo colorize` reads and writes."""

from __future__ import annotations

from visionzoo.io.extensions import ANIMATIONS, VIDEOS, VIDEOS_WRITTEN
from visionzoo.jobs import Kind

KINDS = (Kind("video", VIDEOS | ANIMATIONS, "video", VIDEOS_WRITTEN, ".mp4"),)

__all__ = ["KINDS"]
