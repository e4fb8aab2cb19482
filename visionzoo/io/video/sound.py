"""Copy or encode the sound of one file into another."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from ...errors import MissingDependencyError, require
from .open import open_media, video_stream

log = logging.getLogger(__name__)

_PCM = {"pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le"}
# keys are FFmpeg's names for the containers
_COPIED = {
    "mp4": {"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"},
    "mov": {"aac", "mp3", "ac3", "eac3", "alac", *_PCM},
    "matroska": {"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac", "vorbis", "dts", "truehd", *_PCM},
    "webm": {"opus", "vorbis"},
    "avi": {"mp3", "ac3", "pcm_u8", "pcm_s16le"},
}
_ENCODERS = {"mp4": "aac", "mov": "aac", "matroska": "aac", "webm": "libopus", "avi": "libmp3lame"}


class Sound:
    """The first sound stream of a file as packets of an output container, counted from the file's first frame or a later time."""

    @classmethod
    def into(cls, output: Any, file: Path, start: Fraction = Fraction(0)) -> Sound | None:
        """Add a sound stream to `output`, a PyAV container, from `start` seconds on; None if `file` has no sound."""
        source = open_media(file)
        if not source.streams.audio:
            source.close()
            return None
        return cls(output, source, file, start)

    def __init__(self, output: Any, source: Any, file: Path, start: Fraction = Fraction(0)) -> None:
        self._av = require("av", extra="video", purpose="writing videos")
        self._source, self._file = source, file
        self._input = source.streams.audio[0]
        first = video_stream(source) or self._input
        self._start = Fraction(0)
        if first.start_time is not None and first.time_base is not None:
            self._start = first.start_time * first.time_base
        self._start += start
        self._container = output.format.name
        if _name(self._input) in _COPIED[self._container]:
            self._output = output.add_stream_from_template(self._input, opaque=True)  # packets are copied unchanged
            packets = self._copied()
        else:
            self._output = self._encoder(output, _ENCODERS[self._container])
            packets = self._encoded()
        self._packets = self._until_truncated(packets)
        self._next: Any = None

    def packets_before(self, seconds: Fraction) -> Iterator[Any]:
        """Yield the remaining packets that begin before this time."""
        while True:
            if self._next is None:
                self._next = next(self._packets, None)
            if self._next is None or self._next.pts * self._next.time_base >= seconds:
                return
            packet, self._next = self._next, None
            yield packet

    def close(self) -> None:
        self._source.close()

    def _encoder(self, output: Any, name: str) -> Any:
        try:
            codec = self._av.codec.Codec(name, "w")
        except (ValueError, self._av.FFmpegError) as error:
            raise MissingDependencyError(
                f"{self._file}: this build of PyAV lacks the encoder {name} for the sound; install a build that has it:"
                " pip install --force-reinstall --only-binary av av, or write a .mkv"
            ) from error
        rate = self._input.rate if self._input.rate in (codec.audio_rates or ()) else 48000
        stream = output.add_stream(name, rate=rate)
        mono = self._input.codec_context.channels == 1
        stream.layout = "mono" if mono else "stereo"
        stream.bit_rate = 96_000 if mono else 192_000
        return stream

    def _copied(self) -> Iterator[Any]:
        for packet in self._source.demux(self._input):
            if packet.dts is None or packet.pts is None:  # the end
                continue
            shift = round(self._start / packet.time_base)
            packet.pts -= shift
            packet.dts -= shift
            if self._is_kept(packet, before=("mp4", "mov")):
                packet.stream = self._output
                yield packet

    def _encoded(self) -> Iterator[Any]:
        end = Fraction(0)
        for frame in self._source.decode(self._input):
            time = end if frame.pts is None else frame.pts * frame.time_base - self._start
            end = time + Fraction(frame.samples, frame.sample_rate)
            if time < 0:
                continue
            frame.pts, frame.time_base = round(time * frame.sample_rate), Fraction(1, frame.sample_rate)
            yield from filter(self._is_kept, self._output.encode(frame))
        yield from filter(self._is_kept, self._output.encode())

    def _is_kept(self, packet: Any, before: tuple[str, ...] = ("mp4", "mov", "matroska", "webm")) -> bool:
        """Whether to keep a packet: not if it lies before the first frame, as the priming samples of most codecs do.

        Containers named in `before` may hold some of these, which decoders need but do not play. In other containers they
        would delay the frames: a packet that is more than half too early is dropped, any other starts at 0.
        """
        length = packet.duration or 0
        if self._container in before:
            return packet.pts >= -2 * length
        if packet.pts < 0 and -2 * packet.pts > length:
            return False
        packet.pts, packet.dts = max(packet.pts, 0), max(packet.dts, 0)
        return True

    def _until_truncated(self, packets: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from packets
        except self._av.FFmpegError as error:
            log.warning("%s: the sound is truncated (%s); the part before is used", self._file, error.strerror)


def _name(stream: Any) -> str:
    """The name of the format, whichever decoder reads it."""
    return stream.codec_context.name.removeprefix("lib").removesuffix("float")
