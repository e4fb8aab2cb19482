"""Reenactment from files to files: videos with the driver's sound, one or many sources, pasted back or side by side."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from visionzoo.config import configure
from visionzoo.errors import InputError
from visionzoo.faces import paste_face
from visionzoo.io.extensions import IMAGES, VIDEOS_WRITTEN
from visionzoo.io.video import VideoWriter, probe
from visionzoo.jobs import FileJob, FileResult, Kind, Progress, check_result, write_sidecar
from visionzoo.registry import pipeline
from visionzoo.watermark import add_label, add_watermark

from .motion import Motion
from .options import ReenactOptions
from .pipeline import Pixels, Portrait, ReenactPipeline

KINDS = (Kind("image", IMAGES, "video", VIDEOS_WRITTEN, ".mp4"),)


class ReenactJob(FileJob):
    """Animates image files with one driver.

    Args:
        driving: a video, or a motion template.
        options: see `ReenactOptions`.
        save_motion: also write the driver's motion template here.
        motion: the driver's, if it is known already.
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
        self.options = configure(options or ReenactOptions(), settings)
        self.save_motion = None if save_motion is None else Path(save_motion)
        if self.save_motion is not None and self.save_motion.suffix != ".safetensors":
            raise InputError(f"{self.save_motion}: motion templates are written as .safetensors")
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
                f"{self.driving}: has one frame, so nothing moves; --mode absolute takes its pose", stacklevel=3
            )
        self._motion = motion.even().smooth(how.smooth)

    def convert(self, source: Any, target: Path, report: Progress) -> FileResult:
        """Animate one image, whatever `load_image` takes, into a video file."""
        self.prepare(report)
        assert self._motion is not None
        started, motion, how = time.monotonic(), self._motion, self.options
        portrait = self.pipe.portrait(source, crop=how.crop, face=how.face)
        keypoints = self.pipe.transfer(portrait, motion, mode=how.mode, adapt_scale=how.adapt_scale, start=how.start)
        frames = self.pipe.animate(portrait, keypoints, batch_size=how.batch_size, noise=how.noise, seed=how.seed)
        sound = self.driving if how.sound and not self.template else None
        height = width = 0
        with VideoWriter(target, fps=motion.fps, audio_from=sound, overwrite=True) as writer:
            for frame in self._composed(portrait, frames, motion):
                if how.watermark:
                    frame = add_watermark(frame)
                if how.label:
                    frame = add_label(frame)
                height, width = frame.shape[:2]
                writer.write(frame)
                report("frames", writer.frames, len(motion))
        seconds = round(time.monotonic() - started, 3)
        name = str(source) if isinstance(source, str | Path) else "image"
        result = FileResult(name, str(target), width, height, writer.frames, seconds)
        write_sidecar(target, {"result": result.to_dict()}, {**self.pipe.facts(), **self.facts()})
        return result

    def _composed(self, portrait: Portrait, frames: Iterator[Pixels], motion: Motion) -> Iterator[Pixels]:
        """The frames as the video shows them."""
        view = self.options.view
        if view == "face":
            yield from frames
        elif view == "whole":
            height, width = portrait.frame.shape[:2]
            for frame in frames:
                if portrait.box is None:
                    yield np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))
                else:
                    yield paste_face(portrait.frame, frame, portrait.box)
        elif self.template:
            for frame in frames:
                yield np.hstack([portrait.crop, frame])
        else:
            assert motion.crops is not None, "kept by `prepare`"
            for driver, frame in zip(motion.crops, frames, strict=False):
                yield np.hstack([portrait.crop, driver, frame])

    def recipe(self) -> tuple[Any, dict[str, Any]]:
        settings = {"driving": str(self.driving.absolute()), "options": self.options, "motion": self._motion}
        return build_job, {"create": self.pipe.arguments(), "settings": settings}

    def facts(self) -> dict[str, Any]:
        """Settings that results depend on."""
        return {"driving": str(self.driving), **self.options.to_dict()}


def build_job(create: dict[str, Any], settings: dict[str, Any]) -> ReenactJob:
    """The job in a process of a cluster."""
    return ReenactJob(pipeline(**create), **settings)


def check_driver(driving: Path) -> None:
    """Raise `InputError` for a driver that cannot be opened, before weights are loaded."""
    if driving.suffix == ".safetensors":
        Motion.load(driving)
    else:
        probe(driving)


__all__ = ["KINDS", "ReenactJob", "check_driver"]
