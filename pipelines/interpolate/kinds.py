"""The kinds of files that `visionzoo interpolate` reads and writes, and which videos it takes."""

from __future__ import annotations

from pathlib import Path

from visionzoo.errors import InputError
from visionzoo.io.extensions import ANIMATIONS, VIDEOS, VIDEOS_WRITTEN
from visionzoo.io.video import VideoInfo, probe
from visionzoo.jobs import Kind

KINDS = (Kind("video", VIDEOS | ANIMATIONS, "video", VIDEOS_WRITTEN, ".mp4", keeps=True),)


def check_video(path: Path) -> VideoInfo:
    """What is known about a video. Raises `InputError` if it is none, or has one frame only."""
    info = probe(path)
    if info.counted and info.frames == 1:
        raise InputError(f"{path}: has one frame; frames can be added between two or more")
    return info


__all__ = ["KINDS", "check_video"]
