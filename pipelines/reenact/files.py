"""Reenactment from files to files: videos with the driver's sound, one or many sources, pasted back or side by side."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from visionzoo.config import configure
from visionzoo.errors import InputError
from visionzoo.faces import paste_face
from visionzoo.io.video import Window, map_video, probe
from visionzoo.io.video.formats import keeps_times
from visionzoo.jobs import FileJob, FileResult, Kind, Progress, check_result, write_sidecar
from visionzoo.registry import pipeline
from visionzoo.watermark import add_label, add_watermark

from .kinds import KINDS
from .motion import Moment, Motion
from .options import ReenactOptions
from .pipeline import Pixels, Portrait, ReenactPipeline


class ReenactJob(FileJob):
    """Animates image files with one driver.

    Args:
        driving: a video, or a motion template.
        options: see `ReenactOptions`.
        save_motion: also write the driver's motion template here.
        motion: the driver's motion, if it is already known.
        **settings: fields of the options, e.g. view="whole".

    Raises:
        InputError: no driver, or a setting that does not exist.
    """

    kinds: ClassVar[tuple[Kind, ...]] = KINDS
    done: ClassVar[str] = "animated"

    def __init__(
        self,
        pipe: ReenactPipeline,
        driving: Path | str = "",
        options: ReenactOptions | None = None,
        save_motion: Path | str | None = None,
        motion: Motion | None = None,
        **settings: Any,
    ):
        if not str(driving):
            raise InputError("give the driving video, or a motion template")
        self.pipe, self.driving = pipe, Path(driving)
        self.reads = (self.driving,)
        self.options = configure(options or ReenactOptions(), settings)
        self.save_motion = None if save_motion is None else Path(save_motion)
        if self.save_motion is not None and self.save_motion.suffix != ".safetensors":
            raise InputError(f"{self.save_motion}: motion templates are written as .safetensors")
        self.writes = [] if self.save_motion is None else [self.save_motion]
        self._motion = motion
        self.gpus = pipe.gpus

    @property
    def template(self) -> bool:
        """Whether the driver is a template, without images and sound."""
        return self.driving.suffix == ".safetensors"

    def check(self, overwrite: bool) -> None:
        if self.save_motion is not None:
            check_result(self.save_motion, overwrite=overwrite)

    def prepare(self, report: Progress) -> None:
        """Find the driver's motion, which all sources share."""
        if self._motion is not None:
            return
        how = self.options
        motion = self.pipe.motion(
            self.driving,
            crop=how.crop_driving,
            face=how.face_driving,
            batch_size=how.batch_size,
            keep_crops=how.view == "side-by-side",
            progress=report,
        )
        if self.save_motion is not None:
            motion.save(self.save_motion)
        if len(motion) == 1 and how.mode == "relative":
            warnings.warn(
                f"{self.driving}: has one frame, so nothing moves; use --mode absolute to apply its pose",
                stacklevel=3,
            )
        self._motion = motion.smooth(how.smooth)

    def convert(self, source: Any, target: Path, report: Progress) -> FileResult:
        """Animate one image, whatever `load_image` takes, into a video file."""
        self.prepare(report)
        assert self._motion is not None
        started, motion, how = time.monotonic(), self._motion, self.options
        portrait = self.pipe.portrait(source, crop=how.crop, face=how.face)
        facts = {**self.pipe.facts(), **self.facts()}
        made = map_video(
            motion.moments(),
            target,
            _Animation(self, portrait, motion),
            window=how.batch_size,
            fps=motion.fps if keeps_times(target) else motion.even_fps,
            variable=motion.is_variable,
            frames=len(motion),
            sound=self.driving if how.sound and not self.template else False,
            settings={
                **facts,
                "portrait": _digest(portrait.crop, portrait.frame),
                "motion": _digest(motion.times, *(part.numpy() for part in motion.keypoints)),
            },
            overwrite=True,  # the plan has been checked
            progress=lambda done, of: report("frames", done, of),
        )
        seconds = round(time.monotonic() - started, 3)
        name = str(source) if isinstance(source, str | Path) else "image"
        result = FileResult(name, str(target), made.width, made.height, made.frames, seconds)
        write_sidecar(target, {"result": result.to_dict()}, facts)
        return result

    def recipe(self) -> tuple[Any, dict[str, Any]]:
        settings = {"driving": str(self.driving.absolute()), "options": self.options, "motion": self._motion}
        return build_job, {"create": self.pipe.arguments(), "settings": settings}

    def facts(self) -> dict[str, Any]:
        """Settings that results depend on."""
        return {"driving": str(self.driving), **self.options.to_dict()}


class _Animation:
    """Frames of one portrait, a batch at a time, as the video shows them."""

    def __init__(self, job: ReenactJob, portrait: Portrait, motion: Motion):
        how = job.options
        self._job, self._portrait, self._motion = job, portrait, motion
        self._rng = torch.Generator().manual_seed(how.seed)
        self._keypoints = job.pipe.transfer(
            portrait, motion, mode=how.mode, adapt_scale=how.adapt_scale, start=how.start
        )

    def __call__(self, window: Window[Moment]) -> Iterator[Pixels]:
        how, numbers = self._job.options, [moment.number for moment in window.items]
        frames = self._job.pipe.animate(
            self._portrait,
            self._keypoints.at(slice(numbers[0], numbers[-1] + 1)),
            batch_size=how.batch_size,
            noise=how.noise,
            rng=self._rng,
        )
        for number, frame in zip(numbers, frames, strict=True):
            frame = self._composed(number, frame)
            if how.watermark:
                frame = add_watermark(frame)
            yield add_label(frame) if how.label else frame

    def _composed(self, number: int, frame: Pixels) -> Pixels:
        """A frame as the selected view shows it."""
        portrait, view = self._portrait, self._job.options.view
        if view == "face":
            return frame
        if view == "whole":
            if portrait.box is not None:
                return paste_face(portrait.frame, frame, portrait.box)
            height, width = portrait.frame.shape[:2]
            return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))
        if self._job.template:
            return np.hstack([portrait.crop, frame])
        assert self._motion.crops is not None, "kept by `prepare`"
        return np.hstack([portrait.crop, self._motion.crops[number], frame])

    def get_state(self) -> dict[str, NDArray[np.uint8]]:
        return {"rng": self._rng.get_state().numpy()}

    def set_state(self, state: dict[str, NDArray[np.uint8]]) -> None:
        self._rng.set_state(torch.from_numpy(state["rng"].copy()))


def build_job(create: dict[str, Any], settings: dict[str, Any]) -> ReenactJob:
    """Makes the job in a process of a cluster."""
    return ReenactJob(pipeline(**create), **settings)


def _digest(*arrays: NDArray[Any]) -> str:
    """A digest that is the same for equal arrays, also in another process."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def check_driver(driving: Path) -> None:
    """Raise `InputError` for a driver that cannot be opened, before weights are loaded."""
    if driving.suffix == ".safetensors":
        Motion.load(driving)
    else:
        probe(driving)


__all__ = ["KINDS", "ReenactJob", "check_driver"]
