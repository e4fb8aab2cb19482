"""Videos from files to files: an image or a video is continued by actions, and interrupted work resumes with the next chunk."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from visionzoo.config import configure
from visionzoo.diffusion import check_frame_size, check_words
from visionzoo.errors import InputError
from visionzoo.io.video import Window, map_video, probe
from visionzoo.io.video.loop import file_identity
from visionzoo.jobs import FileJob, FileResult, Kind, Progress, resumable_folder, write_sidecar
from visionzoo.registry import pipeline
from visionzoo.watermark import add_label, add_watermark

from .actions import check_actions
from .file_options import GenerateFileOptions
from .generation import Generation
from .kinds import KINDS
from .options import GenerateOptions
from .pipeline import SlowFastVGenPipeline
from .saved_episode import check_place, is_episode
from .settings import settings_for
from .source import is_video
from .work import REACHED, Work

__all__ = ["KINDS", "GenerateJob"]

Pixels = NDArray[np.uint8]

PART_FRAMES = 64
"""Number of frames after which the finished part of a video is saved."""


class GenerateJob(FileJob):
    """Continues images and videos, and saved episodes, by actions.

    Args:
        pipe: the networks.
        actions: one for each chunk.
        options: how to generate.
        files: size, rate, memory, and what else concerns files.
        **settings: fields of both, e.g. steps=20, fit="stretch".

    Raises:
        InputError: no actions, one that the model does not know, or a setting that does not exist or has a wrong value.
    """

    kinds: ClassVar[tuple[Kind, ...]] = KINDS
    done: ClassVar[str] = "continued"

    def __init__(
        self,
        pipe: SlowFastVGenPipeline,
        actions: Sequence[str] = (),
        options: GenerateOptions | None = None,
        files: GenerateFileOptions | None = None,
        **settings: Any,
    ):
        names = {one.name for one in fields(GenerateFileOptions)}
        own = {name: value for name, value in settings.items() if name in names}
        others = {name: value for name, value in settings.items() if name not in names}
        if unknown := sorted(set(others) - {one.name for one in fields(GenerateOptions)}):
            raise InputError(f"a video has no setting {unknown[0]!r}; see GenerateOptions and GenerateFileOptions")
        self.pipe = pipe
        self.actions = check_actions([actions] if isinstance(actions, str) else actions, pipe.actions)
        for action in self.actions:
            check_words(pipe.tokenizer, action)
        self.options = configure(options or GenerateOptions(), others)
        self.files = configure(files or GenerateFileOptions(), own)
        self.settings = settings_for(self.options, pipe.config)
        width, height = self.files.size or pipe.frame_size[::-1]
        self.size = height, width
        check_frame_size(pipe.vae, height, width)
        self.gpus = pipe.gpus

    def check(self, overwrite: bool) -> None:
        del overwrite
        if self.files.memory is not None:
            check_place(self.files.memory)

    def convert(self, source: Path, target: Path, report: Progress) -> FileResult:
        """Write a video. Work in progress is in hidden folders beside `target`, which are deleted at the end.

        Args:
            source: an image, a video, or the folder of a saved episode, which is continued from its last frames.
        """
        started = time.monotonic()
        self.check(overwrite=True)
        facts = {**self.pipe.facts(), **self.settings.to_dict(), **self.files.to_dict()}
        facts |= {"actions": self.actions, "size": list(self.size[::-1])}
        kept = self.files.memory if self.files.memory is not None and is_episode(self.files.memory) else None
        read = [] if source.is_dir() else [source]
        read += [] if kept is None else sorted(path for path in kept.rglob("*") if path.is_file())
        settings = {**facts, "files": [file_identity(path) for path in read]}
        key = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
        folder = target.with_name(f".{target.name}.generate")
        fps = self._fps(source)
        with resumable_folder(folder, key, keep=True, finished=REACHED):
            channels = self.pipe.vae.config["latent_channels"]
            row = (channels, *(side // self.pipe.factor for side in self.size))
            with Work(folder, row, self.settings.frames_per_chunk) as work:
                video = self._begin(source, kept, work, report)
                made = _Made(self.pipe, video, self.actions, work, report)
                assert work.reached is not None
                first = 0 if self.files.show_source else work.reached.given
                last = work.reached.given + len(self.actions) * self.settings.frames_per_chunk
                result = map_video(
                    _moments(last - first, fps),
                    target,
                    _Shown(made, first, self.files),
                    fps=fps,
                    sound=False,
                    settings=settings,
                    part_frames=PART_FRAMES,
                    overwrite=True,  # the plan has been checked
                )
                if self.files.memory is not None:
                    video.save(self.files.memory)
        seconds = round(time.monotonic() - started, 3)
        found = FileResult(str(source), str(target), result.width, result.height, result.frames, seconds)
        learned = {"fast_learning": work.reached.losses}
        write_sidecar(target, {"result": found.to_dict(), **learned}, facts)
        return found

    def _fps(self, source: Path) -> Fraction:
        if self.files.fps is not None:
            return Fraction(self.files.fps).limit_denominator(1001)
        if not source.is_dir() and is_video(source):
            return probe(source).even_fps
        return Fraction(self.pipe.config["fps"]).limit_denominator(1001)

    def _begin(self, source: Path, kept: Path | None, work: Work, report: Progress) -> Generation:
        """The video after what earlier runs have finished, or after its source."""
        if work.reached is not None:
            return self.pipe.begin(None, self.options, episode=work.episode)
        video = self.pipe.begin(
            None if source.is_dir() else source,
            self.options,
            episode=kept,
            size=self.size,
            fit=self.files.fit,
            progress=report,
            on_given=work.rows.append,
        )
        if video.past is not None and tuple(video.past.shape[2:]) != work.rows.row[1:]:
            height, width = (side * self.pipe.factor for side in video.past.shape[2:])
            raise InputError(
                f"{kept}: the episode has frames of {width} x {height} pixels, not {self.size[1]} x {self.size[0]}; add --size "
                f"{width}x{height}"
            )
        work.source_read(video)
        return video

    def recipe(self) -> tuple[Any, dict[str, Any]]:
        settings = {"actions": self.actions, "options": self.options, "files": self.files}
        return build_job, {"create": self.pipe.arguments(), "settings": settings}


@dataclass
class _Made:
    """The frames of a video: decoded from what is on disk, then made."""

    pipe: SlowFastVGenPipeline
    video: Generation
    actions: Sequence[str]
    work: Work
    report: Progress

    def frames(self, start: int) -> Iterator[Pixels]:
        """Frames (H, W, 3) from number `start` on."""
        batch_size = self.video.settings.batch_size
        for first, after in self.work.parts(start, batch_size):
            decoded = self.pipe.decode(self.work.rows[first:after], batch_size)
            yield from islice(decoded, max(0, start - first), None)
        assert self.work.reached is not None
        left = self.actions[self.work.reached.chunks :]
        self.video.tick = self.pipe.counter("generating", len(left) * self.video.settings.steps, self.report)
        for action in left:
            chunk = self.video.take(action)
            assert chunk is not None  # jobs have no callbacks that could end a chunk
            self.work.chunk_made(chunk, self.video)
            yield from chunk.frames


@dataclass
class _Shown:
    """The step of `map_video`: the next frame, marked as synthetic."""

    made: _Made
    first: int
    how: GenerateFileOptions
    frames: Iterator[Pixels] | None = None

    def __call__(self, window: Window[Any]) -> Iterator[Pixels]:
        if self.frames is None:  # those before the window were written by an earlier run
            self.frames = self.made.frames(self.first + window.start)
        frame = next(self.frames)
        if self.how.watermark:
            frame = add_watermark(frame)
        yield add_label(frame) if self.how.label else frame


@dataclass(frozen=True)
class _Moment:
    """When a frame is shown."""

    time: Fraction
    duration: Fraction


def _moments(count: int, fps: Fraction) -> list[_Moment]:
    return [_Moment(number / fps, 1 / fps) for number in range(count)]


def build_job(create: dict[str, Any], settings: dict[str, Any]) -> GenerateJob:
    """Makes the job in a process of a cluster."""
    return GenerateJob(pipeline(**create), **settings)
