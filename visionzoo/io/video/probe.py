"""Size, frame rate and number of frames of a video."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import require
from .geometry import frame_turn, square_size
from .open import open_video, video_stream
from .times import USUAL_RATE, even_rate, is_sane, measure_rate, standard_rate

SCANNED = 20_000
"""Number of frames whose times are read if the header states the number of frames; otherwise all are read."""


@dataclass(frozen=True)
class VideoInfo:
    """Size, frame rate and number of frames of a video.

    Attributes:
        width, height: in pixels, of the frames as displayed and as `read_frames` gives them: rotated, with square pixels.
        fps: frames per second; the mean if the rate varies.
        frames: number of frames; an estimate if `counted` is false.
        duration: seconds from the start of the first frame to the end of the last.
        is_variable: whether the frame rate varies.
        even_fps: a constant rate for files that cannot keep times: `fps`, or if it varies, the rate where frames are closest.
        counted: whether the frames were counted.
    """

    width: int
    height: int
    fps: Fraction
    frames: int
    duration: Fraction = Fraction(0)
    is_variable: bool = False
    even_fps: Fraction = Fraction(0)
    counted: bool = True


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Read size, frame rate and number of frames.

    The first frame is decoded. The rate is computed from the times of the frames, which are read without decoding: headers do not
    state it for browser recordings, streams without a container, and videos with a variable rate.

    Raises:
        VideoError: missing, empty, not a video, or without a video stream.
    """
    file = Path(path)
    with open_video(file):  # raises the errors for files that are not videos
        pass
    status = file.stat()
    return _probe(str(file.absolute()), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _probe(file: str, changed_ns: int, size: int) -> VideoInfo:
    with open_video(Path(file)) as container:
        stream = video_stream(container)
        width, height = _shown_size(container, stream)
    with open_video(Path(file)) as container:
        return _measured(container, video_stream(container), width, height)


def _shown_size(container: Any, stream: Any) -> tuple[int, int]:
    av = require("av", extra="video", purpose="reading videos")
    width, height, turn = stream.width, stream.height, None
    try:
        frame = next(container.decode(stream), None)
        if frame is not None:
            width, height, turn = frame.width, frame.height, frame_turn(frame)
    except av.FFmpegError:  # reading the video reports it
        pass
    width, height = square_size(width, height, stream.sample_aspect_ratio)
    return (height, width) if turn is not None and turn.transpose else (width, height)


def _measured(container: Any, stream: Any, width: int, height: int) -> VideoInfo:
    tick = stream.time_base or Fraction(1, 1000)
    length = stated_length(container, stream)
    times, unstamped, ended = _times(container, stream, tick, SCANNED if length or stream.frames else None)
    headers = stated_rates(container, stream)
    if not len(times):
        fps = next(iter(headers), USUAL_RATE)
        return VideoInfo(width, height, fps, unstamped, unstamped / fps, False, fps, ended)
    fps, varies = measure_rate(times, float(tick), headers)
    frames = len(times) + unstamped
    even = even_rate(times, fps) if varies else fps
    last = float(np.median(np.diff(times)[-5:])) if varies and len(times) > 1 else float(1 / fps)
    duration = Fraction(float(times[-1] - times[0]) + last).limit_denominator(90_000) if varies else frames / fps
    if not ended:
        duration = length or stream.frames / fps
        frames = stream.frames or round(duration * fps)
        fps = frames / duration if varies and frames else fps
    return VideoInfo(width, height, fps, frames, duration, varies, even, ended)


def stated_rates(container: Any, stream: Any) -> list[Fraction]:
    """Plausible rates from the header, the most reliable first."""
    rates = [stream.average_rate, stream.guessed_rate]
    without_container = stream.start_time is None and stream.duration is None and not stream.frames
    if (
        without_container or container.format.name == "avi"
    ):  # the header says 25 if nothing is known, and counts empty packets
        rates.reverse()
    sane = [Fraction(rate) for rate in rates if rate is not None and is_sane(rate)]
    coarse = stream.time_base is not None and stream.time_base >= Fraction(1, 1000)
    return [standard_rate(rate) for rate in sane] if coarse else sane


def stated_length(container: Any, stream: Any) -> Fraction:
    """Duration in seconds according to the header; 0 if not stated."""
    if stream.duration is not None and stream.time_base is not None:
        return stream.duration * stream.time_base
    return Fraction(container.duration or 0, 1_000_000)


def _times(container: Any, stream: Any, tick: Fraction, limit: int | None) -> tuple[NDArray[np.float64], int, bool]:
    """Times of the frames in display order, how many frames have none, and whether the file was read to its end."""
    av = require("av", extra="video", purpose="reading videos")
    stamps: list[int] = []
    unstamped = read = 0
    # avi numbers packets in decoding order; sorted, the numbers are in display order
    in_avi = container.format.name == "avi"
    packets = container.demux(stream)
    try:
        for packet in packets if limit is None else islice(packets, limit):
            read += 1
            if not packet.size or getattr(packet, "is_discard", False) or _is_hidden(stream, packet):
                continue
            stamp = packet.dts if in_avi else packet.pts
            if stamp is None:
                unstamped += 1
            else:
                stamps.append(stamp)
    except av.FFmpegError:  # the file is truncated; reading it reports that
        pass
    times = np.unique(np.array(stamps, np.float64)) * float(tick)
    if unstamped > len(times):  # a few stamps among many missing ones are unreliable
        return np.array([]), unstamped + len(times), limit is None or read < limit
    return times, unstamped, limit is None or read < limit


def _is_hidden(stream: Any, packet: Any) -> bool:
    """Whether a VP8 packet is not shown but only needed to decode others."""
    return stream.codec_context.name in ("vp8", "libvpx") and not memoryview(packet)[0] & 0x10
