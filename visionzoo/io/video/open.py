"""Open video and sound files, with clear errors for files that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import InputError, require
from ..head import read_head

_COVER = 0x400
"""FFmpeg's flag for a stream that is an attached image."""


class VideoError(InputError):
    """A file that is not a video, or one that cannot be decoded."""


def open_video(file: Path) -> Any:
    """Open a PyAV container with at least one video stream.

    Raises:
        VideoError: missing, empty, not a video, or without a video stream.
    """
    container = open_media(file)
    if video_stream(container) is None:
        container.close()
        raise VideoError(f"{file}: has no video stream")
    return container


def open_media(file: Path) -> Any:
    """Open a PyAV container with streams of any kind: a video, or only sound.

    Raises:
        VideoError: missing, empty, or neither video nor sound.
    """
    av = require("av", extra="video", purpose="reading videos")
    read_head(file, "a video file", VideoError)
    try:
        # only this file: a playlist or concat script must not open others. Not passed as `options`, which streams get, too:
        # PyAV 14 then crashes on files whose streams appear during reading (flv, mpg)
        only = {"protocol_whitelist": "file"}
        return av.open(str(file.absolute()), container_options=only, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(
            f"{file}: cannot be read as a video ({reason}); expected mp4, mov, mkv, webm, avi, …"
        ) from error


def video_stream(container: Any) -> Any:
    """The first video stream of a PyAV container, or None. The cover image of a song or film does not count."""
    for stream in container.streams.video:
        if not stream.disposition.value & _COVER:
            return stream
    return None
