"""Colouring from files to files: frame times and sound of a video are kept, and interrupted work resumes with the next segment."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from visionzoo.config import configure
from visionzoo.errors import InputError
from visionzoo.io.image import load_image
from visionzoo.io.video import Window, map_video
from visionzoo.io.video.formats import keeps_times
from visionzoo.io.video.loop import file_identity
from visionzoo.io.video.read import logged_once
from visionzoo.jobs import FileJob, FileResult, Kind, Plan, Progress, resumable_folder, write_sidecar
from visionzoo.registry import pipeline
from visionzoo.watermark import add_label, add_watermark

from .clip import Clip, Moment
from .coloring import Coloring
from .file_options import ColorizeFileOptions
from .kinds import KINDS
from .options import ColorizeOptions
from .pipeline import LongAnimationPipeline
from .reading import SegmentReader
from .settings import settings_for
from .work import REACHED, Work

if TYPE_CHECKING:
    from ...models.longanimation import ClipSegment

__all__ = ["KINDS", "Arrived", "ColorizeJob", "check_files"]

Pixels = NDArray[np.uint8]

PART_FRAMES = 64
"""Number of frames after which the finished part of a video is saved."""


@dataclass(frozen=True)
class Arrived:
    """A segment that is finished.

    Attributes:
        number, count: which one, from 1, of how many.
        frames: (n, H, W, 3) that it writes.
        memory: what the memory holds now.
    """

    number: int
    count: int
    frames: Pixels
    memory: dict[str, int]


class ColorizeJob(FileJob):
    """Colours video files with a pipeline.

    Args:
        pipe: the networks.
        reference: an image in the colours that the videos get.
        options: how to colour.
        files: which frames, sound, and what else concerns files.
        on_segment: called with each segment when it is finished, first with those that an earlier run had finished.
        **settings: fields of both, e.g. prompt="a girl with a red shirt", preview=True.

    Raises:
        InputError: no reference, or one that cannot be read; a setting that does not exist or has a wrong value.
    """

    kinds: ClassVar[tuple[Kind, ...]] = KINDS
    done: ClassVar[str] = "coloured"

    def __init__(
        self,
        pipe: LongAnimationPipeline,
        reference: str | Path | None = None,
        options: ColorizeOptions | None = None,
        files: ColorizeFileOptions | None = None,
        *,
        on_segment: Callable[[Arrived], object] | None = None,
        **settings: Any,
    ):
        names = {one.name for one in fields(ColorizeFileOptions)}
        own = {name: value for name, value in settings.items() if name in names}
        others = {name: value for name, value in settings.items() if name not in names}
        if unknown := sorted(set(others) - {one.name for one in fields(ColorizeOptions)}):
            raise InputError(f"a colouring has no setting {unknown[0]!r}; see ColorizeOptions and ColorizeFileOptions")
        if reference is None:
            raise InputError("no reference: give an image in the colours that the video gets")
        self.pipe, self.reference, self.on_segment = pipe, Path(reference), on_segment
        self.options = configure(options or ColorizeOptions(), others)
        self.files = configure(files or ColorizeFileOptions(), own)
        drawn = self.files.reference_sketch
        self.image, self.drawn = load_image(self.reference), None if drawn is None else load_image(drawn)
        self.reads = [self.reference, *([] if drawn is None else [drawn])]
        self.gpus = pipe.gpus

    def convert(self, source: Path, target: Path, report: Progress) -> FileResult:
        """Colour a video. Work in progress is in hidden folders beside `target`, which are deleted at the end."""
        with logged_once():
            return self._convert(source, target, report)

    def _convert(self, source: Path, target: Path, report: Progress) -> FileResult:
        started = time.monotonic()
        clip = Clip.open(source, self.files.rate, self.pipe.config["fps"])
        moments, info = clip.moments(self.files.frames, report), clip.info
        chosen = settings_for(self.options, self.pipe.config, self.pipe.latent_frames)
        facts = {**self.pipe.facts(), **chosen.to_dict(), **self.files.to_dict()}
        facts |= {"reference": str(self.reference), "source_frames": len(moments)}
        settings = {**facts, "files": [*clip.identity(), *map(file_identity, self.reads)]}
        key = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
        folder = target.with_name(f".{target.name}.colorize")
        with resumable_folder(folder, key, keep=True, finished=REACHED):
            size = self.files.size_for(self.pipe, info.height, info.width)
            made = self._made(Work(folder), clip, len(moments), size, report)
            kept = made.kept
            shown = moments[kept.start : kept.stop]
            result = map_video(
                [Moment(one.time - shown[0].time, one.duration) for one in shown],
                target,
                _Shown(made, self.files),
                fps=info.fps if keeps_times(target) else info.even_fps,
                variable=info.is_variable,
                sound=clip.sound or False if self.files.sound else False,
                sound_start=shown[0].time,
                settings=settings,
                part_frames=PART_FRAMES,
                overwrite=True,  # the plan has been checked
            )
            seconds = round(time.monotonic() - started, 3)
            found = FileResult(str(source), str(target), result.width, result.height, result.frames, seconds)
            segments = [
                {"first": one.first, "last": one.last - 1, "memory": memory}
                for one, memory in zip(made.segments, made.work.reached.memory, strict=True)
            ]
            facts["size"] = [result.width, result.height]
            write_sidecar(target, {"result": found.to_dict(), "segments": segments}, facts)
        return found

    def _made(self, work: Work, clip: Clip, count: int, size: tuple[int, int] | None, report: Progress) -> _Made:
        """The frames of a video of `count` frames, after what earlier runs have finished."""
        made = _Made(self, work, clip, report)
        try:
            if work.done:
                made.coloring = self.pipe.resume(work.state, progress=made.step)
            else:
                made.coloring = self.pipe.begin(
                    self.image,
                    self.options,
                    frames=count,
                    size=size,
                    reference_sketch=self.drawn,
                    progress=made.step,
                )
        except InputError as error:
            raise type(error)(f"{clip.path}: {error}") from error
        return made

    def recipe(self) -> tuple[Any, dict[str, Any]]:
        sketch = self.files.reference_sketch
        files = replace(self.files, reference_sketch=sketch and sketch.absolute())
        settings = {"reference": str(self.reference.absolute()), "options": self.options, "files": files}
        return build_job, {"create": self.pipe.arguments(), "settings": settings}


class _Made:
    """The frames of a video: read from disk, then made."""

    coloring: Coloring

    def __init__(self, job: ColorizeJob, work: Work, clip: Clip, report: Progress):
        self.job, self.work, self.clip, self.report = job, work, clip, report

    @property
    def segments(self) -> tuple[ClipSegment, ...]:
        """The segments that are coloured."""
        return self.coloring.segments[:1] if self.job.files.preview else self.coloring.segments

    @property
    def kept(self) -> range:
        """The frames of the clip that are written."""
        return range(self.segments[0].first, self.segments[-1].last)

    def step(self, what: str, done: int, of: int) -> None:
        """Report the progress of the segment in work; `done` counts the steps of all segments."""
        steps = self.coloring.settings.steps
        self.report(f"segment {self.work.done + 1} of {len(self.segments)}", (done - 1) % steps + 1, steps)

    def frames(self, start: int) -> Iterator[Pixels]:
        """Frames (H, W, 3) from number `start` of those that are written."""
        for number, held in enumerate(self.work.reached.memory, start=1):
            self._tell(number, self.work.segment(number - 1), held)
        yield from self.work.frames(start)
        left = self.segments[self.work.done :]
        reader = SegmentReader(self.clip, left, self.coloring.size)
        for segment in left:
            given = reader.read(segment)
            frames = self._color(given)
            memory = asdict(self.coloring.memory)
            self.work.finish(frames, self.coloring.save, memory)
            self._tell(self.work.done, frames, memory)
            yield from frames

    def _tell(self, number: int, frames: Pixels, memory: dict[str, int]) -> None:
        """Show a finished segment to who wants to see it."""
        if self.job.on_segment is not None:
            self.job.on_segment(Arrived(number, len(self.segments), frames, memory))

    def _color(self, given: Pixels) -> Pixels:
        """The frames that a segment writes."""
        try:
            found = self.coloring.color(given)
        except InputError as error:
            raise type(error)(f"{self.clip.path}: {error}") from error
        assert found is not None  # jobs have no callbacks that could end a segment
        return found


@dataclass
class _Shown:
    """The step of `map_video`: the next frame, marked as synthetic."""

    made: _Made
    how: ColorizeFileOptions
    frames: Iterator[Pixels] | None = None

    def __call__(self, window: Window[Any]) -> Iterator[Pixels]:
        if self.frames is None:  # those before the window were written by an earlier run
            self.frames = self.made.frames(window.start)
        frame = next(self.frames)
        if self.how.watermark:
            frame = add_watermark(frame)
        yield add_label(frame) if self.how.label else frame


def build_job(create: dict[str, Any], settings: dict[str, Any]) -> ColorizeJob:
    """Makes the job in a process of a cluster."""
    return ColorizeJob(pipeline(**create), **settings)


def check_files(reference: Path, plan: Plan, files: ColorizeFileOptions) -> None:
    """Raise `InputError` for a reference or a single clip that cannot be read, before weights are loaded."""
    for image in (reference, files.reference_sketch):
        if image is not None:
            load_image(image)
    if plan.single:
        Clip.open(plan.pairs[0][0], files.rate)
