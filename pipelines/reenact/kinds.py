"""The kinds of files that `visionzoo reenact` reads and writes."""

from __future__ import annotations

from visionzoo.io.extensions import IMAGES, VIDEOS_WRITTEN
from visionzoo.jobs import Kind

KINDS = (Kind("image", IMAGES, "video", VIDEOS_WRITTEN, ".mp4"),)

__all__ = ["KINDS"]
