"""Encode frames into packets: encoder settings, colour conversion, and colour tags."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import MissingDependencyError, require
from ..extensions import extension

_LIMITED, _FULL = 1, 2  # FFmpeg's codes for the ranges 16 … 235 and 0 … 255
_BT709, _RGB = 1, 0  # and for the matrices; 1 is BT.709 for primaries and transfer curves, too


@cache
def _has_avx512() -> bool:
    """Whether this CPU has AVX-512, according to NumPy."""
    for name in ("numpy._core", "numpy.core"):
        with contextlib.suppress(ImportError, AttributeError):
            return bool(importlib.import_module(f"{name}._multiarray_umath").__cpu_features__.get("AVX512F"))
    return False


@dataclass(frozen=True)
class Quality:
    """How frames are encoded.

    Attributes:
        codec: "h264", "vp9" or "ffv1".
        crf: 0 (best) to 51, for H.264; scaled to the range of VP9.
        lossless: keep pixels exactly.
    """

    codec: str
    crf: float = 18
    lossless: bool = False

    @property
    def encoder(self) -> str:
        """FFmpeg's name for the encoder."""
        if self.codec == "h264":
            return "libx264rgb" if self.lossless else "libx264"
        return {"vp9": "libvpx-vp9", "ffv1": "ffv1"}[self.codec]

    def check_encoder(self, path: Path) -> None:
        """Raise `MissingDependencyError` where this build of PyAV lacks the encoder."""
        av = require("av", extra="video", purpose="writing videos")
        try:
            av.codec.Codec(self.encoder, "w")
        except (ValueError, av.FFmpegError) as error:
            raise MissingDependencyError(
                f"{path}: this build of PyAV lacks the encoder {self.encoder}; install a build that has it:"
                " pip install --force-reinstall --only-binary av av, or choose another file extension"
            ) from error

    def options(self, path: Path) -> dict[str, str]:
        """The encoder's options for a file of this name."""
        if self.codec == "ffv1":
            return {"level": "3", "slicecrc": "1"}
        if self.codec == "vp9":
            quality = {"lossless": "1"} if self.lossless else {"crf": str(round(self.crf * 63 / 51))}
            return {**quality, "row-mt": "1", "cpu-used": "4"}
        options = {"crf": "0" if self.lossless else f"{self.crf:g}"}
        if _has_avx512():  # with AVX-512, the output of x264 varies from run to run at some widths
            options["x264-params"] = "asm=avx2"
        if extension(path) == ".avi":
            options["bf"] = "0"  # avi keeps no time stamps, so frames must be in display order
        return options


class Encoding:
    """A video stream of an output container, and its encoder.

    Args:
        output: a PyAV container open for writing.
        path: name of the output file.
        size: height and width of the frames.
        fps: the frame rate in the header.
        tick: the time base, in seconds.
    """

    def __init__(
        self, output: Any, path: Path, quality: Quality, size: tuple[int, int], fps: Fraction, tick: Fraction
    ) -> None:
        self._av = require("av", extra="video", purpose="writing videos")
        self._tick, self._lossless = tick, quality.lossless
        self._lengths: dict[int, int] | None = None if extension(path) == ".avi" else {}
        self.stream = stream = output.add_stream(quality.encoder, rate=fps, options=quality.options(path))
        height, width = size
        stream.height, stream.width = size
        stream.bit_rate = 0  # the rate follows from the quality
        if self._lossless:
            stream.pix_fmt = {"libx264rgb": "rgb24", "libvpx-vp9": "gbrp", "ffv1": "bgr0"}[quality.encoder]
        else:
            stream.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
        context = stream.codec_context
        context.time_base = tick
        context.color_range = _FULL if self._lossless else _LIMITED
        context.colorspace = _RGB if self._lossless else _BT709
        context.color_primaries = context.color_trc = _BT709

    def encode(self, pixels: NDArray[np.uint8], times: range) -> Iterator[Any]:
        """Encode (H, W, 3) uint8 RGB, shown at each of `times`, in ticks, for its step; yield the packets that are ready."""
        frame = None
        for time in times:
            if frame is None:
                frame = self._frame(pixels)
            frame.pts, frame.time_base = time, self._tick
            if self._lengths is not None:
                self._lengths[time] = times.step
            yield from self._timed(self.stream.encode(frame))

    def flush(self) -> Iterator[Any]:
        """Yield the remaining packets."""
        yield from self._timed(self.stream.encode())

    def _frame(self, pixels: NDArray[np.uint8]) -> Any:
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        if self._lossless:
            return frame
        return frame.reformat(  # FFmpeg's default is the matrix of BT.601
            format=self.stream.pix_fmt, dst_colorspace="ITU709", dst_color_range="MPEG", interpolation="AREA"
        )

    def _timed(self, packets: list[Any]) -> Iterator[Any]:
        """Set the packets' durations; encoders know only the mean."""
        for packet in packets:
            if self._lengths is not None and packet.pts in self._lengths:
                packet.duration = self._lengths.pop(packet.pts)
            yield packet
