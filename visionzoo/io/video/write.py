"""Writing videos frame by frame, with the sound of another file. `visionzoo.io.video` exports it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, MissingDependencyError, require, writing
from ..files import atomic_path, check_output
from .open import open_media
from .sound import Sound

__all__ = ["VideoWriter"]


class _Container(NamedTuple):
    """What a file ending stands for: FFmpeg's name, the codecs it may hold, and the one taken for each purpose."""

    name: str
    codecs: tuple[str, ...]
    usual: str
    lossless: str


_CONTAINERS = {
    ".mp4": _Container("mp4", ("h264",), "h264", "h264"),
    ".m4v": _Container("mp4", ("h264",), "h264", "h264"),
    ".mov": _Container("mov", ("h264",), "h264", "h264"),
    ".mkv": _Container("matroska", ("h264", "vp9", "ffv1"), "h264", "ffv1"),
    ".webm": _Container("webm", ("vp9",), "vp9", "vp9"),
    ".avi": _Container("avi", ("h264", "ffv1"), "h264", "ffv1"),
}
_LIMITED, _FULL = 1, 2  # FFmpeg's numbers of the ranges 16 … 235 and 0 … 255
_BT709, _RGB = 1, 0  # and of the matrices; 1 is BT.709 among primaries and transfer curves too


class VideoWriter:
    """Writes a video frame by frame; the file appears, whole, when the block ends well, and not at all otherwise.

        with VideoWriter("out.mp4", fps=Fraction(30000, 1001), audio_from="in.mp4") as video:
            for frame in read_frames("in.mp4"):
                video.write(frame.pixels)

    Frames are encoded as they come. Frame n is shown at n / fps exactly; mkv and webm round time stamps to 1 ms, and
    avi keeps none, so that players may show H.264 in it a frame late.

    The picture has 8 bits, in BT.709 (matrix, primaries, curve, range 16 … 235), converted and tagged so. Colour is
    stored at half the resolution (yuv420p), but at the full one (yuv444p) where the width or height is odd: some players
    and browsers do not show that; cut a row or column to be shown everywhere.

    Attributes:
        path: the file to be.
        fps: frames a second, as written.
        frames: how many are written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fps: Fraction | float,
        crf: float = 18,
        lossless: bool = False,
        codec: str | None = None,
        audio_from: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Check what is asked; the file is begun by the first frame.

        Args:
            path: ends in .mp4, .m4v, .mov, .mkv, .webm or .avi.
            fps: frames a second; a float is taken as the nearest fraction with a denominator up to 1001.
            crf: quality on x264's scale, 0 (best) to 51; at 18 the loss is hard to see, 6 more halve the file. For
                VP9 it is stretched to that codec's 0 … 63.
            lossless: keep every RGB value: H.264 in RGB in mp4, m4v and mov, FFV1 in mkv and avi, VP9 in RGB in webm.
                Most browsers and phones do not play these, except VP9.
            codec: "h264" (all but webm), "vp9" (mkv, webm) or "ffv1" (mkv, avi; always lossless); None: H.264, VP9 in
                webm, and with `lossless` as above.
            audio_from: a file whose first sound stream goes along, up to the end of the pictures. It is copied where
                the container takes its codec, else encoded (AAC; Opus in webm; MP3 in avi), with at most two
                channels. No sound in it: none is written.
            overwrite: replace an existing file.

        Raises:
            InputError: an ending, codec, rate or crf that is none; `path` exists; `audio_from` cannot be read.
            MissingDependencyError: no PyAV, or one built without the encoder.
        """
        self._av = require("av", extra="video", purpose="writing videos")
        self.path = check_output(Path(path), overwrite=overwrite)
        self._ending = self.path.suffix.lower()
        if self._ending not in _CONTAINERS:
            raise InputError(f"{self.path}: videos are written as {', '.join(_CONTAINERS)}; choose such an ending")
        container = _CONTAINERS[self._ending]
        self._codec = codec or (container.lossless if lossless else container.usual)
        if self._codec not in container.codecs:
            raise InputError(
                f"{self.path}: {self._ending} holds {' or '.join(container.codecs)} here, got the codec {codec!r}"
            )
        if not 0 <= crf <= 51:
            raise InputError(f"{self.path}: crf is from 0 (best) to 51, got {crf}")
        self.fps = _rate(self.path, fps)
        self._crf = crf
        self._lossless = lossless or self._codec == "ffv1"
        self._encoder = _encoder(self._codec, self._lossless)
        _check_encoder(self._av, self.path, self._encoder)
        self._audio_from = None if audio_from is None else Path(audio_from)
        if self._audio_from is not None:
            open_media(self._audio_from).close()
        self.frames = 0
        self._landing: contextlib.AbstractContextManager[Path] = contextlib.nullcontext(self.path)
        self._temporary: Path | None = None
        self._container: Any = None
        self._stream: Any = None
        self._sound: Sound | None = None
        self._size = (0, 0)

    def __enter__(self) -> Self:
        self._landing = atomic_path(self.path)
        self._temporary = self._landing.__enter__()
        return self

    def write(self, pixels: NDArray[np.uint8]) -> None:
        """Add a frame.

        Args:
            pixels: (H, W, 3) uint8 RGB, all of one size.

        Raises:
            InputError: another shape, type or size, or a size that the codec does not take.
            VisionZooError: the disk is full, or the folder cannot be written.
        """
        if self._temporary is None:
            raise RuntimeError("VideoWriter.write is for use inside `with VideoWriter(…) as video:`")
        pixels = np.asarray(pixels)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
            raise InputError(
                f"{self.path}: a frame is (H, W, 3) uint8, got frame {self.frames} as {pixels.shape} {pixels.dtype}"
            )
        height, width = pixels.shape[:2]
        if self.frames and (height, width) != self._size:
            raise InputError(
                f"{self.path}: frame {self.frames} is {width} x {height} pixels, the first one was"
                f" {self._size[1]} x {self._size[0]}; make all frames alike"
            )
        with self._encoding():
            if not self.frames:
                self._begin(height, width)
            frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if not self._lossless:  # FFmpeg's own choice would be the matrix of BT.601
                frame = frame.reformat(
                    format=self._stream.pix_fmt,
                    dst_colorspace="ITU709",
                    dst_color_range="MPEG",
                    interpolation="AREA",
                )
            frame.pts, frame.time_base = self.frames, 1 / self.fps
            self._container.mux(self._stream.encode(frame))
            self.frames += 1
            self._mux_sound()

    def _begin(self, height: int, width: int) -> None:
        self._size = (height, width)
        self._container = self._av.open(
            str(self._temporary),
            "w",
            format=_CONTAINERS[self._ending].name,
            container_options={"movflags": "+faststart"} if self._ending in (".mp4", ".m4v", ".mov") else {},
        )
        self._stream = stream = self._container.add_stream(self._encoder, rate=self.fps, options=self._options())
        stream.width, stream.height = width, height
        stream.bit_rate = 0  # quality decides
        if self._lossless:
            stream.pix_fmt = {"libx264rgb": "rgb24", "libvpx-vp9": "gbrp", "ffv1": "bgr0"}[self._encoder]
        else:
            stream.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
        context = stream.codec_context
        context.time_base = 1 / self.fps
        context.color_range = _FULL if self._lossless else _LIMITED
        context.colorspace = _RGB if self._lossless else _BT709
        context.color_primaries = context.color_trc = _BT709
        if self._audio_from is not None:
            self._sound = Sound.into(self._container, self._audio_from)

    def _options(self) -> dict[str, str]:
        if self._codec == "ffv1":
            return {"level": "3", "slicecrc": "1"}
        if self._codec == "vp9":
            quality = {"lossless": "1"} if self._lossless else {"crf": str(round(self._crf * 63 / 51))}
            return {**quality, "row-mt": "1", "cpu-used": "4"}
        options = {"crf": "0" if self._lossless else f"{self._crf:g}"}
        if self._ending == ".avi":
            options["bf"] = "0"  # avi keeps no time stamps: frames come in the order of display
        return options

    def _mux_sound(self) -> None:
        if self._sound is not None:
            for packet in self._sound.packets_before(self.frames / self.fps):
                self._container.mux(packet)

    @contextlib.contextmanager
    def _encoding(self) -> Iterator[None]:
        """Errors of the disk and of the codec become one line."""
        with writing(self.path):
            try:
                yield
            except self._av.FFmpegError as error:
                if isinstance(error, OSError):
                    raise
                raise InputError(
                    f"{self.path}: {self._size[1]} x {self._size[0]} pixels cannot be encoded by {self._encoder}"
                    f" ({error.strerror}); choose another size or file ending"
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
        if not self.frames:
            raise InputError(f"{self.path}: no frame was written; give at least one")
        with self._encoding():
            self._container.mux(self._stream.encode())
            self._close_sound()
            self._container.close()

    def _close_sound(self) -> None:
        if self._sound is not None:
            self._sound.close()
            self._sound = None

    def _drop(self) -> None:
        """Remove the temporary file. The error of the block, which may be about another file, goes its own way."""
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
        raise InputError(f"{path}: fps is above 0 and at most 1000, got {fps}")
    return rate


def _encoder(codec: str, lossless: bool) -> str:
    if codec == "h264":
        return "libx264rgb" if lossless else "libx264"
    return {"vp9": "libvpx-vp9", "ffv1": "ffv1"}[codec]


def _check_encoder(av: Any, path: Path, encoder: str) -> None:
    try:
        av.codec.Codec(encoder, "w")
    except (ValueError, av.FFmpegError) as error:
        raise MissingDependencyError(
            f"{path}: this build of PyAV lacks the encoder {encoder}; install the one with it:"
            " pip install --force-reinstall --only-binary av av, or choose another file ending"
        ) from error
