"""Reading videos frame by frame."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, require
from .open import VideoError, open_video

__all__ = ["Frame", "VideoInfo", "probe", "read_frames"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoInfo:
    """What the container says; `frames` is an estimate where the container does not count them."""

    width: int
    height: int
    fps: Fraction
    frames: int


@dataclass(frozen=True)
class Frame:
    """One picture of a video.

    Attributes:
        number: counted from 0 in the order of display.
        time_s: when it is shown.
        pixels: (H, W, 3) uint8 RGB, turned the way it is shown.
    """

    number: int
    time_s: float
    pixels: NDArray[np.uint8]


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Size, frame rate and number of frames.

    Raises:
        VideoError: missing, empty, not a video, or without a video stream.
    """
    with open_video(Path(path)) as container:
        stream = container.streams.video[0]
        fps = stream.average_rate or stream.guessed_rate or Fraction(25)
        seconds = Fraction(0)
        if stream.duration is not None and stream.time_base is not None:
            seconds = stream.duration * stream.time_base
        elif container.duration is not None:
            seconds = Fraction(container.duration, 1_000_000)
        return VideoInfo(stream.width, stream.height, Fraction(fps), stream.frames or round(seconds * fps))


def read_frames(
    path: str | os.PathLike[str], *, start: int = 0, stop: int | None = None, step: int = 1, longest: int | None = None
) -> Iterator[Frame]:
    """The frames `start`, `start + step`, … before `stop`, one in memory at a time.

    A file that breaks off gives what can be decoded, and one warning.

    Args:
        longest: make the longer side at most this many pixels.

    Raises:
        VideoError: missing, empty, not a video, or no frame of it can be decoded.
        InputError: a step below 1 or a start below 0.
    """
    if step < 1 or start < 0:
        raise InputError(f"start is at least 0 and step at least 1, got start {start} and step {step}")
    file = Path(path)
    av = require("av", extra="video", purpose="reading videos")
    with open_video(file) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        # avi keeps no time stamps, and those guessed for H.264 in it are off by some frames
        steady = stream.average_rate if container.format.name == "avi" else None
        seen, last_s = 0, 0.0
        frames = container.decode(stream)
        while stop is None or seen < stop:
            try:
                frame = next(frames, None)
            except av.FFmpegError as error:
                if seen == 0:
                    raise VideoError(
                        f"{file}: no frame can be decoded ({error.strerror}); export the video again"
                    ) from error
                log.warning("%s: breaks off after %d frames (%s); what is there is used", file, seen, error.strerror)
                return
            if frame is None:
                if seen and _is_short(stream, seen, last_s):
                    log.warning(
                        "%s: breaks off after %d of %d frames; what is there is used", file, seen, stream.frames
                    )
                break
            last_s = float(frame.time or 0.0)
            if seen >= start and (seen - start) % step == 0:
                time_s = float(seen / steady) if steady else float(frame.time or 0.0)
                yield Frame(seen, time_s, _pixels(frame, longest))
            seen += 1
        if seen == 0 and stop != 0:
            raise VideoError(f"{file}: holds no frames; export the video again")


def _is_short(stream: Any, frames: int, last_s: float) -> bool:
    """Whether the container, which counts its frames, promised at least a tenth more of them, and of time."""
    if stream.duration is None or stream.time_base is None:
        return False
    duration_s = float(stream.duration * stream.time_base)
    return frames < 0.9 * stream.frames and last_s < 0.9 * duration_s - 0.2


def _pixels(frame: Any, longest: int | None) -> NDArray[np.uint8]:
    width, height = frame.width, frame.height
    if longest is not None and max(width, height) > longest:
        factor = longest / max(width, height)
        width, height = max(1, round(width * factor)), max(1, round(height * factor))
    # said outright, since PyAV 14 leaves the frame's own matrix and range aside
    colours = {} if frame.format.is_rgb else {"dst_colorspace": "DEFAULT"}
    if colours and frame.color_range == 2:  # 0 … 255
        colours["src_color_range"] = "JPEG"
    pixels = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA", **colours)
    turns = round(getattr(frame, "rotation", 0) / 90) % 4  # degrees counter-clockwise, as phones record
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
