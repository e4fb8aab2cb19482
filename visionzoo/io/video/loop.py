"""Map a video to a video, by frames or overlapping windows of frames; an interrupted job resumes."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from .formats import keeps_times
from .parts import PartedWriter, Reached, State
from .probe import probe
from .read import read_frames

__all__ = ["MappedVideo", "Stateful", "Timed", "Window", "file_identity", "map_video", "windows"]

log = logging.getLogger(__name__)


class Timed(Protocol):
    """Something with a display time: a `Frame`, or an object used instead of one."""

    @property
    def time(self) -> Fraction | float:
        """When it is shown, in seconds from the start."""
        ...

    @property
    def duration(self) -> Fraction | float:
        """How long it is shown, in seconds."""
        ...


Item = TypeVar("Item", bound=Timed)


@dataclass(frozen=True)
class Window(Generic[Item]):
    """Consecutive frames.

    Attributes:
        items: the frames, `window` of `map_video`; the last window may have fewer.
        start: number of the first frame in the video, from 0.
        overlap: how many frames at the beginning were also at the end of the previous window.
        is_last: whether this is the last window of the video.
    """

    items: Sequence[Item]
    start: int
    overlap: int
    is_last: bool


@runtime_checkable
class Stateful(Protocol):
    """A step with state; the state is saved with finished parts, so that an interrupted job resumes exactly."""

    def get_state(self) -> State:
        """The state as arrays by name."""
        ...

    def set_state(self, state: State) -> None:
        """Restore the state that `get_state` returned."""
        ...


@dataclass(frozen=True)
class MappedVideo:
    """A video that was written.

    Attributes:
        width, height, frames: size in pixels and number of frames.
        fps: frames a second; the mean if the rate varies.
        resumed: number of frames that an earlier, interrupted run had finished.
    """

    width: int
    height: int
    frames: int
    fps: Fraction
    resumed: int


def map_video(
    source: str | os.PathLike[str] | Iterable[Item],
    target: str | os.PathLike[str],
    step: Callable[[Window[Any]], Iterable[NDArray[np.uint8]]],
    *,
    window: int = 1,
    stride: int | None = None,
    fps: Fraction | None = None,
    variable: bool | None = None,
    frames: int | None = None,
    sound: bool | str | os.PathLike[str] = True,
    sound_start: Fraction = Fraction(0),
    settings: Mapping[str, Any] | None = None,
    part_frames: int = 100,
    progress: Callable[[int, int], object] | None = None,
    overwrite: bool = False,
    **encoding: Any,
) -> MappedVideo:
    """Make a video from a video, frame by frame or in windows; frame times and sound are kept, and one window is in memory.

    Each frame independently, in batches of 8:

        def brighter(window: Window[Frame]) -> Iterator[np.ndarray]:
            for frame in window.items:
                yield 255 - (255 - frame.pixels) // 2

        map_video("in.mov", "out.mp4", brighter, window=8)

    Windows of 16 frames that overlap by 4, blended by the caller, who holds back the last 4 results:

        map_video("in.mov", "out.mp4", Edit(), window=16, stride=12)

    Args:
        source: a video; or an iterable of objects with a `time` and a `duration`, the same in every iteration. Then give
            `fps`.
        target: the output video; for its extension see `VideoWriter`.
        step: called with one window after the other; returns or yields the next finished frames, (H, W, 3) uint8 RGB, all of
            the same size, in order. It may delay frames, but must give as many as went in. Output frame n is shown at the
            time of input frame n. If it is `Stateful`, its state is saved with each part.
        window: number of frames in a window.
        stride: number of frames from the start of a window to the next; None: `window`, without overlap.
        fps: frames per second; None: those of the source.
        variable: keep a variable frame rate if the container can, see `VideoWriter`; None: if the source has one.
        frames: expected number of frames, for `progress`; None: that of the source.
        sound: whether to keep the sound of the source; or a file to take the sound from.
        sound_start: seconds of the sound that are left out at the beginning, if frames are left out there.
        settings: everything else that the frames depend on (options, weights), as JSON values. An interrupted job resumes
            only if settings and source are unchanged.
        part_frames: number of frames after which the work so far is saved, in a folder beside `target` that is removed at
            the end.
        progress: called with the number of finished frames and the total. An error that it raises cancels the job.
        overwrite: replace an existing file.
        encoding: `crf`, `lossless` and `codec` of `VideoWriter`.

    Raises:
        InputError: the source cannot be read, or the target cannot be written.
        ValueError: `step` gives more or fewer frames than went in.
    """
    stride = window if stride is None else stride
    if window < 1 or not 1 <= stride <= window:
        raise InputError(f"window must be at least 1 and stride must be from 1 to window, got {window} and {stride}")
    if part_frames < 1:
        raise InputError(f"part_frames must be at least 1, got {part_frames}")
    about: dict[str, Any] = {"window": window, "stride": stride, "part_frames": part_frames, "settings": settings}
    items: Iterable[Any]
    if isinstance(source, str | os.PathLike):
        info, path = probe(source), Path(source)
        variable = info.is_variable if variable is None else variable
        if fps is None:
            fps = info.fps if keeps_times(target) else info.even_fps
        frames, items = info.frames if frames is None else frames, read_frames(path)
        about["source"] = file_identity(path)
    else:
        if fps is None:
            raise InputError("fps is required if the frames do not come from a file")
        items, path = source, None
    audio = path if sound is True else None if sound is False else Path(sound)
    writer = PartedWriter(
        Path(target),
        {**about, "sound": audio and [*file_identity(audio), str(sound_start)]},
        fps=fps,
        variable=bool(variable),
        audio_from=audio,
        audio_start=sound_start,
        overwrite=overwrite,
        **encoding,
    )
    with writer:
        resumed = _run(items, writer, step, window, stride, part_frames, frames or 0, progress)
    return MappedVideo(*writer.size, writer.frames, writer.fps, resumed)


def _run(
    items: Iterable[Timed],
    writer: PartedWriter,
    step: Callable[[Window[Any]], Iterable[NDArray[np.uint8]]],
    window: int,
    stride: int,
    part_frames: int,
    total: int,
    progress: Callable[[int, int], object] | None,
) -> int:
    """Return the number of frames that were finished already."""
    reached = writer.reached
    given = resumed = reached.given
    done = reached.windows
    memory = _memory(step)
    if resumed:
        log.info("%s: resuming after frame %d", writer.path, resumed)
        if memory is not None:
            memory.set_state(reached.state)
    waiting: deque[tuple[Fraction | float, Fraction | float]] = deque()

    def watched() -> Iterator[Timed]:
        for number, item in enumerate(items):
            if number >= resumed:
                waiting.append((item.time, item.duration))
            yield item

    for part in windows(watched(), window, stride, first=done):
        for pixels in step(part):
            if not waiting:
                raise ValueError(f"{writer.path}: more frames came out than the {given} that went in")
            time, duration = waiting.popleft()
            writer.write(pixels, time=time, duration=duration)
            given += 1
            if progress is not None:
                progress(given, max(total, given))
        done += 1
        if given - writer.reached.given >= part_frames:
            writer.end_part(Reached(done, given, {} if memory is None else memory.get_state()))
    if waiting:
        raise ValueError(f"{writer.path}: {given} frames came out, but {given + len(waiting)} went in")
    if given > writer.reached.given:
        writer.end_part(Reached(done, given))
    return resumed


def _memory(step: object) -> Stateful | None:
    return step if isinstance(step, Stateful) else None


def windows(items: Iterable[Item], length: int, stride: int, *, first: int = 0) -> Iterator[Window[Item]]:
    """Windows of `length` items, each beginning `stride` items after the one before; the last may be shorter.

    Args:
        first: number of the window to start with; earlier items are skipped.
    """
    source, start = iter(items), first * stride
    inside = list(islice(source, start, start + length))
    overlap = length - stride if first else 0
    while len(inside) > overlap:
        following = list(islice(source, 1))
        yield Window(tuple(inside), start, overlap, not following)
        if not following:
            return
        inside = [*inside[stride:], *following]
        inside += islice(source, length - len(inside))
        start, overlap = start + stride, length - stride


def file_identity(file: Path) -> list[Any]:
    """What tells a file from another one, or from an earlier one of that name, as JSON values."""
    status = file.stat()
    return [str(file.absolute()), status.st_size, status.st_mtime_ns]
