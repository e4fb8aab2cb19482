"""Edits from files to files: frames, their times, the sound and the size of a video are kept, and interrupted work resumes."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visionzoo.config import configure
from visionzoo.errors import InputError, unknown
from visionzoo.io.tensor_file import TensorFile
from visionzoo.io.video import Frame, VideoInfo, VideoWriter, Window, map_video, probe, read_frames
from visionzoo.io.video.formats import keeps_times
from visionzoo.io.video.loop import file_identity
from visionzoo.io.video.read import logged_once
from visionzoo.jobs import FileJob, FileResult, Kind, Plan, Progress, check_result, resumable_folder, write_sidecar
from visionzoo.registry import pipeline
from visionzoo.watermark import add_label, add_watermark

from ...models.lovecon import Control, control, control_names
from .file_options import EditFileOptions
from .frame_files import FrameFiles
from .kinds import KINDS
from .options import EditOptions, check_kept
from .pipeline import LOVEConPipeline
from .source import resized
from .work import MASKS

__all__ = ["KINDS", "EditJob", "check_files", "write_control"]

Pixels = NDArray[np.uint8]

PART_FRAMES = 48
"""Number of frames after which the finished part of a video is saved."""


class EditJob(FileJob):
    """Edits video files with a pipeline.

    Args:
        pipe: the networks.
        options: how to edit.
        files: control, mask, size, and what else concerns files.
        **settings: fields of both, e.g. prompt="a girl with a blue shirt", control="hed".

    Raises:
        InputError: a setting that does not exist or has a wrong value, a file that does not exist, or no prompt.
    """

    kinds: ClassVar[tuple[Kind, ...]] = KINDS
    done: ClassVar[str] = "edited"

    def __init__(
        self,
        pipe: LOVEConPipeline,
        options: EditOptions | None = None,
        files: EditFileOptions | None = None,
        **settings: Any,
    ):
        names = {field.name for field in fields(EditFileOptions)}
        own = {name: value for name, value in settings.items() if name in names}
        others = {name: value for name, value in settings.items() if name not in names}
        if unknown := sorted(set(others) - {field.name for field in fields(EditOptions)}):
            raise InputError(f"an edit has no setting {unknown[0]!r}; see EditOptions and EditFileOptions")
        self.pipe = pipe
        self.options = configure(options, others) if options is not None else EditOptions(**others)
        self.files = configure(files or EditFileOptions(), own)
        check_files(self.files)
        check_kept(self.options, has_mask=self.files.mask is not None)
        self.reads = list(self._made_of())
        self.writes = [path for path in (self.files.save_mask, self.files.save_control) if path is not None]
        self.gpus = pipe.gpus
        self._detector: Control | None = None

    @property
    def most(self) -> int | None:
        """Number of frames that are edited at most; None for all."""
        limits = [self.files.frames, self.options.window if self.files.preview else None]
        return min((limit for limit in limits if limit is not None), default=None)

    def _made_of(self) -> Iterator[Path]:
        """The files of the control and the mask; those of a folder one by one."""
        for path in (self.files.mask, _file(self.files.control)):
            if path is not None:
                yield from sorted(path.iterdir()) if path.is_dir() else [path]

    def check(self, overwrite: bool) -> None:
        for path in self.writes:
            check_result(path, overwrite=overwrite)

    def convert(self, source: Path, target: Path, report: Progress) -> FileResult:
        """Edit a video. Work in progress is in hidden folders beside `target`, which are deleted at the end."""
        with logged_once():
            return self._convert(source, target, report)

    def _convert(self, source: Path, target: Path, report: Progress) -> FileResult:
        started, video = time.monotonic(), _Video(source, self.most)
        size = self.pipe.working_size(video.info.height, video.info.width, self.files.short_side)
        controls, masks = self._controls(source), self._masks(source)
        facts = {
            **self.pipe.facts(),
            **self.options.to_dict(),
            **self.files.to_dict(),
            "frames": self.most,
            "size": size,
        }
        settings = {**facts, "files": [file_identity(path) for path in (source, *self._made_of())]}
        key = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
        work = target.with_name(f".{target.name}.edit")
        with resumable_folder(work, key, keep=True, finished="*.rows*"):
            edited = self.pipe.stream(
                (resized(frame.pixels, size) for frame in video),
                self.options,
                control=controls,
                mask=masks,
                folder=work,
                source=key,
                progress=_with_total(report, len(video)),
            )
            made = map_video(
                video,
                target,
                _Edited(edited, self.files),
                fps=video.fps(target),
                variable=video.info.is_variable,
                frames=len(video),
                sound=source if self.files.sound else False,
                settings=settings,
                part_frames=PART_FRAMES,
                overwrite=True,  # the plan has been checked
            )
            if self.files.save_mask is not None:
                self._write_masks(work / MASKS, self.files.save_mask, video, (made.height, made.width))
        if self.files.save_control is not None:
            write_control(video, self._controls(source), self.files.save_control, size)
        seconds = round(time.monotonic() - started, 3)
        result = FileResult(str(source), str(target), made.width, made.height, made.frames, seconds)
        write_sidecar(target, {"result": result.to_dict()}, facts)
        return result

    def _controls(self, source: Path) -> Control | Iterable[Pixels]:
        how = self.files
        if (path := _file(how.control)) is not None:
            found = FrameFiles(path, "control frame", self.most)
            found.check_length(source, self.most)
            return found
        if self._detector is None:
            self._detector = control(
                how.control,
                thresholds=how.canny_thresholds,
                weights=how.control_weights,
                device=self.pipe.device,
            )
        return self._detector

    def _masks(self, source: Path) -> Any:
        if self.files.mask is None:
            return None
        found = FrameFiles(self.files.mask, "mask", self.most)
        if found.is_still:
            still = _as_mask(next(iter(found)))
            return lambda frame: still
        found.check_length(source, self.most)
        return map(_as_mask, found)

    def _write_masks(self, path: Path, target: Path, video: _Video, size: tuple[int, int]) -> None:
        """The masks as a video of grey frames, in the size of the output."""
        if not path.exists():
            warnings.warn(
                f"{target}: was not written, as this edit has no mask; name what to edit with --phrase", stacklevel=3
            )
            return
        masks = TensorFile(path)

        def frames() -> Iterator[Pixels]:
            for number in range(len(masks)):
                mask = Image.fromarray((255 * masks[number][0]).byte().numpy())
                large = np.asarray(mask.resize((size[1], size[0]), Image.Resampling.NEAREST))
                yield np.repeat(large[..., None], 3, 2)

        _write(video, frames(), target)

    def recipe(self) -> tuple[Any, dict[str, Any]]:
        return build_job, {"create": self.pipe.arguments(), "settings": {"options": self.options, "files": self.files}}


def build_job(create: dict[str, Any], settings: dict[str, Any]) -> EditJob:
    """Makes the job in a process of a cluster."""
    return EditJob(pipeline(**create), **settings)


def check_files(files: EditFileOptions, plan: Plan | None = None) -> None:
    """Raise `InputError` for a control, a mask or a single video that cannot be read, before weights are loaded."""
    if plan is not None and plan.single:
        probe(plan.pairs[0][0])
    if (path := _file(files.control)) is not None:
        FrameFiles(path, "control frame")
    elif files.control == "canny":
        control("canny", thresholds=files.canny_thresholds)
    if files.mask is not None:
        FrameFiles(files.mask, "mask")


def _file(name: str) -> Path | None:
    """The file of ready-made control frames; None for the name of a control."""
    if name in control_names():
        return None
    path = Path(name)
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path
    raise unknown("control", name, control_names())


class _Video:
    """The first frames of a file, which can be iterated more than once."""

    def __init__(self, path: Path, most: int | None):
        self.path, self.most = path, most
        self.info: VideoInfo = probe(path)

    def __iter__(self) -> Iterator[Frame]:
        return read_frames(self.path, stop=self.most)

    def __len__(self) -> int:
        return min(self.info.frames, self.info.frames if self.most is None else self.most)

    def fps(self, target: Path) -> Any:
        return self.info.fps if keeps_times(target) else self.info.even_fps


@dataclass
class _Edited:
    """The step of `map_video`: the next edited frames, in the size of the source, marked as synthetic."""

    frames: Iterator[Pixels]
    how: EditFileOptions
    given: int = 0

    def __call__(self, window: Window[Frame]) -> Iterator[Pixels]:
        while self.given < window.start:  # an earlier run has written them
            next(self.frames)
            self.given += 1
        for frame, edited in zip(window.items, self.frames, strict=False):
            self.given += 1
            if not self.how.working_size:
                edited = resized(edited, frame.pixels.shape[:2])
            if self.how.watermark:
                edited = add_watermark(edited)
            yield add_label(edited) if self.how.label else edited


def write_control(video: _Video, controls: Control | Iterable[Pixels], target: Path, size: tuple[int, int]) -> None:
    """Write the control frames of a video as a video, in this size (height, width)."""
    if isinstance(controls, Iterable):
        made = (resized(frame, size) for frame in controls)
    else:
        made = (controls(resized(frame.pixels, size)) for frame in video)
    _write(video, made, target)


def _write(video: _Video, frames: Iterable[Pixels], target: Path) -> None:
    """Write frames with the times of a video, and no sound."""
    with VideoWriter(target, fps=video.fps(target), variable=video.info.is_variable, overwrite=True) as writer:
        for frame, pixels in zip(video, frames, strict=False):
            writer.write(np.ascontiguousarray(pixels), time=frame.time, duration=frame.duration)


def _as_mask(frame: Pixels) -> NDArray[np.float32]:
    return frame.mean(-1, dtype=np.float32) / 255


def _with_total(report: Progress, total: int) -> Progress:
    """Progress that states how many frames are to be read."""
    return lambda what, done, of: report(what, done, of or max(total, done))
