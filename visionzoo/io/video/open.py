"""Opening files that hold pictures or sound, with messages for those that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import InputError, require


class VideoError(InputError):
    """A file that is no video, or one that cannot be decoded."""


def open_video(file: Path) -> Any:
    """A PyAV container with at least one video stream.

    Raises:
        VideoError: missing, empty, not a video, or without a video stream.
    """
    container = open_media(file)
    if not container.streams.video:
        container.close()
        raise VideoError(f"{file}: has no video stream")
    return container


def open_media(file: Path) -> Any:
    """A PyAV container with streams of any kind: a video, or sound alone.

    Raises:
        VideoError: missing, empty, or neither video nor sound.
    """
    av = require("av", extra="video", purpose="reading videos")
    if not file.exists():
        raise VideoError(f"{file}: no such file")
    if not file.is_file():
        raise VideoError(f"{file}: is a folder, expected a video file")
    if file.stat().st_size == 0:
        raise VideoError(f"{file}: the file is empty")
    try:
        # only this file: a playlist or a concat script must not open others
        return av.open(str(file.absolute()), options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(
            f"{file}: cannot be read as a video ({reason}); expected mp4, mov, mkv, webm, avi, …"
        ) from error
