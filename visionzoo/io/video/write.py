"""Write videos frame by frame, each with its display time, with the sound of another file. Exported by `visionzoo.io.video`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, require, writing
from ..extensions import extension
from ..files import atomic_path, check_output
from .encode import Encoding, Quality
from .formats import CONTAINERS
from .open import open_media
from .sound import Sound
from .times import ticks

__all__ = ["VideoWriter"]


class VideoWriter:
    """Writes a video frame by frame. The complete file appears if the block succeeds, and no file if it fails.

        with VideoWriter("out.mp4", fps=Fraction(30000, 1001), audio_from="in.mp4") as video:
            for pixels in frames:
                video.write(pixels)

    Without times, frame n is shown at exactly n / fps; mkv and webm round times to 1 ms, and avi keeps none, so that players may
    show H.264 in it one frame late. With times,

        info = probe("in.mkv")
        with VideoWriter("out.mp4", fps=info.fps, variable=info.is_variable, audio_from="in.mkv") as video:
            for frame in read_frames("in.mkv"):
                video.write(frame.pixels, time=frame.time, duration=frame.duration)

    each frame is shown at its own time if `variable`; otherwise, and always in avi, frames are repeated and dropped to give the
    constant rate `fps`.

    The video has 8 bits per channel, is converted to and tagged as BT.709 (matrix, primaries, curve, range 16 … 235), and has
    square pixels. Chroma is stored at half resolution (yuv420p), or at full resolution (yuv444p) if the width or height is
    odd, which some players and browsers do not support; crop a row or column to play everywhere.

    Attributes:
        path: the output file.
        fps: frames per second, as written; the mean if the rate varies.
        frames: number of frames written so far.
        end: seconds from the start to the end of the last frame.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fps: Fraction | float,
        variable: bool = False,
        crf: float = 18,
        lossless: bool = False,
        codec: str | None = None,
        audio_from: str | os.PathLike[str] | None = None,
        audio_start: Fraction | float = 0,
        overwrite: bool = False,
    ) -> None:
        """Check the arguments; the file is created with the first frame.

        Args:
            path: output file with the extension .mp4, .m4v, .mov, .mkv, .webm or .avi.
            fps: frames per second, above 0 and at most 1000; a float becomes the nearest fraction with a denominator up to
                1001. If `variable`, the approximate mean, for the header.
            variable: keep the times given to `write`, to 1/90000 s, in mkv and webm to 1 ms.
            crf: quality on x264's scale, 0 (best) to 51; at 18 the loss is hard to see, and 6 more halve the file size.
                For VP9 it is scaled to that codec's 0 … 63.
            lossless: keep every RGB value: H.264 in RGB in mp4, m4v and mov, FFV1 in mkv and avi, VP9 in RGB in webm.
                Most browsers and phones do not play these, except VP9.
            codec: "h264" (all but webm), "vp9" (mkv, webm) or "ffv1" (mkv, avi; always lossless); None: H.264, VP9 in
                webm, and with `lossless` as above.
            audio_from: a file whose first audio stream is added, up to the end of the last frame. It is copied if the
                container supports its codec, else encoded (AAC; Opus in webm; MP3 in avi) with at most two channels. If it
                has no sound, none is written.
            audio_start: seconds of `audio_from` that are left out at the beginning, e.g. because its first frames are.
            overwrite: replace an existing file.

        Raises:
            InputError: an extension, codec, rate or crf that cannot be used; `path` exists; `audio_from` cannot be read.
            MissingDependencyError: PyAV is not installed, or was built without the encoder.
        """
        self._av = require("av", extra="video", purpose="writing videos")
        self.path = check_output(Path(path), overwrite=overwrite)
        if extension(self.path) not in CONTAINERS:
            raise InputError(f"{self.path}: the extension of a video must be one of {', '.join(CONTAINERS)}")
        container = CONTAINERS[extension(self.path)]
        name = codec or (container.lossless if lossless else container.usual)
        if name not in container.codecs:
            raise InputError(
                f"{self.path}: {self.path.suffix} holds {' or '.join(container.codecs)} here, got the codec {codec!r}"
            )
        if not 0 <= crf <= 51:
            raise InputError(f"{self.path}: crf must be from 0 (best) to 51, got {crf}")
        self.fps = _rate(self.path, fps)
        self._variable = variable and container.tick is not None
        self._tick = container.tick if self._variable and container.tick is not None else 1 / self.fps
        self._quality = Quality(name, crf, lossless or name == "ffv1")
        self._quality.check_encoder(self.path)
        self._audio_from = None if audio_from is None else Path(audio_from)
        self._audio_start = Fraction(audio_start)
        if self._audio_from is not None:
            open_media(self._audio_from).close()
        self.frames = 0
        self._next = 0  # the next tick that has no frame yet
        self._landing: contextlib.AbstractContextManager[Path] = contextlib.nullcontext(self.path)
        self._temporary: Path | None = None
        self._container: Any = None
        self._encoding: Encoding | None = None
        self._sound: Sound | None = None
        self._size = (0, 0)

    def __enter__(self) -> Self:
        self._landing = atomic_path(self.path)
        self._temporary = self._landing.__enter__()
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames in pixels; 0 before the first one."""
        return self._size[1], self._size[0]

    @property
    def end(self) -> Fraction:
        """Seconds from the start to the end of the last frame."""
        return self._next * self._tick

    def write(
        self,
        pixels: NDArray[np.uint8],
        *,
        time: Fraction | float | None = None,
        duration: Fraction | float | None = None,
    ) -> None:
        """Add a frame.

        Args:
            pixels: (H, W, 3) uint8 RGB, the same size for all frames.
            time: display time in seconds; None: after the previous frame. The first frame is shown from the start.
            duration: how long it is shown, in seconds; None: 1 / fps. With times, the previous frame fills a gap.

        Raises:
            InputError: a wrong shape, type or size, or a size that the codec does not support.
            VisionZooError: the disk is full, or the folder cannot be written.
        """
        if self._temporary is None:
            raise RuntimeError("VideoWriter.write must be called inside `with VideoWriter(…) as video:`")
        pixels = np.asarray(pixels)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
            raise InputError(
                f"{self.path}: a frame must be (H, W, 3) uint8, got frame {self.frames} as {pixels.shape} {pixels.dtype}"
            )
        height, width = pixels.shape[:2]
        if self._size != (0, 0) and (height, width) != self._size:
            raise InputError(
                f"{self.path}: frame {self.frames} is {width} x {height} pixels, the first one was"
                f" {self._size[1]} x {self._size[0]}; all frames must have the same size"
            )
        times = self._ticks(time, 1 / self.fps if duration is None else duration)
        with self._errors():
            self._size = (height, width)
            if self._encoding is None:
                self._encoding = self._begin()
            for packet in self._encoding.encode(pixels, times):
                self._take(packet)
            self.frames += len(times)
            self._next = times.stop
            self._mux_sound()

    def _ticks(self, time: Fraction | float | None, duration: Fraction | float) -> range:
        """Display times of a frame in ticks: one with its duration, or at a constant rate as many as needed."""
        if time is None:
            begin, end = self._next, self._next + max(1, round(duration / self._tick))
        else:
            covered = ticks(time, duration, 1 / self._tick)
            begin, end = covered.start if self._variable and self._next else self._next, covered.stop
        if self._variable:
            begin = max(begin, self._next)
            return range(begin, max(end, begin + 1), max(end - begin, 1))
        return range(begin, max(end, begin + (not self.frames)))

    def _begin(self) -> Encoding:
        self._container = self._open(str(self._temporary))
        encoding = Encoding(self._container, self.path, self._quality, self._size, self.fps, self._tick)
        if self._audio_from is not None:
            self._sound = Sound.into(self._container, self._audio_from, self._audio_start)
        return encoding

    def _open(self, file: Any) -> Any:
        name = CONTAINERS[extension(self.path)].name
        options = {"movflags": "+faststart"} if name in ("mp4", "mov") else {}
        return self._av.open(file, "w", format=name, container_options=options)

    def _take(self, packet: Any) -> None:
        self._container.mux(packet)

    def _mux_sound(self) -> None:
        if self._sound is not None:
            for packet in self._sound.packets_before(self.end):
                self._container.mux(packet)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn disk and codec errors into one-line errors."""
        with writing(self.path):
            try:
                yield
            except self._av.FFmpegError as error:
                if isinstance(error, OSError):
                    raise
                raise InputError(
                    f"{self.path}: {self._size[1]} x {self._size[0]} pixels cannot be encoded by {self._quality.encoder}"
                    f" ({error.strerror}); choose another size or file extension"
                ) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._drop()
            return
        try:
            self._finish()
        except BaseException:
            self._drop()
            raise
        self._temporary = None
        self._landing.__exit__(None, None, None)

    def _finish(self) -> None:
        if self._encoding is None:
            raise InputError(f"{self.path}: no frame was written; give at least one")
        with self._errors():
            for packet in self._encoding.flush():
                self._take(packet)
            self._close_sound()
            self._container.close()

    def _close_sound(self) -> None:
        if self._sound is not None:
            self._sound.close()
            self._sound = None

    def _drop(self) -> None:
        """Remove the temporary file. The block's own error, which may be about another file, propagates."""
        self._temporary = None
        try:
            self._close_sound()
            if self._container is not None:
                with contextlib.suppress(self._av.FFmpegError):
                    self._container.close()
        finally:
            self._landing.__exit__(RuntimeError, RuntimeError("dropped"), None)


def _rate(path: Path, fps: Fraction | float) -> Fraction:
    try:
        exact = Fraction(fps)
    except (TypeError, ValueError, OverflowError):  # not a number, or not a finite one
        exact = Fraction(0)
    rate = exact.limit_denominator(1001 if isinstance(fps, float) else 1_000_000)
    if not 0 < rate <= 1000:
        raise InputError(f"{path}: fps must be above 0 and at most 1000, got {fps}")
    return rate
