"""Write videos in parts that survive an interruption; each part is encoded separately and kept beside the output."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ..files import atomic_path, make_folder
from .encode import Encoding
from .sound import Sound
from .write import VideoWriter

log = logging.getLogger(__name__)

State = dict[str, NDArray[Any]]
"""State that is needed to resume: arrays by name."""
_FORMAT = "visionzoo video part 1"


class _Packet(NamedTuple):
    data: bytes
    time: int
    length: int
    is_key: bool


@dataclass(frozen=True)
class Reached:
    """How far a video has come at the end of a part.

    Attributes:
        windows: number of windows processed.
        given: number of frames that they gave.
        state: state of the step that makes the frames.
    """

    windows: int = 0
    given: int = 0
    state: State = field(default_factory=dict)


class PartedWriter(VideoWriter):
    """A `VideoWriter` that resumes after the frame given by `reached`; `end_part` saves what was written so far.

    The parts are in a hidden folder beside the output, `.NAME.parts`, as packets of the encoder, which restarts with each part.
    So an interrupted video is bit-identical to an uninterrupted one. The folder is deleted when the video is complete.

    Args:
        settings: everything that the frames depend on. Parts made with other settings are deleted.
        options: arguments of `VideoWriter`.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], **options: Any) -> None:
        super().__init__(path, **options)
        self.folder = self.path.with_name(f".{self.path.name}.parts")
        self.reached = Reached()
        about = [_FORMAT, self._av.__version__, vars(self._quality), str(self._tick), str(self.fps), dict(settings)]
        self._key = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()
        self._packets: list[_Packet] = []
        self._parts = 0

    def __enter__(self) -> Self:
        make_folder(self.folder)
        while (part := self._load(self._parts)) is not None:
            about, tensors = part
            self._parts += 1
            self._next, self.frames, self._size = about["next"], about["frames"], (about["height"], about["width"])
            state = {name.removeprefix("state."): value for name, value in tensors.items() if name.startswith("state.")}
            self.reached = Reached(about["windows"], about["given"], state)
        for file in self.folder.iterdir():  # made with other settings
            if file not in [self._part(number) for number in range(self._parts)]:
                file.unlink()
        self._temporary = self.path  # the parts are used instead
        return self

    def end_part(self, reached: Reached) -> None:
        """Save all frames written so far; work resumes from here after an interruption."""
        self._end_encoding()
        tensors: State = {
            "data": np.frombuffer(b"".join(packet.data for packet in self._packets), np.uint8),
            "size": np.array([len(packet.data) for packet in self._packets], np.int64),
            "time": np.array([packet.time for packet in self._packets], np.int64),
            "length": np.array([packet.length for packet in self._packets], np.int64),
            "is_key": np.array([packet.is_key for packet in self._packets], np.uint8),
            **{f"state.{name}": np.ascontiguousarray(value) for name, value in reached.state.items()},
        }
        about = {"key": self._key, "next": self._next, "frames": self.frames}
        about |= {"height": self._size[0], "width": self._size[1], "windows": reached.windows, "given": reached.given}
        from safetensors.numpy import save

        with atomic_path(self._part(self._parts)) as temporary:
            temporary.write_bytes(save(tensors, {"about": json.dumps(about)}))
        self._parts += 1
        self._packets, self.reached = [], reached

    def _part(self, number: int) -> Path:
        return self.folder / f"{number:06d}.part"

    def _load(self, number: int) -> tuple[dict[str, Any], State] | None:
        """Load a part; None if there is none with these settings."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(self._part(number)), "np") as file:
                about = json.loads(file.metadata()["about"])
                if about["key"] != self._key:
                    return None
                return about, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def _begin(self) -> Encoding:
        self._container = self._open(io.BytesIO())  # the header is discarded: only the packets are kept
        return Encoding(self._container, self.path, self._quality, self._size, self.fps, self._tick)

    def _take(self, packet: Any) -> None:
        self._packets.append(_Packet(bytes(packet), packet.pts, packet.duration or 0, packet.is_keyframe))

    def _end_encoding(self) -> None:
        if self._encoding is not None:
            with self._errors():
                for packet in self._encoding.flush():
                    self._take(packet)
            self._encoding = self._container = None

    def _finish(self) -> None:
        if not self.frames:
            super()._finish()  # raises the error
        with atomic_path(self.path) as temporary, self._errors():
            self._join(temporary)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _join(self, file: Path) -> None:
        """Join all parts into one file, with the sound."""
        times = np.concatenate([part["time"] for part in self._all_parts()])
        decoding = decoding_times(times)
        self._container = self._open(str(file))
        stream = Encoding(self._container, self.path, self._quality, self._size, self.fps, self._tick).stream
        if self._audio_from is not None:
            self._sound = Sound.into(self._container, self._audio_from, self._audio_start)
        number = 0
        for part in self._all_parts():
            data, place = part["data"].tobytes(), 0
            for size, time, length, is_key in zip(
                *(part[name] for name in ("size", "time", "length", "is_key")), strict=True
            ):
                packet = self._av.Packet(data[place : place + size])
                packet.pts, packet.dts, packet.duration = int(time), int(decoding[number]), int(length)
                packet.time_base, packet.is_keyframe, packet.stream = self._tick, bool(is_key), stream
                self._container.mux(packet)
                if self._sound is not None:
                    for sound in self._sound.packets_before(int(decoding[number]) * self._tick):
                        self._container.mux(sound)
                place, number = place + size, number + 1
        self._mux_sound()
        self._close_sound()
        self._container.close()
        self._container = None

    def _all_parts(self) -> Iterator[State]:
        for number in range(self._parts):
            part = self._load(number)
            if part is None:
                raise RuntimeError(f"{self._part(number)}: was deleted or changed while the video was written")
            yield part[1]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if kind is not None and self._parts:
            kept = f"the first {self.reached.given} frames of {self.path.name} are kept; run it again to resume"
            if issubclass(kind, KeyboardInterrupt):
                raise KeyboardInterrupt(f"interrupted; {kept}") from None
            log.warning("%s", kept)

    def _drop(self) -> None:
        super()._drop()
        self._encoding = self._container = None
        if not self._parts:
            shutil.rmtree(self.folder, ignore_errors=True)


def decoding_times(times: NDArray[np.int64]) -> NDArray[np.int64]:
    """Decoding times for packets in decoding order, from their display times (N,), in ticks.

    They increase by at least one tick and never exceed the display times, as containers require, also across parts.
    """
    shown = np.sort(times)
    delay = int(np.max(np.arange(len(times)) - np.searchsorted(shown, times), initial=0))
    return np.concatenate([shown[0] - np.arange(delay, 0, -1), shown])[: len(times)]
