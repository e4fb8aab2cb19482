"""Read videos frame by frame, as they are displayed."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...console import counted
from ...errors import InputError, require
from .colour import colours_of, rgb
from .geometry import frame_turn, square_size, within
from .open import VideoError, open_video, video_stream
from .probe import probe
from .times import Clock

__all__ = ["Frame", "read_frames", "sample_frames"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frame:
    """One frame of a video, as displayed.

    Attributes:
        number: counted from 0 in display order.
        time: display time in seconds from the start of the video stream, exactly.
        duration: how long it is shown, in seconds, until the next frame.
        pixels: (H, W, 3) uint8 RGB: rotated and mirrored as displayed, with square pixels, with the primaries of BT.709
            (those of sRGB), composited on white.
    """

    number: int
    time: Fraction
    duration: Fraction
    pixels: NDArray[np.uint8]

    @property
    def time_s(self) -> float:
        """When it is shown, in seconds."""
        return float(self.time)


def read_frames(
    path: str | os.PathLike[str], *, start: int = 0, stop: int | None = None, step: int = 1, longest: int | None = None
) -> Iterator[Frame]:
    """Yield the frames `start`, `start + step`, … before `stop`, one in memory at a time.

    All frames have the size of the first one. A truncated file gives the frames that can be decoded, and one warning is logged;
    damaged frames and converted colours (HDR, wide gamut) are logged in the same way.

    Args:
        longest: shrink frames until the longer side is at most this many pixels.

    Raises:
        VideoError: missing, empty, not a video, or no frame of it can be decoded.
        InputError: a step below 1 or a start below 0.
    """
    if step < 1 or start < 0:
        raise InputError(f"start must be at least 0 and step at least 1, got start {start} and step {step}")
    file = Path(path)
    with open_video(file) as container:
        if stop is not None and stop <= start:
            return
        stream = video_stream(container)
        show = _Shown(file, longest)
        for number, (frame, time, duration) in enumerate(_timed(file, container, stream)):
            if stop is not None and number >= stop:
                return
            if number >= start and (number - start) % step == 0:
                yield Frame(number, time, duration, show(frame, stream))


def sample_frames(path: str | os.PathLike[str], every_s: float) -> Iterator[tuple[float, Frame]]:
    """Yield the frames shown at 0, `every_s`, 2 `every_s`, … seconds, with these times; one frame is in memory at a time.

    A frame that is shown at several of these times is yielded for each. Only frames that are yielded are converted to RGB.

    Raises:
        VideoError: as `read_frames`.
        InputError: `every_s` is not above 0.
    """
    if not every_s > 0:
        raise InputError(f"the time between two frames must be above 0 seconds, got {every_s:g}")
    file = Path(path)
    step = Fraction(every_s).limit_denominator(1_000_000)
    if not step:
        raise InputError(f"the time between two frames must be at least 0.000001 seconds, got {every_s:g}")
    with open_video(file) as container:
        stream = video_stream(container)
        show, taken = _Shown(file, None), 0
        for number, (frame, time, duration) in enumerate(_timed(file, container, stream)):
            if taken and step * taken >= time + duration:
                continue
            shown = Frame(number, time, duration, show(frame, stream))
            while not taken or step * taken < time + duration:
                yield float(step * taken), shown
                taken += 1


class _Shown:
    """Converts the decoded frames of one file to pixels, all of the size of the first one."""

    def __init__(self, file: Path, longest: int | None) -> None:
        self._file, self._longest = file, longest
        self._size: tuple[int, int] | None = None
        self._noted = False

    def __call__(self, frame: Any, stream: Any) -> NDArray[np.uint8]:
        colours = colours_of(frame, stream)
        if colours.kind is not None and not self._noted:
            log.warning("%s: %s is converted to the colours of ordinary video (BT.709)", self._file, colours.kind)
            self._noted = True
        turn = frame_turn(frame)
        if self._size is None:
            size = square_size(frame.width, frame.height, stream.sample_aspect_ratio)
            width, height = within(*size, self._longest)
            self._size = (height, width) if turn.transpose else (width, height)
        width, height = self._size
        return turn(rgb(frame, *((height, width) if turn.transpose else (width, height)), colours))


def _timed(file: Path, container: Any, stream: Any) -> Iterator[tuple[Any, Fraction, Fraction]]:
    """Yield decoded frames with time and duration; one is held back until its duration is known."""
    fps = probe(file).fps
    tick = stream.time_base or 1 / fps
    in_avi = container.format.name == "avi"
    clock = Clock(tick, stream.start_time, fps)
    held: tuple[Any, Fraction] | None = None
    step = 1 / fps
    for frame, stamp in _decoded(file, container, stream):
        time = clock.time(stamp)
        if held is not None:
            step = time - held[1]
            yield (*held, step)
        held = frame, time
    if held is not None:
        stated = (getattr(held[0], "duration", None) or 0) * tick
        # if the rate varies, a container may state a meaningless duration, e.g. 1 ms
        yield (*held, stated if not in_avi and step / 4 <= stated <= 16 * step else step)


def _decoded(file: Path, container: Any, stream: Any) -> Iterator[tuple[Any, int | None]]:
    """Yield PyAV frames in display order, with time stamps. Damaged packets are skipped with a warning."""
    av = require("av", extra="video", purpose="reading videos")
    decoder = _decoder(av, stream)
    decoder.thread_type = "AUTO"
    seen, last_s, damaged, reason = 0, 0.0, 0, ""
    packets = container.demux(stream)
    # avi numbers packets in decoding order; sorted, the numbers are in display order
    numbers: deque[int] | None = deque() if container.format.name == "avi" else None
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            if numbers is not None and packet.size and packet.dts is not None:
                numbers.append(packet.dts)
            frames = decoder.decode(packet if packet.size else None)
        except av.FFmpegError as error:
            damaged, reason, frames = damaged + 1, error.strerror, []
        for frame in frames:
            seen += 1
            last_s = float((frame.pts or 0) * (stream.time_base or 0))
            yield frame, frame.pts if numbers is None else numbers.popleft() if numbers else None
    if not seen:
        reason = f"no frame can be decoded ({reason})" if damaged else "holds no frames"
        raise VideoError(f"{file}: {reason}; export the video again")
    if _is_short(stream, seen, last_s):
        log.warning("%s: ends after %d of %d frames; these are used", file, seen, stream.frames)
    elif damaged:
        places = counted(damaged, "place")
        log.warning("%s: is damaged in %s (%s); the %d frames that can be decoded are used", file, places, reason, seen)


@contextlib.contextmanager
def logged_once() -> Iterator[None]:
    """Inside the block, what is wrong with a file is logged once, although it is read several times."""
    told: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return text not in told and not told.add(text)

    log.addFilter(is_new)
    try:
        yield
    finally:
        log.removeFilter(is_new)


def _decoder(av: Any, stream: Any) -> Any:
    """The codec context that decodes a stream; for VP8 and VP9 with transparency, the one that supports it."""
    context = stream.codec_context
    tags = {name.lower(): value for name, value in stream.metadata.items()}
    if tags.get("alpha_mode") == "1" and context.name in ("vp8", "vp9"):
        try:
            decoder = av.CodecContext.create({"vp8": "libvpx", "vp9": "libvpx-vp9"}[context.name], "r")
        except (ValueError, av.FFmpegError):  # this build of PyAV lacks it; transparency is ignored
            return context
        decoder.width, decoder.height = context.width, context.height
        return decoder
    return context


def _is_short(stream: Any, frames: int, last_s: float) -> bool:
    """Whether the container's header states at least 10 % more frames, and a longer duration by as much."""
    if stream.duration is None or stream.time_base is None:
        return False
    duration_s = float(stream.duration * stream.time_base)
    return frames < 0.9 * stream.frames and last_s < 0.9 * duration_s - 0.2
