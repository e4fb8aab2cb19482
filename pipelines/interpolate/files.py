"""Frame interpolation from video files to video files; an interrupted video resumes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

from visionzoo.errors import InputError
from visionzoo.io.video import Window, map_video, read_frames
from visionzoo.io.video.formats import keeps_times
from visionzoo.io.video.loop import file_identity
from visionzoo.jobs import FileJob, FileResult, Kind, Progress, write_sidecar
from visionzoo.registry import pipeline

from ...models.lovecon import CUT, frame_change
from .kinds import KINDS, check_video
from .pipeline import InterpolatePipeline, Pixels

PART_FRAMES = 24
"""Number of frames after which the finished part of a video is saved: a frame takes from 0.05 s to some seconds on a CPU."""


@dataclass
class InterpolateJob(FileJob):
    """Adds frames to videos with a pipeline.

    Attributes:
        factor: frames of the result for each frame of the video, from 2 to 32.
        fps: frame rate of the result, by default `factor` times that of the video. Another rate changes the speed, so the sound is
            left out.
        scale, cut: see `InterpolatePipeline.__call__`.
        batch_size: pairs of frames that the network sees at once.
    """

    kinds: ClassVar[tuple[Kind, ...]] = KINDS
    done: ClassVar[str] = "interpolated"

    pipe: InterpolatePipeline = field(repr=False)
    factor: int = 2
    fps: float | None = None
    scale: float = 1.0
    cut: float = CUT
    batch_size: int = 4

    def __post_init__(self) -> None:
        self.pipe.check_options(self.factor, self.scale, self.cut)
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise InputError(f"fps must be above 0 and at most 1000, got {self.fps:g}")
        if self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {self.batch_size}")
        self.gpus = self.pipe.gpus

    def convert(self, source: Path, target: Path, report: Progress) -> FileResult:
        """Interpolate a video. Times, and with unchanged speed the sound, are kept; the last frame is shown as long as before.

        Raises:
            InputError: the file is not a video, or has one frame.
        """
        started = time.monotonic()
        info = check_video(source)
        rate = (info.fps if keeps_times(target) else info.even_fps) * self.factor
        speed = Fraction(1) if self.fps is None else Fraction(self.fps).limit_denominator(1001) / rate
        if rate * speed > 1000:
            raise InputError(
                f"{source}: has {float(info.fps):g} frames a second, and {self.factor} times as many are too many for a "
                "video; choose a smaller factor, or the rate with fps"
            )
        facts = {**self.pipe.facts(), **self.facts()}
        made = map_video(
            _Moments(source, self.factor, speed),
            target,
            self._frames,
            window=self.factor * self.batch_size,
            fps=rate * speed,
            variable=info.is_variable,
            frames=(info.frames - 1) * self.factor + 1,
            sound=source if speed == 1 else False,
            settings={**facts, "source": file_identity(source)},
            part_frames=PART_FRAMES,
            overwrite=True,  # the plan has been checked
            progress=lambda done, of: report("frames", done, of),
        )
        seconds = round(time.monotonic() - started, 3)
        result = FileResult(str(source), str(target), made.width, made.height, made.frames, seconds)
        write_sidecar(target, {"result": result.to_dict()}, facts)
        return result

    def _frames(self, window: Window[_Moment]) -> Iterator[Pixels]:
        """The frames of some moments: those of the video itself, and the ones between."""
        pairs = [moment.pair for moment in window.items if moment.number == 0 and moment.pair[1] is not None]
        moving = [pair for pair in pairs if frame_change(*pair) <= self.cut]
        made = iter(self.pipe.between(moving, self.factor, self.scale, self.batch_size))
        between: list[Pixels] = []
        for moment in window.items:
            if moment.number == 0:
                moves = any(pair is moment.pair for pair in moving)
                between = next(made) if moves else [moment.pair[0]] * (self.factor - 1)
            yield moment.pair[0] if moment.number == 0 else between[moment.number - 1]

    def recipe(self) -> tuple[Any, dict[str, Any]]:
        return build_job, {"create": self.pipe.arguments(), "settings": {**self.facts(), "batch_size": self.batch_size}}

    def facts(self) -> dict[str, Any]:
        """Settings that results depend on."""
        return {"factor": self.factor, "fps": self.fps, "scale": self.scale, "cut": self.cut}


@dataclass(frozen=True)
class _Moment:
    """A frame of the result.

    Attributes:
        time, duration: when and how long it is shown, in seconds.
        pair: the frames of the video before and after it; None after the last one.
        number: 0 for the first of the pair itself, else the number of the new frame.
    """

    time: Fraction
    duration: Fraction
    pair: tuple[Pixels, Any]
    number: int


@dataclass(frozen=True)
class _Moments:
    """The moments of a video's result; two frames are in memory.

    Attributes:
        source: the video.
        factor: moments per frame.
        speed: of the result; below 1 is slow motion.
    """

    source: Path
    factor: int
    speed: Fraction

    def __iter__(self) -> Iterator[_Moment]:
        before = None
        for frame in read_frames(self.source):
            if before is not None:
                pair, step = (before.pixels, frame.pixels), (frame.time - before.time) / self.factor
                for number in range(self.factor):
                    yield _Moment((before.time + number * step) / self.speed, step / self.speed, pair, number)
            before = frame
        assert before is not None, "read_frames raises an error for a video without frames"
        yield _Moment(before.time / self.speed, before.duration / self.speed, (before.pixels, None), 0)


def build_job(create: dict[str, Any], settings: dict[str, Any]) -> InterpolateJob:
    """Makes the job in a process of a cluster."""
    return InterpolateJob(pipeline(**create), **settings)


__all__ = ["KINDS", "InterpolateJob"]
